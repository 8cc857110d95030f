//! What the threads of the file of pages share with who computes, in many orders in which these may run: nobody waits for ever, every
//! write is told of once, and every layer comes, or is said not to.

use std::sync::Arc;

use interleaf_contract::{ArrivingPages, Bytes, PAGE_UNIT, PageAddress};
use interleaf_kv::OpId;
use interleaf_model::Digest;
use shuttle::thread;
use xxhash_rust::xxh3::xxh3_64;

use super::arrivals::{Arrivals, Wanted};
use super::files::Files;
use super::index::Index;
use super::pages::PageFile;
use crate::sync::{Mutex, orders};

fn files(folder: &std::path::Path) -> Files {
    let pages = PageFile::open(&folder.join("pages"), None).expect("it opens");
    let (index, _) = Index::open(&folder.join("index"), Digest::from_bytes([1; 32])).expect("it opens");
    Files::start(pages, index).expect("there are threads")
}

fn page(byte: u8) -> Bytes {
    Bytes::from(vec![byte; PAGE_UNIT])
}

fn wanted(op: u64, byte: u8, is_whole: bool) -> Wanted {
    let check = xxh3_64(&page(byte)) ^ u64::from(!is_whole);
    let to = PageAddress { layer: 0, at: u32::from(byte), units: 1 };
    Wanted { op: OpId(op), at: u64::from(byte) * PAGE_UNIT as u64, check, to }
}

#[test]
fn a_layer_is_waited_for_until_it_is_there() {
    shuttle::check_random(
        || {
            let of_layer =
                [vec![wanted(3, 1, true)], vec![wanted(4, 2, true), wanted(3, 3, true)], Vec::new()];
            let arrivals = Arc::new(Arrivals::new(of_layer.into(), [OpId(5)].into()));
            let arrives = Arc::clone(&arrivals);
            let reads = thread::spawn(move || {
                arrives.arrived(0, vec![Some(page(1))]);
                arrives.arrived(1, vec![None, Some(page(3))]);
                arrives.arrived(2, Vec::new());
            });
            let there = [0, 1, 2].map(|layer| arrivals.wait(layer).iter().flatten().count());
            assert_eq!(there, [1, 1, 0]);
            assert!(arrivals.wait(0).is_empty(), "what was taken does not come again");
            assert!(arrivals.wait(3).is_empty(), "of layers that there are not nothing comes");
            assert_eq!(arrivals.failed().into_iter().collect::<Vec<_>>(), [OpId(4), OpId(5)]);
            reads.join().expect("no panic");
        },
        orders(),
    );
}

#[test]
fn what_is_written_is_told_of_once_and_read_again() {
    shuttle::check_random(
        || {
            let folder = tempfile::tempdir().expect("a folder");
            let files = files(folder.path());
            (1..=3).for_each(|op| {
                files.write(OpId(op), vec![(op * PAGE_UNIT as u64, page(op as u8))], None);
            });
            let mut told = Vec::new();
            while told.len() < 3 {
                files.wait();
                told.extend(files.take_written().into_iter().map(|(op, written)| (op, written.is_ok())));
            }
            assert_eq!(told, [1, 2, 3].map(|op| (OpId(op), true)));
            assert_eq!(files.bytes_under_way(), 0);
            files.wait();
            let layers = vec![vec![wanted(8, 1, true), wanted(9, 2, false)], vec![wanted(8, 3, true)]];
            let arrivals = Arc::new(Arrivals::new(layers, [].into()));
            files.read(&arrivals);
            // Whoever waits gets his, even where the threads end meanwhile.
            let ends = thread::spawn(move || drop(files));
            let there = [0, 1].map(|layer| arrivals.wait(layer).iter().flatten().count());
            let failed = arrivals.failed();
            assert_eq!((there, failed.into_iter().collect::<Vec<_>>()), ([1, 1], vec![OpId(9)]));
            ends.join().expect("no panic");
        },
        orders() / 3,
    );
}

#[test]
fn readers_never_keep_each_other_from_what_is_next() {
    const LAYERS: usize = 5;
    // Of the one in the middle there is nothing, and nobody waits for it; the second time nobody takes more than one.
    for taken in [LAYERS, 1] {
        let body = move || {
            let of_layer = |layer: usize| match layer {
                2 => Vec::new(),
                layer => vec![wanted(layer as u64, layer as u8, true)],
            };
            let arrivals = Arc::new(Arrivals::new((0..LAYERS).map(of_layer).collect(), [].into()));
            let next = Arc::new(Mutex::new(0..LAYERS));
            let readers = [(); 2].map(|()| {
                let (arrivals, next) = (Arc::clone(&arrivals), Arc::clone(&next));
                thread::spawn(move || {
                    let next = || next.lock().expect("whole").next();
                    while let Some(layer) = next() {
                        // There is room for one page.
                        let pages = match arrivals.make_room(layer, PAGE_UNIT) {
                            true => vec![Some(page(layer as u8)); usize::from(layer != 2)],
                            false => Vec::new(),
                        };
                        arrivals.arrived(layer, pages);
                    }
                })
            });
            for layer in (0..taken).filter(|layer| *layer != 2) {
                assert_eq!(arrivals.wait(layer as u32).iter().flatten().count(), 1, "layer {layer}");
            }
            arrivals.close();
            readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
        };
        shuttle::check_random(body, orders());
    }
}
