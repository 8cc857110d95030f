//! What the threads of the file of pages share with who computes, in many orders in which these may run: nobody waits for ever, every
//! write is told of once, and every layer comes, or is said not to.

use std::sync::Arc;

use interleaf_contract::{Bytes, PAGE_UNIT, PageAddress};
use interleaf_kv::OpId;
use interleaf_model::Digest;
use shuttle::thread;
use xxhash_rust::xxh3::xxh3_64;

use super::arrivals::Arrivals;
use super::files::{Files, Wanted};
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
            let arrivals = Arc::new(Arrivals::new(3));
            let arrives = Arc::clone(&arrivals);
            let reads = thread::spawn(move || {
                arrives.arrived(0, Vec::new(), []);
                arrives.arrived(1, Vec::new(), [OpId(4)]);
                arrives.cannot(OpId(5));
                arrives.arrived(2, Vec::new(), []);
            });
            (0..3).for_each(|layer| assert!(arrivals.wait(layer).is_empty()));
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
            let arrivals = Arc::new(Arrivals::new(2));
            let layers =
                vec![(0, vec![wanted(8, 1, true), wanted(9, 2, false)]), (1, vec![wanted(8, 3, true)])];
            files.read(layers, &arrivals);
            // Whoever waits gets his, even where the threads end meanwhile.
            let ends = thread::spawn(move || drop(files));
            let there = [0, 1].map(|layer| arrivals.wait(layer).len());
            let failed = arrivals.failed();
            assert_eq!((there, failed.into_iter().collect::<Vec<_>>()), ([1, 1], vec![OpId(9)]));
            ends.join().expect("no panic");
        },
        orders() / 3,
    );
}
