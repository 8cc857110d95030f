//! Rotary position embedding (Su et al. 2021) in the rotate-half form.

use interleaf_contract::RopeTable;

/// Rotates every head of every row in place. `x` is rows × (heads · head_dim), `positions` one per row.
///
/// The pair `(x[i], x[i + rotary_dim/2])` turns by the angle of `(position, i)`; dimensions from
/// `rotary_dim` on stay.
pub fn rope(x: &mut [f32], head_dim: usize, positions: &[u32], table: &RopeTable) {
    turn(x, head_dim, positions, table, 1.0);
}

/// Turns back what [`rope`] turned, up to rounding.
pub fn unrope(x: &mut [f32], head_dim: usize, positions: &[u32], table: &RopeTable) {
    turn(x, head_dim, positions, table, -1.0);
}

fn turn(x: &mut [f32], head_dim: usize, positions: &[u32], table: &RopeTable, direction: f64) {
    if positions.is_empty() || x.is_empty() {
        return;
    }
    let half = table.rotary_dim / 2;
    let cols = x.len() / positions.len();
    for (row, &position) in x.chunks_exact_mut(cols).zip(positions) {
        let angles = position as usize * half..(position as usize + 1) * half;
        let (cos, sin) = (&table.cos[angles.clone()], &table.sin[angles]);
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
                let (c, s) = (f64::from(cos[i]), direction * f64::from(sin[i]));
                head[i] = (a * c - b * s) as f32;
                head[i + half] = (b * c + a * s) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_halves_and_leaves_the_rest() {
        let table = RopeTable { rotary_dim: 2, positions: 2, cos: vec![1.0, 0.0], sin: vec![0.0, 1.0] };
        let mut x = [1.0, 2.0, 9.0, 1.0, 2.0, 9.0];
        rope(&mut x, 3, &[0, 1], &table);
        assert_eq!(x, [1.0, 2.0, 9.0, -2.0, 1.0, 9.0]);
        unrope(&mut x, 3, &[0, 1], &table);
        assert_eq!(x, [1.0, 2.0, 9.0, 1.0, 2.0, 9.0]);
    }
}
