//! `rms_norm` against the reference: residual, head form, in place, output rows only.

use interleaf_contract::{Batch, Op, Output, RowKind, RowSet};
use interleaf_tests::backends;
use interleaf_tests::data::Random;
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::single;
use interleaf_tests::tolerance::error;

fn batch(n: usize, outputs: &[u32]) -> Batch {
    Batch {
        rows: rows(&vec![(RowKind::Prompt, -1); n]),
        sequences: (0..n).map(|_| one_page()).collect(),
        outputs: outputs.iter().map(|&row| Output { row, sampler: None }).collect(),
        ..Batch::default()
    }
}

#[test]
fn every_form() {
    let mut random = Random::new(1);
    for (cols, heads, add, in_place) in [
        (256, 1, false, false),
        (1, 1, true, false),
        (97, 1, true, false),
        (128, 4, false, true),
        (64, 2, true, true),
    ] {
        for n in [0, 1, 5, 33] {
            let x = random.values(n * cols);
            let delta = random.values(n * cols);
            let weight = random.values(cols / heads);
            let mut results = Vec::new();
            for mut backend in backends::reference_and_others() {
                let weight = backend.create_vector("weight", &weight).expect("a vector");
                let inputs = [(cols as u32, x.clone()), (cols as u32, delta.clone())];
                let output = single::run(&mut *backend, batch(n, &[]), &inputs, |step, t| {
                    let out = if in_place { t[0] } else { step.tensor(RowSet::All, cols as u32) };
                    let add = add.then_some(t[1]);
                    step.push(Op::RmsNorm { x: t[0], add, weight, epsilon: 1e-5, heads: heads as u32, out });
                    vec![out, t[0]]
                });
                results.push(output.expect("the norm runs").probes);
            }
            let found = results[1..].iter().flatten();
            for (reference, found) in results[0].iter().cycle().zip(found) {
                // A mean of squares and four roundings.
                let bound = f64::from(f32::EPSILON) * (cols as f64 / 8.0 + 16.0);
                let largest = reference.iter().fold(1.0f64, |m, v| m.max(f64::from(v.abs())));
                assert!(error(reference, found).max_abs <= bound * largest, "{cols} columns, {heads} heads");
            }
        }
    }
}

#[test]
fn output_rows_are_packed() {
    let mut random = Random::new(2);
    let (n, cols) = (6, 40);
    let (x, delta) = (random.values(n * cols), random.values(n * cols));
    let weight = random.values(cols);
    for mut backend in backends::reference_and_others() {
        for (heads, add) in [(1, false), (1, true), (5, false), (5, true)] {
            let weight = backend.create_vector("weight", &weight[..cols / heads]).expect("a vector");
            let inputs = [(cols as u32, x.clone()), (cols as u32, delta.clone())];
            let output = single::run(&mut *backend, batch(n, &[1, 4]), &inputs, |step, t| {
                let (all, packed) =
                    (step.tensor(RowSet::All, cols as u32), step.tensor(RowSet::Outputs, cols as u32));
                // Every row is summed in place, whichever are normed.
                for (out, add) in [(packed, add.then_some(t[1])), (all, None)] {
                    let (x, heads) = (t[0], heads as u32);
                    step.push(Op::RmsNorm { x, add, weight, epsilon: 1e-5, heads, out });
                }
                vec![all, packed, t[0]]
            });
            let probes = output.expect("the norm runs").probes;
            let expected = [&probes[0][cols..2 * cols], &probes[0][4 * cols..5 * cols]].concat();
            assert_eq!(probes[1], expected, "{heads} heads");
            let sums = x.iter().zip(&delta).map(|(x, d)| if add { x + d } else { *x });
            assert_eq!(probes[2], sums.collect::<Vec<f32>>(), "{heads} heads");
        }
    }
}
