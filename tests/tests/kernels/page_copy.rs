//! Pages copied from slot to slot: the bits of their sources, in the order of steps and uploads, and what is refused.

use interleaf_contract::{
    BackendError, Batch, Bytes, ContractError, Op, PAGE_UNIT, PageAddress, PageCopy, PageData, PageElement,
    PageHalf, PageTable, PoolGeometry, Row, RowKind, RowSet, Sequence, Step, Ticket,
};
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::data::Random;

const HALVES: [PageHalf; 2] = [PageHalf::K, PageHalf::V];

fn geometry(element: PageElement) -> PoolGeometry {
    PoolGeometry { layers: 2, kv_heads: 2, head_dim: 24, slots: 6, element }
}

/// K and V of a slot to another one, in a layer.
fn both(pool: &PoolGeometry, layer: u32, from: u32, to: u32) -> [PageCopy; 2] {
    HALVES.map(|half| PageCopy { from: pool.page(layer, from, half), to: pool.page(layer, to, half) })
}

fn every_page(pool: &PoolGeometry) -> Vec<PageAddress> {
    let slots = pool.slots as u32;
    let places = (0..pool.layers as u32).flat_map(|layer| (0..slots).map(move |slot| (layer, slot)));
    places.flat_map(|(layer, slot)| HALVES.map(|half| pool.page(layer, slot, half))).collect()
}

/// A pool whose pages all differ.
fn filled(backend: &mut Boxed, pool: PoolGeometry) -> Vec<PageData> {
    let mut random = Random::new(4);
    let mut fill = |address| {
        let bytes = (0..pool.page_bytes() / 8).flat_map(|_| random.bits().to_le_bytes());
        PageData { address, bytes: bytes.collect::<Vec<u8>>().into() }
    };
    let pages: Vec<_> = every_page(&pool).into_iter().map(&mut fill).collect();
    backend.create_pool(pool).expect("room for a pool");
    backend.write_pages(&pages).expect("pages of the pool");
    pages
}

fn read(backend: &mut Boxed, pages: &[PageAddress]) -> Vec<PageData> {
    let ticket = backend.read_pages(pages).expect("pages of the pool");
    backend.wait_pages(ticket).expect("they are read")
}

/// What copies make of pages.
fn copied(before: &[PageData], copies: &[PageCopy]) -> Vec<PageData> {
    let at = |address: PageAddress| before.iter().position(|page| page.address == address).expect("there");
    let mut after = before.to_vec();
    for copy in copies {
        after[at(copy.to)].bytes = before[at(copy.from)].bytes.clone();
    }
    after
}

fn every_backend() -> Vec<Boxed> {
    let mut all = backends::reference_and_others();
    all.extend(backends::gpu_variants());
    all
}

#[test]
fn copies_are_their_sources_to_the_bit_and_nothing_else_is_touched() {
    // Of one page to two places, into a neighbour, within a layer each, and of one half alone.
    let copies = |pool: &PoolGeometry| {
        let [from, to] = [5, 0].map(|slot| pool.page(0, slot, PageHalf::V));
        let slots = [(0, 1, 2), (0, 1, 4), (1, 0, 5), (1, 3, 4)];
        let whole = slots.into_iter().flat_map(|(layer, from, to)| both(pool, layer, from, to));
        whole.chain([PageCopy { from, to }]).collect::<Vec<_>>()
    };
    for backend in &mut every_backend() {
        for codec in [PageElement::F16, PageElement::F32] {
            let before = filled(backend, geometry(codec));
            let copies = copies(&geometry(codec));
            backend.copy_pages(&copies).expect("pages of the pool");
            let found = read(backend, &every_page(&geometry(codec)));
            assert!(found == copied(&before, &copies), "{} {codec}", label(&**backend));
        }
    }
}

/// More bytes than a device may want to hold twice.
#[test]
fn many_copies_are_made_in_one_call() {
    let pool = PoolGeometry { layers: 1, kv_heads: 8, head_dim: 256, slots: 170, element: PageElement::F16 };
    let copies: Vec<_> = (0..85).flat_map(|slot| both(&pool, 0, slot, 169 - slot)).collect();
    for backend in &mut backends::reference_and_others() {
        let before = filled(backend, pool);
        backend.copy_pages(&copies).expect("pages of the pool");
        let held = backend.memory().activations;
        assert!(held <= 6 << 20, "{}: {held} bytes are held", label(&**backend));
        let found = read(backend, &every_page(&pool));
        assert!(found == copied(&before, &copies), "{}", label(&**backend));
    }
}

/// Appends values of a seed to a sequence of one page in either layer, and returns before it has run.
fn append(backend: &mut Boxed, pool: &PoolGeometry, slot: u32, position: u32, seed: u64) -> Ticket {
    let batch = Batch {
        rows: vec![Row { token: 0, position, sequence: 0, adapter: -1, kind: RowKind::Prompt }],
        sequences: vec![Sequence { pages: PageTable::uniform(pool, [slot]) }],
        ..Batch::default()
    };
    let mut step = Step::new(batch).expect("a batch");
    let cols = pool.kv_heads * pool.head_dim;
    let mut random = Random::new(seed);
    let [k, v] = [(); 2].map(|()| {
        let out = step.tensor(RowSet::All, cols as u32);
        step.push(Op::Load { out, data: random.values(cols).into() });
        out
    });
    (0..2).for_each(|layer| step.push(Op::KvAppend { layer, k, v }));
    backend.submit(step).expect("it is sound")
}

/// A page is written by a step, copied, and both are written on, before anything is waited for.
#[test]
fn copies_take_their_turn_among_steps_and_uploads() {
    for backend in &mut every_backend() {
        for codec in [PageElement::F16, PageElement::F32] {
            let label = format!("{} {codec}", label(&**backend));
            let pool = geometry(codec);
            let pages = |slot| [0, 1].map(|layer| HALVES.map(|half| pool.page(layer, slot, half))).concat();
            let bytes = |pages: Vec<PageData>| pages.into_iter().map(|p| p.bytes).collect::<Vec<Bytes>>();

            // The same without a copy: one page after each append.
            let mut expected = Vec::new();
            for appends in [&[(3, 1)][..], &[(3, 1), (4, 2)], &[(3, 1), (3, 3)]] {
                filled(backend, pool);
                for &(position, seed) in appends {
                    let ticket = append(backend, &pool, 2, position, seed);
                    backend.wait(ticket).expect("it runs");
                }
                expected.push(bytes(read(backend, &pages(2))));
            }

            let before = filled(backend, pool);
            let first = append(backend, &pool, 2, 3, 1);
            let copies = [both(&pool, 0, 2, 5), both(&pool, 1, 2, 5)].concat();
            backend.copy_pages(&copies).expect("pages of the pool");
            let copy = backend.read_pages(&pages(5)).expect("pages of the pool");
            let onto_copy = append(backend, &pool, 5, 4, 2);
            let onto_source = append(backend, &pool, 2, 3, 3);
            let last = backend.read_pages(&[pages(5), pages(2)].concat()).expect("pages of the pool");
            for ticket in [first, onto_copy, onto_source] {
                backend.wait(ticket).expect("it runs");
            }
            let copy = bytes(backend.wait_pages(copy).expect("they are read"));
            assert!(copy == expected[0], "{label}: a copy sees the step before");
            let mut last = bytes(backend.wait_pages(last).expect("they are read"));
            let source = last.split_off(4);
            assert!(last == expected[1], "{label}: a later step goes on from the copy, and from it alone");
            assert!(source == expected[2], "{label}: the source goes on without the copy");

            // Uploads before and after.
            let at = |slot| pages(slot).into_iter();
            let of =
                |slot| at(slot).map(|address| before.iter().find(|p| p.address == address).expect("there"));
            let onto =
                |slot, to| of(slot).zip(at(to)).map(|(page, address)| PageData { address, ..page.clone() });
            backend.write_pages(&onto(0, 2).collect::<Vec<_>>()).expect("pages of the pool");
            backend.copy_pages(&copies).expect("pages of the pool");
            backend.write_pages(&onto(1, 2).collect::<Vec<_>>()).expect("pages of the pool");
            let found = bytes(read(backend, &[pages(5), pages(2)].concat()));
            assert!(found == bytes(of(0).chain(of(1)).cloned().collect()), "{label}: uploads");
        }
    }
}

#[test]
fn what_cannot_be_copied_is_refused_and_nothing_is_done() {
    for backend in &mut every_backend() {
        let label = label(&**backend);
        backend.copy_pages(&[]).expect("nothing to copy, and nowhere");
        let refused = backend.copy_pages(&both(&geometry(PageElement::F16), 0, 0, 1));
        assert!(
            matches!(refused, Err(BackendError::Contract(ContractError::OutOfRange { len: 0, .. }))),
            "{label}: {refused:?}"
        );
        let pool = geometry(PageElement::F16);
        let before = filled(backend, pool);
        backend.copy_pages(&[]).expect("nothing to copy");
        let both = |layer, from, to| both(&pool, layer, from, to);
        let page = |layer, slot, half| pool.page(layer, slot, half);
        let [k, v] = both(0, 0, 1);
        let out = |what, index, len| ContractError::OutOfRange { what, index, len };
        let across = |from, to| (PageCopy { from, to }, ContractError::CopyAcross { from, to });
        let overlap = |page| ContractError::CopyOverlap { page };
        let to_layer = across(page(0, 0, PageHalf::K), page(1, 1, PageHalf::K));
        let longer = PageAddress { units: 2 * k.to.units, ..k.to };
        let to_length = across(k.from, longer);
        let again = PageCopy { from: page(0, 2, PageHalf::K), to: k.to };
        let onward = PageCopy { from: k.to, to: page(0, 2, PageHalf::K) };
        let itself = PageCopy { from: page(0, 3, PageHalf::K), to: page(0, 3, PageHalf::K) };
        let beyond = PageCopy { from: page(0, 0, PageHalf::V), to: page(0, 6, PageHalf::V) };
        // Half a page on: what is written is read, though neither page is the other.
        let within = PageAddress { at: k.to.at + k.to.units / 2, ..k.to };
        let shifted = PageCopy { from: within, to: page(0, 4, PageHalf::K) };
        let behind = pool.stripe_units();
        let last = behind + 2 * pool.page_bytes() / PAGE_UNIT - 1;
        for (copies, expected) in [
            (vec![k, beyond], out("last unit of a page", last, behind)),
            (vec![k, PageCopy { from: beyond.to, to: v.to }], out("last unit of a page", last, behind)),
            ([vec![k], both(2, 0, 1).into()].concat(), out("layer of a page", 2, 2)),
            (vec![v, to_layer.0], to_layer.1),
            (vec![v, to_length.0], to_length.1),
            (vec![v, k, again], overlap(k.to)),
            (vec![v, k, onward], overlap(k.to)),
            (vec![v, onward, k], overlap(k.to)),
            (vec![k, shifted], overlap(k.to)),
            (vec![v, itself], overlap(itself.to)),
        ] {
            assert_eq!(backend.copy_pages(&copies), Err(expected.into()), "{label}");
        }
        assert!(read(backend, &every_page(&pool)) == before, "{label}: something was copied");
        backend.copy_pages(&[k, v]).expect("the backend goes on");
        assert!(read(backend, &every_page(&pool)) == copied(&before, &[k, v]), "{label}");
    }
    let page = |layer, units| PageAddress { layer, at: 3, units };
    let said = ContractError::CopyAcross { from: page(0, 2), to: page(1, 4) }.to_string();
    assert!(
        said.contains("32 bytes at 48 of layer 0 cannot be copied to 64 bytes at 48 of layer 1"),
        "{said}"
    );
}
