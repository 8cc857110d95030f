//! What a backend must refuse: handles it never gave, shapes that do not fit, pages outside the pool. A
//! refused step does nothing and the backend goes on.

use interleaf_contract::{
    Adapter, AdapterId, BackendError, Batch, Bits, Bytes, ChunkEntry, ContractError, Dtype, LoraSite,
    MatrixId, Op, PageCodec, PageData, PageElement, PageEntry, PageHalf, PageTable, PageTicket, PoolGeometry,
    Projection, RopeId, RopeTable, Row, RowKind, RowSet, Sequence, Step, Ticket,
};
use interleaf_tests::backends::{self, label};
use interleaf_tests::data::{Random, matrix};
use interleaf_tests::lora::{one_page, rows};

fn all() -> Vec<backends::Boxed> {
    let mut all = backends::all();
    all.push(backends::reference(interleaf_contract::Numerics::ActF32));
    all
}

fn batch(n: usize) -> Batch {
    let sequences = (0..n).map(|_| one_page()).collect();
    Batch { rows: rows(&vec![(RowKind::Prompt, -1); n]), sequences, ..Batch::default() }
}

#[test]
fn tickets_are_redeemed_once() {
    for mut backend in all() {
        let ticket = backend.submit(Step::new(batch(1)).expect("a batch")).expect("an empty step");
        backend.wait(ticket).expect("once");
        for ticket in [ticket, Ticket(9999)] {
            let refused = backend.wait(ticket);
            assert!(
                matches!(refused, Err(BackendError::UnknownHandle { kind: "ticket", .. })),
                "{refused:?}"
            );
        }
        let refused = backend.wait_pages(PageTicket(77));
        assert!(matches!(refused, Err(BackendError::UnknownHandle { .. })), "{refused:?}");
    }
}

#[test]
fn unknown_handles_are_named() {
    for mut backend in all() {
        let missing = Projection { name: "p".into(), matrix: MatrixId(5), bias: None };
        let refused = backend.create_projection(missing);
        assert!(matches!(refused, Err(BackendError::UnknownHandle { handle: 5, .. })), "{refused:?}");
        assert!(backend.drop_adapter(AdapterId(3)).is_err());
        let mut with_adapter = batch(1);
        with_adapter.adapters.push(AdapterId(3));
        let refused = backend.submit(Step::new(with_adapter).expect("a batch"));
        assert!(
            matches!(refused, Err(BackendError::UnknownHandle { .. })),
            "{}: {refused:?}",
            label(&*backend)
        );
    }
}

#[test]
fn factors_that_do_not_fit_are_refused_and_nothing_is_kept() {
    for mut backend in all() {
        let mut random = Random::new(1);
        let w = backend.create_matrix(matrix("w", Dtype::F32, 8, 16, &mut random)).expect("a matrix");
        let p =
            backend.create_projection(Projection { name: "p".into(), matrix: w, bias: None }).expect("fits");
        let held = backend.memory().adapters;
        let mut site = |a: (usize, usize), b: (usize, usize), dtype| LoraSite {
            projection: p,
            scale: 1.0,
            a: matrix("lora_A", dtype, a.0, a.1, &mut random),
            b: matrix("lora_B", dtype, b.0, b.1, &mut random),
        };
        let wrong = [
            vec![site((4, 15), (8, 4), Dtype::F32)],
            vec![site((4, 16), (7, 4), Dtype::F32)],
            vec![site((4, 16), (8, 5), Dtype::F32)],
            vec![site((4, 16), (8, 4), Dtype::Bf16)],
            vec![site((4, 16), (8, 4), Dtype::F32), site((2, 16), (8, 2), Dtype::F32)],
        ];
        for sites in wrong {
            let refused = backend.create_adapter(Adapter { name: "a".into(), sites });
            assert!(matches!(refused, Err(BackendError::Contract(_))), "{}: {refused:?}", label(&*backend));
            assert_eq!(backend.memory().adapters, held);
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_before_anything_runs() {
    for mut backend in all() {
        let w = matrix("w", Dtype::F32, 8, 16, &mut Random::new(2));
        let w = backend.create_matrix(w).expect("a matrix");
        let bias = backend.create_vector("bias", &[0.0; 7]).expect("a vector");
        let refused = backend.create_projection(Projection { name: "p".into(), matrix: w, bias: Some(bias) });
        assert!(matches!(refused, Err(BackendError::Contract(ContractError::Shape { .. }))), "{refused:?}");
        let p =
            backend.create_projection(Projection { name: "p".into(), matrix: w, bias: None }).expect("fits");
        for (inputs, outputs) in [(15, 8), (16, 9)] {
            let mut step = Step::new(batch(2)).expect("a batch");
            let (x, y) = (step.tensor(RowSet::All, inputs), step.tensor(RowSet::All, outputs));
            step.push(Op::LoraMatmul { x, projections: vec![(p, y)] });
            let refused = backend.submit(step);
            assert!(
                matches!(refused, Err(BackendError::Contract(ContractError::Shape { .. }))),
                "{refused:?}"
            );
        }
        let mut step = Step::new(batch(2)).expect("a batch");
        let out = step.tensor(RowSet::All, 4);
        step.push(Op::Load { out, data: vec![0.0; 7].into() });
        assert!(backend.submit(step).is_err());
    }
    let table = RopeTable { rotary_dim: 4, positions: 2, cos: vec![1.0; 4], sin: vec![0.0; 3] };
    assert!(backends::cpu(1, interleaf_contract::Numerics::ActF32).create_rope(table).is_err());
}

#[test]
fn pages_outside_the_pool_are_refused() {
    for mut backend in all() {
        let geometry =
            PoolGeometry { layers: 1, kv_heads: 1, head_dim: 8, slots: 2, element: PageElement::F16 };
        backend.create_pool(geometry).expect("a small pool");
        for (layer, slot) in [(1, 0), (0, 2)] {
            let address = geometry.page(layer, slot, PageHalf::K);
            assert!(backend.read_pages(&[address]).is_err(), "{}", label(&*backend));
            let bytes = Bytes::from(vec![0; geometry.page_bytes()]);
            assert!(backend.write_pages(&[PageData { address, bytes }]).is_err());
        }
        let address = geometry.page(0, 0, PageHalf::K);
        assert!(backend.write_pages(&[PageData { address, bytes: Bytes::from(vec![0; 3]) }]).is_err());

        let mut append = |element, slot| {
            let pool = PoolGeometry { element, ..geometry };
            let batch = Batch {
                rows: vec![Row { token: 0, position: 0, sequence: 0, adapter: -1, kind: RowKind::Prompt }],
                sequences: vec![Sequence { pages: PageTable::uniform(&pool, [slot]) }],
                ..Batch::default()
            };
            let mut step = Step::new(batch).expect("a batch");
            let (k, v) = (step.tensor(RowSet::All, 8), step.tensor(RowSet::All, 8));
            for out in [k, v] {
                step.push(Op::Load { out, data: vec![1.0; 8].into() });
            }
            step.push(Op::KvAppend { layer: 0, k, v });
            backend.submit(step)
        };
        assert!(append(PageElement::F16, 2).is_err(), "a slot outside the pool");
        let refused = append(PageElement::F32, 0);
        assert!(matches!(refused, Err(BackendError::PageCodec { .. })), "{refused:?}");
        append(PageElement::F16, 1).expect("the backend goes on");
    }
}

#[test]
fn batches_that_contradict_themselves_are_refused() {
    let row = |position, sequence| Row { token: 0, position, sequence, adapter: -1, kind: RowKind::Prompt };
    let sequences = vec![one_page(), one_page()];
    let wrong: [Vec<Row>; 5] = [
        vec![row(0, 2)],
        vec![row(16, 0)],
        vec![row(1, 0), row(1, 0)],
        vec![row(0, 1), row(0, 0)],
        vec![Row { adapter: 0, ..row(0, 0) }],
    ];
    for rows in wrong {
        let batch = Batch { rows, sequences: sequences.clone(), ..Batch::default() };
        assert!(Step::new(batch.clone()).is_err(), "{batch:?}");
    }
}

fn refuses(backend: &mut backends::Boxed, record: impl FnOnce(&mut Step) -> Op) {
    let mut step = Step::new(batch(2)).expect("a batch");
    let op = record(&mut step);
    let message = format!("{}: {op:?}", label(&**backend));
    step.push(op);
    assert!(backend.submit(step).is_err(), "{message}");
}

#[test]
fn results_that_alias_inputs_are_refused() {
    for mut backend in all() {
        let w = backend.create_matrix(matrix("w", Dtype::F32, 8, 8, &mut Random::new(3))).expect("a matrix");
        let p =
            backend.create_projection(Projection { name: "p".into(), matrix: w, bias: None }).expect("fits");
        let weight = backend.create_vector("weight", &[1.0; 8]).expect("a vector");
        refuses(&mut backend, |step| {
            let x = step.tensor(RowSet::All, 8);
            Op::LoraMatmul { x, projections: vec![(p, x)] }
        });
        refuses(&mut backend, |step| {
            let (x, y) = (step.tensor(RowSet::All, 8), step.tensor(RowSet::All, 8));
            Op::LoraMatmul { x, projections: vec![(p, y), (p, y)] }
        });
        refuses(&mut backend, |step| {
            let x = step.tensor(RowSet::All, 8);
            Op::RmsNorm { x, add: Some(x), weight, epsilon: 0.0, heads: 1, out: x }
        });
        refuses(&mut backend, |step| {
            let (gate, out) = (step.tensor(RowSet::All, 8), step.tensor(RowSet::All, 8));
            Op::SwiGlu { activation: interleaf_contract::Activation::Silu, gate, up: gate, out }
        });
        refuses(&mut backend, |step| {
            let x = step.tensor(RowSet::All, 8);
            Op::Add { x, from: x, at: 0 }
        });
    }
}

#[test]
fn columns_that_a_tensor_does_not_have_are_not_added() {
    for mut backend in all() {
        for (cols, from_cols, at) in [(8, 12, 5), (8, 7, 0), (8, 12, u32::MAX), (0, 12, 0)] {
            refuses(&mut backend, |step| {
                let [x, from] = [cols, from_cols].map(|cols| step.tensor(RowSet::All, cols));
                Op::Add { x, from, at }
            });
        }
        refuses(&mut backend, |step| {
            let (x, from) = (step.tensor(RowSet::All, 8), step.tensor(RowSet::Outputs, 8));
            Op::Add { x, from, at: 0 }
        });
    }
}

#[test]
fn keys_and_values_that_cannot_be_read_back_are_refused() {
    for mut backend in all() {
        refuses(&mut backend, |step| {
            let out = step.tensor(RowSet::All, 0);
            Op::KvRead { layer: 0, rope: None, out, at: 0 }
        });
        let pool = PoolGeometry { layers: 1, kv_heads: 1, head_dim: 8, slots: 2, element: PageElement::F32 };
        backend.create_pool(pool).expect("a small pool");
        let mut rope = |rotary_dim, positions| {
            let plane = vec![1.0; positions * rotary_dim / 2];
            backend.create_rope(RopeTable { rotary_dim, positions, cos: plane.clone(), sin: plane })
        };
        let [fits, wide, short] = [rope(8, 6), rope(10, 6), rope(8, 5)].map(|rope| rope.expect("a table"));
        let exact = pool.slot(1);
        let eight = PageEntry::alone(PageCodec::Quantised(Bits::Eight), exact.v.at);
        let mut read = |entry, layer, rope, rows, cols, at| {
            let mut pages = PageTable::default();
            pages.push(1, |_| entry);
            let row = Row { token: 0, position: 5, sequence: 0, adapter: -1, kind: RowKind::Prompt };
            let batch = Batch { rows: vec![row], sequences: vec![Sequence { pages }], ..Batch::default() };
            let mut step = Step::new(batch).expect("a batch");
            let out = step.tensor(rows, cols);
            step.push(Op::KvRead { layer, rope, out, at });
            backend.submit(step)
        };
        for (rope, rows, cols, at, what) in [
            (None, RowSet::All, 20, 5, "too few columns"),
            (None, RowSet::All, 20, u32::MAX, "no columns"),
            (None, RowSet::Outputs, 20, 4, "other rows"),
            (Some(wide), RowSet::All, 20, 4, "rotated dimensions past the head"),
            (Some(short), RowSet::All, 20, 4, "a position past the table"),
        ] {
            let refused = read(exact, 0, rope, rows, cols, at);
            assert!(matches!(refused, Err(BackendError::Contract(_))), "{what}: {refused:?}");
        }
        let refused = read(exact, 0, Some(RopeId(3)), RowSet::All, 20, 4);
        assert!(matches!(refused, Err(BackendError::UnknownHandle { handle: 3, .. })), "{refused:?}");
        for coded in [ChunkEntry { k: eight, ..exact }, ChunkEntry { v: eight, ..exact }] {
            let refused = read(coded, 0, None, RowSet::All, 20, 4);
            assert!(matches!(refused, Err(BackendError::PageCodec { .. })), "{refused:?}");
        }
        assert!(read(exact, 1, None, RowSet::All, 20, 4).is_err(), "a layer that the pool does not have");
        assert!(read(pool.slot(2), 0, None, RowSet::All, 20, 4).is_err(), "a slot outside the pool");
        read(exact, 0, Some(fits), RowSet::All, 20, 4).expect("the backend goes on");
    }
}

/// Dimensions of nothing, and of more than can be counted, have made backends panic.
#[test]
fn empty_and_absurd_sizes_are_refused() {
    let empty = |name| matrix(name, Dtype::F32, 4, 0, &mut Random::new(4));
    for mut backend in all() {
        let table = backend.create_matrix(empty("embedding")).expect("an empty matrix is lawful");
        refuses(&mut backend, |step| Op::Embed { table, scale: 1.0, out: step.tensor(RowSet::All, 0) });
        let weight = backend.create_vector("weight", &[]).expect("an empty vector is lawful");
        refuses(&mut backend, |step| {
            let x = step.tensor(RowSet::All, 0);
            Op::RmsNorm { x, add: None, weight, epsilon: 0.0, heads: 3, out: x }
        });
        let geometry =
            PoolGeometry { layers: 1, kv_heads: 1, head_dim: 8, slots: 2, element: PageElement::F16 };
        backend.create_pool(geometry).expect("a small pool");
        for wrong in [
            PoolGeometry { head_dim: 0, ..geometry },
            PoolGeometry { kv_heads: 0, ..geometry },
            PoolGeometry { slots: 1 << 63, ..geometry },
            PoolGeometry { head_dim: 1 << 40, kv_heads: 1 << 40, ..geometry },
            PoolGeometry { layers: usize::MAX, ..geometry },
        ] {
            assert!(backend.create_pool(wrong).is_err(), "{}: {wrong:?}", label(&*backend));
        }
        let address = geometry.page(0, 1, PageHalf::V);
        backend.read_pages(&[address]).expect("the pool is still there");
        let shape = interleaf_contract::AttentionShape {
            heads: 1 << 31,
            kv_heads: 1,
            head_dim: 8,
            scale: 1.0,
            softcap: None,
            window: None,
        };
        refuses(&mut backend, |step| {
            let (q, out) = (step.tensor(RowSet::All, 0), step.tensor(RowSet::All, 0));
            Op::PagedAttention { layer: 0, shape, q, out }
        });
        let table = RopeTable { rotary_dim: 2, positions: 1 << 63, cos: Vec::new(), sin: Vec::new() };
        assert!(backend.create_rope(table).is_err());
    }
}

#[test]
fn probes_are_numbered_however_they_are_recorded() {
    for mut backend in all() {
        let mut step = Step::new(batch(1)).expect("a batch");
        let (a, b) = (step.tensor(RowSet::All, 1), step.tensor(RowSet::All, 1));
        step.push(Op::Load { out: a, data: vec![1.0].into() });
        step.push(Op::Load { out: b, data: vec![2.0].into() });
        step.push(Op::Probe { x: a });
        let second = step.probe(b);
        let ticket = backend.submit(step).expect("it runs");
        assert_eq!(backend.wait(ticket).expect("it ends").probes[second.0 as usize], [2.0]);
    }
}
