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
use crate::sync::orders;

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
