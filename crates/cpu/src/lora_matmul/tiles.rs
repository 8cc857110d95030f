//! Rows in tiles of powers of two, so that each size of tile is compiled once.

/// A tile of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Its first row.
    pub first: usize,
    /// Its rows: a power of two.
    pub rows: usize,
}

/// Tiles of at most `most` rows (a power of two), then smaller ones for the rest.
pub fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Tile> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = rows - first;
        let size = if left >= most { most } else { 1 << left.checked_ilog2()? };
        let tile = Tile { first, rows: size };
        first += size;
        Some(tile)
    })
}

/// The tile that a row is in.
pub fn tile_of(row: usize, rows: usize, most: usize) -> Tile {
    let whole = rows / most * most;
    if row < whole {
        return Tile { first: row / most * most, rows: most };
    }
    let mut first = whole;
    loop {
        let size = 1 << (rows - first).ilog2();
        if row < first + size {
            return Tile { first, rows: size };
        }
        first += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once() {
        for most in [1, 4, 8, 16] {
            for rows in 0..70 {
                let mut next = 0;
                for tile in tiles(rows, most) {
                    assert!(tile.first == next && tile.rows.is_power_of_two() && tile.rows <= most);
                    for row in tile.first..tile.first + tile.rows {
                        assert_eq!(tile_of(row, rows, most), tile);
                    }
                    next += tile.rows;
                }
                assert_eq!(next, rows);
            }
        }
    }
}
