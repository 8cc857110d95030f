//! `rope` against the reference, positions out of order and with dimensions that do not turn.

use interleaf_contract::{Batch, Op, RopeTable, Row, RowKind};
use interleaf_tests::backends;
use interleaf_tests::data::Random;
use interleaf_tests::lora::unread_pages;
use interleaf_tests::single;
use interleaf_tests::tolerance::error;

#[test]
fn heads_turn_by_their_rows_position() {
    let mut random = Random::new(3);
    for (heads, dim, rotary) in [(1, 2, 2), (3, 64, 64), (2, 96, 48), (4, 10, 6)] {
        let positions: Vec<u32> = vec![0, 1, 7, 200, 13];
        let angles: Vec<f32> = random.values(256 * rotary / 2).iter().map(|v| v * 40.0).collect();
        let table = RopeTable {
            rotary_dim: rotary,
            positions: 256,
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
        };
        let row = |(i, &position): (usize, &u32)| Row {
            token: 0,
            position,
            sequence: i as u32,
            adapter: -1,
            kind: RowKind::Prompt,
        };
        let sequence = || unread_pages(16);
        let batch = Batch {
            rows: positions.iter().enumerate().map(row).collect(),
            sequences: positions.iter().map(|_| sequence()).collect(),
            ..Batch::default()
        };
        let cols = heads * dim;
        let x = random.values(positions.len() * cols);
        let mut results = Vec::new();
        for mut backend in backends::reference_and_others() {
            let table = backend.create_rope(table.clone()).expect("a table");
            let output = single::run(&mut *backend, batch.clone(), &[(cols as u32, x.clone())], |step, t| {
                step.push(Op::Rope { x: t[0], head_dim: dim as u32, table });
                vec![t[0]]
            });
            results.push(output.expect("rope runs").probes.remove(0));
        }
        for found in &results[1..] {
            // Two products and a sum of values up to 1.
            assert!(error(&results[0], found).max_abs <= 3.0 * f64::from(f32::EPSILON));
            for (row, (found, x)) in found.chunks(dim).zip(x.chunks(dim)).enumerate() {
                assert_eq!(found[rotary..], x[rotary..], "head {row}: dimensions past rotary_dim stay");
            }
        }
    }
}
