//! What the bad adapters of `tests/data/bad-adapters` cost to be refused: about what is in the files, and
//! nothing of what their headers claim.

use std::path::Path;

use interleaf_runtime::{BackendChoice, Engine, EngineOptions, Source};

use crate::build::family;
use crate::measure::{alone, measure};

/// Some tens of times the largest file among them, in bytes.
const LIMIT: usize = 2 << 20;

#[test]
fn no_bad_adapter_makes_the_engine_allocate_what_it_claims() {
    let _alone = alone();
    let options = EngineOptions { backend: BackendChoice::Cpu, threads: 1, ..EngineOptions::default() };
    let mut engine =
        Engine::open(Source::dir(family("llama-bias")), &options, &mut |_| ()).expect("it is sound");
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bad-adapters");
    let mut opened = 0;
    for entry in std::fs::read_dir(folders).expect("the folders are here") {
        let path = entry.expect("readable").path();
        if !path.is_dir() {
            continue;
        }
        let name = path.display().to_string();
        let (_, held, _) = measure(|| engine.register_adapter(&name, &Source::dir(&path)).is_ok());
        assert!(held <= LIMIT, "{name}: {held} bytes held");
        opened += 1;
    }
    assert!(opened > 0);
}
