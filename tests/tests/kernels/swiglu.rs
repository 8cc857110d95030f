//! `swiglu` against the reference, both activations, tails included.

use interleaf_contract::{Activation, Batch, Op, RowKind, RowSet};
use interleaf_tests::backends;
use interleaf_tests::data::Random;
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::single;

#[test]
fn both_activations() {
    let mut random = Random::new(4);
    for (n, cols) in [(1, 1), (3, 4097), (7, 97)] {
        let mut gate: Vec<f32> = random.values(n * cols).iter().map(|v| 12.0 * v).collect();
        gate[0] = -90.0;
        let up = random.values(n * cols);
        let batch = Batch {
            rows: rows(&vec![(RowKind::Prompt, -1); n]),
            sequences: (0..n).map(|_| one_page()).collect(),
            ..Batch::default()
        };
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for in_place in [false, true] {
                let mut results = Vec::new();
                for mut backend in backends::reference_and_others() {
                    let inputs = [(cols as u32, gate.clone()), (cols as u32, up.clone())];
                    let output = single::run(&mut *backend, batch.clone(), &inputs, |step, t| {
                        let out = if in_place { t[0] } else { step.tensor(RowSet::All, cols as u32) };
                        step.push(Op::SwiGlu { activation, gate: t[0], up: t[1], out });
                        vec![out]
                    });
                    results.push(output.expect("swiglu runs").probes.remove(0));
                }
                for found in &results[1..] {
                    for ((r, f), g) in results[0].iter().zip(found).zip(&gate) {
                        // A few roundings of the product, and of 1 + tanh where they cancel.
                        let bound = 16.0 * f32::EPSILON * (r.abs() + 0.01 * g.abs());
                        assert!((r - f).abs() <= bound, "{activation:?} of {g}: {f}, reference {r}");
                    }
                }
            }
        }
    }
}
