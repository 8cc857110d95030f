//! Pages that come while a step runs: what stands behind them sees them, what stands before does not, what does not come leaves its
//! place as it was, and nothing comes twice.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use interleaf_contract::{
    Arrival, ArrivingPages, BackendError, Batch, Bytes, ContractError, Op, PAGE_UNIT, PageAddress, PageData,
    PageElement, PageHalf, PageTable, PoolGeometry, Row, RowKind, RowSet, Sequence, Step, Tensor, Ticket,
};
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::data::Random;
use interleaf_tests::tolerance::assert_bits;

const LAYERS: usize = 2;
const HALVES: [PageHalf; 2] = [PageHalf::K, PageHalf::V];

/// Where the sequence's first and second chunk are.
const SLOTS: [u32; 2] = [3, 1];

fn pool(element: PageElement) -> PoolGeometry {
    PoolGeometry { layers: LAYERS, kv_heads: 2, head_dim: 24, slots: 5, element }
}

fn every_backend() -> Vec<Boxed> {
    let mut all = backends::reference_and_others();
    all.extend(backends::gpu_variants());
    all
}

/// Pages that a test brings, a layer at a time.
#[derive(Debug)]
struct Brought {
    places: Vec<Vec<PageAddress>>,
    layers: Vec<Mutex<Receiver<Vec<Option<Bytes>>>>>,
}

type Bring = Sender<Vec<Option<Bytes>>>;

impl ArrivingPages for Brought {
    fn places(&self, layer: u32) -> Vec<PageAddress> {
        self.places[layer as usize].clone()
    }

    fn wait(&self, layer: u32) -> Vec<Option<Bytes>> {
        // Once whoever brings them has gone, nothing comes.
        let pages = self.layers[layer as usize].lock().map(|layer| layer.recv().ok());
        pages.ok().flatten().unwrap_or_default()
    }
}

fn brought(places: Vec<Vec<PageAddress>>) -> (Vec<Bring>, Arrival) {
    let (bring, layers) =
        places.iter().map(|_| channel()).map(|(bring, layer)| (bring, Mutex::new(layer))).unzip();
    (bring, Arrival(Arc::new(Brought { places, layers })))
}

/// K and V of a slot, in a layer.
fn both(pool: &PoolGeometry, layer: u32, slot: u32) -> Vec<PageAddress> {
    HALVES.map(|half| pool.page(layer, slot, half)).to_vec()
}

/// A step over rows of the sequence.
fn step(pool: &PoolGeometry, positions: &[u32]) -> Step {
    let row = |&position| Row { token: 0, position, sequence: 0, adapter: -1, kind: RowKind::Prompt };
    let batch = Batch {
        rows: positions.iter().map(row).collect(),
        sequences: vec![Sequence { pages: PageTable::uniform(pool, SLOTS) }],
        ..Batch::default()
    };
    Step::new(batch).expect("a batch")
}

fn load(step: &mut Step, values: &[f32]) -> Tensor {
    let out = step.tensor(RowSet::All, (values.len() / step.batch().rows.len()) as u32);
    step.push(Op::Load { out, data: values.to_vec().into() });
    out
}

/// Keys and values of each layer, which pages hold to the bit in either element.
fn values(pool: &PoolGeometry, positions: usize, seed: u64) -> [[Vec<f32>; 2]; LAYERS] {
    let mut random = Random::new(seed);
    let count = positions * pool.kv_heads * pool.head_dim;
    [(); LAYERS]
        .map(|()| [(); 2].map(|()| (0..count).map(|_| random.below(512) as f32 / 64.0 - 4.0).collect()))
}

fn append(step: &mut Step, values: &[[Vec<f32>; 2]; LAYERS]) {
    for (layer, [k, v]) in (0..).zip(values) {
        let (k, v) = (load(step, k), load(step, v));
        step.push(Op::KvAppend { layer, k, v });
    }
}

/// What stands in a layer's pages at the rows of the step, K beside V.
fn read_rows(step: &mut Step, pool: &PoolGeometry, layer: u32) {
    let out = step.tensor(RowSet::All, (2 * pool.kv_heads * pool.head_dim) as u32);
    // Whoever writes the columns of a row writes all of them.
    let blank = vec![f32::NAN; out.cols as usize * step.batch().rows.len()];
    step.push(Op::Load { out, data: blank.into() });
    step.push(Op::KvRead { layer, rope: None, out, at: 0 });
    step.probe(out);
}

fn beside([k, v]: &[Vec<f32>; 2], width: usize) -> Vec<f32> {
    k.chunks_exact(width).zip(v.chunks_exact(width)).flat_map(|(k, v)| [k, v].concat()).collect()
}

fn pages(backend: &mut Boxed, pages: &[PageAddress]) -> Vec<PageData> {
    let ticket = backend.read_pages(pages).expect("pages of the pool");
    backend.wait_pages(ticket).expect("they are read")
}

fn run(backend: &mut Boxed, step: Step) -> Vec<Vec<f32>> {
    let ticket: Ticket = backend.submit(step).expect("it is sound");
    backend.wait(ticket).expect("it runs").probes
}

/// Tokens of the second chunk, but for one that the sequence does not have yet.
const SECOND: [u32; 15] = [16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30];

/// Pages of the second chunk as `values` make them, by layer.
fn made(backend: &mut Boxed, pool: PoolGeometry, values: &[[Vec<f32>; 2]; LAYERS]) -> Vec<Vec<Bytes>> {
    backend.create_pool(pool).expect("room for a pool");
    let mut step = step(&pool, &SECOND);
    append(&mut step, values);
    run(backend, step);
    let of =
        |layer| pages(backend, &both(&pool, layer, SLOTS[1])).into_iter().map(|page| page.bytes).collect();
    (0..LAYERS as u32).map(of).collect()
}

#[test]
fn what_comes_is_seen_by_what_stands_behind_it_and_by_nothing_before() {
    for backend in &mut every_backend() {
        for element in [PageElement::F16, PageElement::F32] {
            let label = format!("{} {element}", label(&**backend));
            let pool = pool(element);
            let width = pool.kv_heads * pool.head_dim;
            let [old, new, own] = [1, 2, 3].map(|seed| values(&pool, SECOND.len(), seed));
            let coming = made(backend, pool, &new);
            backend.create_pool(pool).expect("room for a pool");

            // What is there before, read and covered; then what comes, and one row on top of it.
            let places = (0..LAYERS as u32).map(|layer| both(&pool, layer, SLOTS[1])).collect();
            let (bring, arrival) = brought(places);
            let mut step = step(&pool, &SECOND);
            append(&mut step, &old);
            for layer in 0..LAYERS as u32 {
                read_rows(&mut step, &pool, layer);
                step.push(Op::Arrive { layer, pages: arrival.clone() });
                read_rows(&mut step, &pool, layer);
            }
            append(&mut step, &own);
            for layer in 0..LAYERS as u32 {
                read_rows(&mut step, &pool, layer);
            }
            // The second layer comes when the step may long have waited for it.
            let bringing = std::thread::spawn(move || {
                for (bring, pages) in bring.into_iter().zip(coming) {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    bring.send(pages.into_iter().map(Some).collect()).expect("somebody waits");
                }
            });
            let found = run(backend, step);
            bringing.join().expect("all was taken");
            for layer in 0..LAYERS {
                let expected = [&old, &new, &own].map(|values| beside(&values[layer], width));
                let [before, behind] = [2 * layer, 2 * layer + 1];
                assert_bits(&format!("{label}: before, layer {layer}"), &expected[0], &found[before]);
                assert_bits(&format!("{label}: behind, layer {layer}"), &expected[1], &found[behind]);
                assert_bits(
                    &format!("{label}: on top, layer {layer}"),
                    &expected[2],
                    &found[2 * LAYERS + layer],
                );
            }
        }
    }
}

#[test]
fn what_does_not_come_leaves_its_place_as_it_was() {
    for backend in &mut every_backend() {
        let label = label(&**backend);
        let pool = pool(PageElement::F16);
        let [old, new] = [4, 5].map(|seed| values(&pool, SECOND.len(), seed));
        let coming = made(backend, pool, &new);
        let before = made(backend, pool, &old);
        let address = |layer| both(&pool, layer, SLOTS[1]);
        let all = [address(0), address(1)].concat();
        let held =
            |backend: &mut Boxed| pages(backend, &all).into_iter().map(|p| p.bytes).collect::<Vec<_>>();
        assert!(held(backend) == before.concat(), "{label}");

        // One that is not there, one that is too short, too few of them, and nobody who brings them any more.
        let short: Bytes = coming[0][1][PAGE_UNIT..].to_vec().into();
        for pages in [Some(vec![None, Some(short)]), Some(Vec::new()), None] {
            let (bring, arrival) = brought(vec![address(0), address(1)]);
            pages.into_iter().for_each(|pages| bring[0].send(pages).expect("it waits"));
            drop(bring);
            let mut step = step(&pool, &SECOND);
            step.push(Op::Arrive { layer: 0, pages: arrival });
            run(backend, step);
            assert!(held(backend) == before.concat(), "{label}");
        }

        // One of two, and in one layer alone; what was taken does not come to another step.
        let (bring, arrival) = brought(vec![address(0), address(1)]);
        bring[1].send(vec![None, Some(coming[1][1].clone())]).expect("it waits");
        drop(bring);
        let mut expected = before.concat();
        expected[3].clone_from(&coming[1][1]);
        for again in [false, true] {
            if again {
                let first = PageData { address: all[3], bytes: before[1][1].clone() };
                backend.write_pages(&[first]).expect("a page of the pool");
                expected[3].clone_from(&before[1][1]);
            }
            let mut step = step(&pool, &SECOND);
            (0..2).for_each(|layer| step.push(Op::Arrive { layer, pages: arrival.clone() }));
            run(backend, step);
            assert!(held(backend) == expected, "{label}: again: {again}");
        }
    }
}

#[test]
fn places_that_there_are_not_are_refused_before_anything_runs() {
    for backend in &mut every_backend() {
        let label = label(&**backend);
        let pool = pool(PageElement::F16);
        let before = made(backend, pool, &values(&pool, SECOND.len(), 6));
        let other = values(&pool, SECOND.len(), 7);
        let beyond = pool.page(0, pool.slots as u32, PageHalf::K);
        let behind = pool.stripe_units();
        let last = beyond.at as usize + beyond.units as usize - 1;
        let none = PageAddress { units: 0, ..pool.page(0, 0, PageHalf::K) };
        let out = |what, index, len| ContractError::OutOfRange { what, index, len };
        let refusals: [(PageAddress, Option<ContractError>); 3] = [
            (beyond, Some(out("last unit of a page", last, behind))),
            (none, None),
            // A layer's pages are that layer's.
            (pool.page(1, 0, PageHalf::K), None),
        ];
        for (place, expected) in refusals {
            let (_bring, arrival) = brought(vec![vec![pool.page(0, 0, PageHalf::V), place]]);
            let mut step = step(&pool, &SECOND);
            append(&mut step, &other);
            step.push(Op::Arrive { layer: 0, pages: arrival });
            match (backend.submit(step), expected) {
                (Err(BackendError::Contract(refused)), Some(expected)) => {
                    assert_eq!(refused, expected, "{label}")
                }
                (Err(BackendError::Contract(_)), None) => {}
                (other, _) => panic!("{label}: {place}: {other:?}"),
            }
        }
        let all = [0, 1].map(|layer| both(&pool, layer, SLOTS[1])).concat();
        let held: Vec<_> = pages(backend, &all).into_iter().map(|page| page.bytes).collect();
        assert!(held == before.concat(), "{label}: something ran");
    }
}
