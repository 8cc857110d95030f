//! Several steps under way: whoever submits the next one before it waits for the last gets the same results, whatever
//! the order it waits in.

use interleaf_contract::{
    AttentionShape, Backend, Batch, Op, PageElement, PageTable, PoolGeometry, Row, RowKind, RowSet, Sequence,
    Step, Ticket,
};
use interleaf_tests::backends::{self, label};
use interleaf_tests::data::Random;
use interleaf_tests::tolerance::assert_bits;

const STEPS: u32 = 9;
const HEAD_DIM: usize = 8;

const POOL: PoolGeometry =
    PoolGeometry { layers: 1, kv_heads: 1, head_dim: HEAD_DIM, slots: 1, element: PageElement::F32 };

/// The row at a position: its K and V go to the pages, and its query reads those of all steps before.
fn step(position: u32, values: &[f32]) -> Step {
    let batch = Batch {
        rows: vec![Row { token: 0, position, sequence: 0, adapter: -1, kind: RowKind::Generated }],
        sequences: vec![Sequence { pages: PageTable::uniform(&POOL, [0]) }],
        ..Batch::default()
    };
    let mut step = Step::new(batch).expect("a sound batch");
    let [q, k, v, out] = [HEAD_DIM as u32; 4].map(|cols| step.tensor(RowSet::All, cols));
    for (tensor, values) in [q, k, v].into_iter().zip(values.chunks(HEAD_DIM)) {
        step.push(Op::Load { out: tensor, data: values.into() });
    }
    let head_dim = HEAD_DIM as u32;
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim, scale: 1.0, softcap: None, window: None };
    step.push(Op::KvAppend { layer: 0, k, v });
    step.push(Op::PagedAttention { layer: 0, shape, q, out });
    step.probe(out);
    step
}

fn pool(backend: &mut dyn Backend) {
    backend.create_pool(POOL).expect("a small pool");
}

#[test]
fn steps_under_way_are_those_of_one_at_a_time() {
    let mut random = Random::new(8);
    let values: Vec<Vec<f32>> = (0..STEPS).map(|_| random.values(3 * HEAD_DIM)).collect();
    let steps = || (0..STEPS).zip(&values).map(|(position, values)| step(position, values));
    for backend in &mut backends::all() {
        let label = label(&**backend);
        pool(&mut **backend);
        let mut one_at_a_time = Vec::new();
        for step in steps() {
            let ticket = backend.submit(step).expect("it is sound");
            one_at_a_time.push(backend.wait(ticket).expect("it runs").probes.remove(0));
        }
        for backwards in [false, true] {
            pool(&mut **backend);
            let submit = |step| backend.submit(step).expect("it is sound");
            let mut tickets: Vec<(usize, Ticket)> = steps().map(submit).enumerate().collect();
            if backwards {
                tickets.reverse();
            }
            for (i, ticket) in tickets {
                let found = backend.wait(ticket).expect("it runs").probes.remove(0);
                assert_bits(&format!("{label}, step {i}"), &found, &one_at_a_time[i]);
            }
        }
    }
}
