//! Columns of one tensor added to another.

/// `x += from[.., at .. at + cols]`, where `x` is rows × `cols` and `from` rows × `from_cols`.
pub fn add(x: &mut [f32], cols: usize, from: &[f32], from_cols: usize, at: usize) {
    for (x, from) in x.chunks_exact_mut(cols).zip(from.chunks_exact(from_cols)) {
        x.iter_mut().zip(&from[at..]).for_each(|(x, from)| *x += from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_from_one_on_are_added_row_by_row() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        add(&mut x, 2, &[9.0, 10.0, 20.0, 9.0, 9.0, 30.0, 40.0, 9.0], 4, 1);
        assert_eq!(x, [11.0, 22.0, 33.0, 44.0]);
    }
}
