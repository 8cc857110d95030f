//! `softcap` against the reference, in place.

use interleaf_contract::{Batch, Op, RowKind};
use interleaf_tests::backends;
use interleaf_tests::data::Random;
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::single;

#[test]
fn values_of_every_size() {
    let (n, cols) = (3, 1500);
    let mut x: Vec<f32> = Random::new(9).values(n * cols).iter().map(|v| 100.0 * v).collect();
    x[..4].copy_from_slice(&[0.0, 1e-6, 1e30, -1e30]);
    let batch = Batch {
        rows: rows(&vec![(RowKind::Prompt, -1); n]),
        sequences: (0..n).map(|_| one_page()).collect(),
        ..Batch::default()
    };
    for cap in [0.5, 30.0] {
        let mut results = Vec::new();
        for mut backend in backends::reference_and_others() {
            let inputs = [(cols as u32, x.clone())];
            let output = single::run(&mut *backend, batch.clone(), &inputs, |step, t| {
                step.push(Op::Softcap { x: t[0], cap });
                vec![t[0]]
            });
            results.push(output.expect("softcap runs").probes.remove(0));
        }
        for found in &results[1..] {
            for (r, f) in results[0].iter().zip(found) {
                assert!((r - f).abs() <= 8.0 * f32::EPSILON * r.abs(), "{f}, reference {r}");
            }
        }
    }
}
