//! `kv_append` against the reference: the same bits in the same places, and nothing else touched.

use interleaf_contract::{
    Backend, BackendError, Batch, Numerics, Op, PageAddress, PageCodec, PageHalf, PageTable, PoolGeometry,
    Row, RowKind, Sequence,
};
use interleaf_tests::backends::{self, label};
use interleaf_tests::data::Random;
use interleaf_tests::single;

fn append(backend: &mut dyn Backend, codec: PageCodec) -> Result<Vec<Vec<u8>>, BackendError> {
    let mut random = Random::new(6);
    let (kv_heads, head_dim) = (2, 24);
    let cols = kv_heads * head_dim;
    backend.create_pool(PoolGeometry { layers: 2, kv_heads, head_dim, slots: 5, codec })?;
    let row = |position, sequence| Row { token: 0, position, sequence, adapter: -1, kind: RowKind::Prompt };
    let batch = Batch {
        rows: vec![row(0, 0), row(15, 0), row(16, 0), row(31, 0), row(3, 1)],
        sequences: vec![
            Sequence { pages: PageTable::uniform(codec, [4, 1]) },
            Sequence { pages: PageTable::uniform(codec, [2]) },
        ],
        ..Batch::default()
    };
    let values = |random: &mut Random| random.values(5 * cols);
    let inputs = [(cols as u32, values(&mut random)), (cols as u32, values(&mut random))];
    single::run(backend, batch, &inputs, |step, t| {
        step.push(Op::KvAppend { layer: 1, k: t[0], v: t[1] });
        Vec::new()
    })?;
    let pages: Vec<PageAddress> = (0..2)
        .flat_map(|layer| (0..5).map(move |slot| (layer, slot)))
        .flat_map(|(layer, slot)| [PageHalf::K, PageHalf::V].map(|half| PageAddress { layer, slot, half }))
        .collect();
    let ticket = backend.read_pages(&pages)?;
    Ok(backend.wait_pages(ticket)?.into_iter().map(|p| p.bytes.to_vec()).collect())
}

#[test]
fn the_same_bits_in_the_same_places() {
    for codec in [PageCodec::F16, PageCodec::F32] {
        let reference =
            append(&mut *backends::reference(Numerics::ActF32), codec).expect("the reference appends");
        let touched = reference.iter().filter(|page| page.iter().any(|b| *b != 0)).count();
        assert_eq!(touched, 6, "three chunks, K and V, one layer");
        for backend in &mut backends::all() {
            let found = append(&mut **backend, codec).expect("the backend appends");
            assert!(found == reference, "{}: pages differ", label(&**backend));
        }
    }
}
