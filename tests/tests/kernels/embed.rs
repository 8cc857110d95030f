//! `embed` against the reference: exact, for every dtype of the table.

use interleaf_contract::{Batch, Dtype, Op, RowKind, RowSet};
use interleaf_tests::backends;
use interleaf_tests::data::{Random, matrix};
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::single;
use interleaf_tests::tolerance::assert_bits;

#[test]
fn rows_of_any_dtype() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0] {
        let table = matrix("embedding", dtype, 50, 64, &mut Random::new(5));
        let mut batch = Batch {
            rows: rows(&[(RowKind::Prompt, -1); 4]),
            sequences: (0..4).map(|_| one_page()).collect(),
            ..Batch::default()
        };
        for (row, token) in batch.rows.iter_mut().zip([49, 0, 7, 7]) {
            row.token = token;
        }
        for scale in [1.0, 8.0] {
            let mut results = Vec::new();
            let others = backends::gpu_variants();
            for mut backend in backends::reference_and_others().into_iter().chain(others) {
                let table = backend.create_matrix(table.clone()).expect("a matrix");
                let output = single::run(&mut *backend, batch.clone(), &[], |step, _| {
                    let out = step.tensor(RowSet::All, 64);
                    step.push(Op::Embed { table, scale, out });
                    vec![out]
                });
                results.push(output.expect("embed runs").probes.remove(0));
            }
            results[1..].iter().for_each(|found| assert_bits(dtype.name(), &results[0], found));
        }
    }
}
