//! `add` against the reference: the same bits, whatever the columns begin at, and nothing behind them.

use interleaf_contract::{Batch, Op, RowKind};
use interleaf_tests::backends::{self, label};
use interleaf_tests::data::Random;
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::single;
use interleaf_tests::tolerance::assert_bits;

#[test]
fn columns_are_added_from_any_one_on() {
    let mut random = Random::new(8);
    // All of a tensor, its first and its last columns, and some that begin within a vector of any tier.
    let cases = [(1, 1, 1, 0), (3, 8, 8, 0), (2, 64, 192, 0), (5, 6, 13, 7), (7, 97, 301, 101)];
    let mut backends = backends::reference_and_others();
    for (n, cols, from_cols, at) in cases {
        let (x, from) = (random.values(n * cols), random.values(n * from_cols));
        let batch = Batch {
            rows: rows(&vec![(RowKind::Prompt, -1); n]),
            sequences: (0..n).map(|_| one_page()).collect(),
            ..Batch::default()
        };
        let sums: Vec<f32> =
            (0..n * cols).map(|i| x[i] + from[i / cols * from_cols + at + i % cols]).collect();
        for backend in &mut backends {
            let inputs = [(cols as u32, x.clone()), (from_cols as u32, from.clone())];
            let output = single::run(&mut **backend, batch.clone(), &inputs, |step, t| {
                step.push(Op::Add { x: t[0], from: t[1], at: at as u32 });
                t.to_vec()
            });
            let probes = output.expect("add runs").probes;
            let label = format!("{}, {n} rows, columns {at}.. of {from_cols}", label(&**backend));
            assert_bits(&label, &sums, &probes[0]);
            assert_bits(&label, &from, &probes[1]);
        }
    }
}
