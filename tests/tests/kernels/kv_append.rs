//! `kv_append` against the reference: the same bits in the same places, and nothing else touched.

use interleaf_contract::{
    Backend, BackendError, Batch, Numerics, Op, PageAddress, PageElement, PageHalf, PageTable, PoolGeometry,
    Row, RowKind, Sequence,
};
use interleaf_tests::backends::{self, label};
use interleaf_tests::data::Random;
use interleaf_tests::single;

const fn pool(element: PageElement) -> PoolGeometry {
    PoolGeometry { layers: 2, kv_heads: 2, head_dim: 24, slots: 5, element }
}

const POOLS: [PoolGeometry; 2] = [pool(PageElement::F16), pool(PageElement::F32)];

/// Appends to layers whose two tables have these slots.
fn append(
    backend: &mut dyn Backend,
    pool: &PoolGeometry,
    layers: &[u32],
    tables: [PageTable; 2],
) -> Result<Vec<Vec<u8>>, BackendError> {
    let mut random = Random::new(6);
    let cols = pool.kv_heads * pool.head_dim;
    backend.create_pool(*pool)?;
    let row = |position, sequence| Row { token: 0, position, sequence, adapter: -1, kind: RowKind::Prompt };
    let batch = Batch {
        rows: vec![row(0, 0), row(15, 0), row(16, 0), row(31, 0), row(3, 1)],
        sequences: tables.map(|pages| Sequence { pages }).into(),
        ..Batch::default()
    };
    let values = |random: &mut Random| random.values(5 * cols);
    let inputs = [(cols as u32, values(&mut random)), (cols as u32, values(&mut random))];
    single::run(backend, batch, &inputs, |step, t| {
        for &layer in layers {
            step.push(Op::KvAppend { layer, k: t[0], v: t[1] });
        }
        Vec::new()
    })?;
    let pages: Vec<PageAddress> = (0..2)
        .flat_map(|layer| (0..5).map(move |slot| (layer, slot)))
        .flat_map(|(layer, slot)| [PageHalf::K, PageHalf::V].map(|half| pool.page(layer, slot, half)))
        .collect();
    let ticket = backend.read_pages(&pages)?;
    Ok(backend.wait_pages(ticket)?.into_iter().map(|p| p.bytes.to_vec()).collect())
}

fn compare(pool: &PoolGeometry, layers: &[u32], tables: [PageTable; 2], touched: usize) {
    let run = |backend: &mut dyn Backend| append(backend, pool, layers, tables.clone());
    let reference = run(&mut *backends::reference(Numerics::ActF32)).expect("the reference appends");
    assert_eq!(reference.iter().filter(|page| page.iter().any(|b| *b != 0)).count(), touched);
    for backend in &mut backends::all() {
        let found = run(&mut **backend).expect("the backend appends");
        assert!(found == reference, "{}: pages differ", label(&**backend));
    }
}

#[test]
fn the_same_bits_in_the_same_places() {
    for pool in POOLS {
        let tables = [PageTable::uniform(&pool, [4, 1]), PageTable::uniform(&pool, [2])];
        // Three chunks, K and V, one layer.
        compare(&pool, &[1], tables, 6);
    }
}

#[test]
fn each_layer_has_its_own_places() {
    for pool in POOLS {
        let table = |slots: &[[u32; 2]]| {
            let mut table = PageTable::default();
            slots.iter().for_each(|slots| table.push(2, |layer| pool.slot(slots[layer])));
            table
        };
        compare(&pool, &[0, 1], [table(&[[4, 3], [1, 1]]), table(&[[2, 4]])], 12);
    }
}
