//! Workloads, the cache and the machine together: what holds for every run, and runs that are computed by hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod round;

use std::collections::HashMap;

use interleaf_kv::policy::Policy;
use interleaf_kv::{Config, LinearCost, Manager, Open, SwitchCosts, TierConfig, TrimLevel};
use interleaf_simulate::{
    Calibration, Grid, NamedPolicy, Run, Segment, Simulation, Sizes, What, Workload, shared_prefix, table,
    working_set,
};

fn orin() -> Calibration {
    Calibration::named("orin-nx").unwrap()
}

fn simulation(workload: &str, policy: &str, bytes: u64, requests: u64) -> Simulation {
    Simulation {
        workload: Workload::named(workload).unwrap(),
        calibration: orin(),
        policy: NamedPolicy::named(policy).unwrap(),
        bytes,
        flash_bytes: Simulation::FLASH_BYTES,
        requests,
        seed: 1,
        slots: Simulation::SLOTS,
    }
}

/// All but what depends on this machine.
fn timeless(run: Run) -> Run {
    Run { operations_per_second: 0.0, ..run }
}

#[test]
fn every_request_is_served_or_refused_and_nothing_stays_behind() {
    // A run fails where the cache breaks a rule or keeps something after the last request.
    for workload in Workload::names() {
        let set = working_set(&Workload::named(&workload).unwrap(), &orin(), 150, 1);
        for policy in NamedPolicy::whole() {
            for bytes in [set / 20, set / 4, 2 * set] {
                let run = simulation(&workload, policy.name, bytes, 150).run().unwrap();
                assert_eq!((run.requests, run.served + run.refused), (150, 150), "{run:?}");
                assert_eq!(run.row.invalid_kv_share, 0.0, "{run:?}");
            }
        }
    }
}

#[test]
fn a_seed_gives_one_row() {
    for workload in ["llms", "edgelora/prefixed", "elora", "mobilora"] {
        let run = |seed| {
            timeless(Simulation { seed, ..simulation(workload, "combined", 2 << 30, 200) }.run().unwrap())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).row, run(2).row);
    }
}

#[test]
fn where_all_wait_for_room_the_last_gives_up_its_own() {
    // Two adapters of 112 MB and little more: many requests that each could be served alone.
    let run = simulation("edgelora", "lru", 300 << 20, 300).run().unwrap();
    assert!(run.retried > 0 && run.served == 300, "{run:?}");
}

#[test]
fn what_does_not_fit_is_refused_and_the_rest_is_served() {
    // 1,000 tokens of the 4,096 that contexts grow to.
    let run = simulation("llms", "lru", 250 << 20, 300).run().unwrap();
    assert!(run.refused > 50 && run.served > 50, "{run:?}");
    let nothing = simulation("elora", "lru", 8 << 20, 300).run().unwrap();
    assert_eq!((nothing.refused, nothing.row.hit_rate, nothing.row.ttft_mean_ms), (300, 0.0, None));
}

#[test]
fn more_memory_than_can_be_used_is_as_good_as_enough() {
    // Contexts that were forgotten may stay, too.
    for (workload, sets) in [("edgelora/prefixed", 4), ("llms", 12)] {
        let enough = sets * working_set(&Workload::named(workload).unwrap(), &orin(), 150, 1);
        for policy in NamedPolicy::whole() {
            let run = |bytes| {
                let flash_bytes = bytes;
                let simulation = Simulation { flash_bytes, ..simulation(workload, policy.name, bytes, 150) };
                timeless(simulation.run().unwrap())
            };
            let (mut all, enough) = (run(u64::MAX), run(enough));
            assert_eq!(std::mem::replace(&mut all.row.bytes, enough.row.bytes), u64::MAX);
            assert_eq!(all, enough);
        }
    }
}

/// What a workload's prompts have in common with what its context, or else its adapter's first, had before.
fn shared_share(workload: &Workload, requests: u64) -> f64 {
    let mut contexts: HashMap<u32, Vec<Segment>> = HashMap::new();
    let mut first: HashMap<Option<u32>, Vec<Segment>> = HashMap::new();
    let (mut shared, mut all) = (0, 0);
    for event in workload.events(1).requests(requests) {
        let What::Request(request) = event.what else { continue };
        let of_context =
            contexts.get(&request.context).map_or(0, |text| shared_prefix(text, &request.prompt));
        let of_adapter = first.get(&request.adapter).map_or(0, |text| shared_prefix(text, &request.prompt));
        // Of an answer's last token there is no K and V.
        shared += of_context.saturating_sub(1).max(of_adapter);
        all += request.prompt_tokens();
        first.entry(request.adapter).or_insert_with(|| request.prompt.clone());
        let text = [request.prompt, vec![request.answer]].concat();
        contexts.insert(request.context, text);
    }
    shared as f64 / all as f64
}

#[test]
fn with_memory_for_all_what_can_be_shared_is() {
    // Unrelated prompts begin with the same token by chance; requests under way at a time find nothing of each other.
    for (workload, tolerance) in [("llms", 1e-4), ("edgelora", 1e-4), ("elora", 0.01), ("mobilora", 1e-3)] {
        let all = simulation(workload, "lru", 200 << 30, 1000);
        let (found, expected) = (all.run().unwrap(), shared_share(&all.workload, 1000));
        let off = found.row.hit_rate - expected;
        assert!(off.abs() <= tolerance, "{workload}: {}, expected {expected}", found.row.hit_rate);
        if !workload.starts_with("mobilora") {
            assert_eq!(found.evicted, 0, "{workload}");
            assert_eq!(found.memory_hit_rate, found.row.hit_rate, "{workload}");
        }
    }
}

#[test]
fn more_memory_finds_more_under_lru() {
    for workload in ["llms", "elora", "mobilora"] {
        let set = working_set(&Workload::named(workload).unwrap(), &orin(), 600, 1);
        let rate = |percent| {
            let all = simulation(workload, "lru", set / 100 * percent, 600);
            Simulation { flash_bytes: 0, ..all }.run().unwrap().row.hit_rate
        };
        let rates: Vec<f64> = [20, 40, 60, 80, 120].into_iter().map(rate).collect();
        assert!(rates.windows(2).all(|two| two[1] >= two[0] - 0.01), "{workload}: {rates:?}");
        assert!(rates[4] > rates[0] + 0.05, "{workload}: {rates:?}");
    }
}

/// Contexts that grow by 30 tokens of a prompt and 2 of an answer, with a day between two calls.
fn calls(contexts: u32, adapters: &str) -> Workload {
    let text = format!(
        r#"
        kind = "llms"
        seconds = 1
        context_limit = 4096
        {adapters}
        [requests]
        mean_gap = 86400
        contexts = {contexts}
        switching = "random"
        recency = 0.5
        datasets = [{{ name = "d", growth = [32, 32], answer_share = 0.0625 }}]
    "#
    );
    Workload::parse("calls.toml", &text, None).unwrap()
}

fn by_hand(workload: Workload, chunks: u64, requests: u64, seed: u64) -> Run {
    Simulation {
        workload,
        calibration: round::machine(),
        bytes: chunks * (16 << 10),
        seed,
        ..simulation("llms", "lru", 0, requests)
    }
    .run()
    .unwrap()
}

#[track_caller]
fn is_mean(found: Option<f64>, seconds: &[f64]) {
    let expected = seconds.iter().sum::<f64>() / seconds.len() as f64;
    let found = found.unwrap() / 1e3;
    assert!((found - expected).abs() < 1e-6, "{found} s, expected {expected} s");
}

#[test]
fn one_context_computes_what_is_new_and_loads_its_adapter_once() {
    // One rank row of q: 256 inputs and 512 outputs of 2 bytes are 1,536 bytes, in a piece of as many: 2 s and 1.5 s.
    let adapter = "adapters = { count = 1, ranks = [1], projections = [\"q\"] }";
    let run = by_hand(calls(1, adapter), 100, 3, 1);
    // 30 tokens; then the last token of the answer before and 30 more, twice.
    is_mean(run.row.ttft_mean_ms, &[3.5 + 3.0, 3.1, 3.1]);
    is_mean(run.row.switch_mean_ms, &[3.5, 0.0, 0.0]);
    // Reused: 31 of 62 and 63 of 94, all of it in memory.
    assert_eq!(run.row.hit_rate, (31.0 + 63.0) / (30.0 + 62.0 + 94.0));
    assert_eq!(run.memory_hit_rate, run.row.hit_rate);
    // Loaded once; written when a call is over: 2 chunks, then the last and 2 more, twice.
    assert_eq!(run.row.bytes_moved, 1536 + 8 * (16 << 10));
}

#[test]
fn what_went_to_flash_is_read_what_is_no_whole_chunk_too() {
    let order = |seed: &u64| {
        let events = calls(2, "").events(*seed).requests(4);
        events
            .filter_map(|event| if let What::Request(r) = event.what { Some(r.context) } else { None })
            .collect()
    };
    let seed = (1..100)
        .find(|seed| {
            let o: Vec<u32> = order(seed);
            o == [0, 1, 0, 1]
        })
        .unwrap();
    let run = by_hand(calls(2, ""), 4, 4, seed);
    // Each context has a chunk and 15 tokens when its first call is over, and 4 chunks fit. A tick leaves 3 of them, without
    // the first context's 15 tokens; its second call finds its chunk in memory, reads those in 0.25 s and half a second,
    // sooner than they are computed, and computes 31 tokens in the second context's room. That one reads both of its chunks,
    // in 0.25 s and a second, and computes as many.
    is_mean(run.row.ttft_mean_ms, &[3.0, 3.0, 0.75 + 3.1, 1.25 + 3.1]);
    is_mean(run.row.switch_mean_ms, &[0.0, 0.0, 0.75, 1.25]);
    assert_eq!(run.row.hit_rate, (31.0 + 31.0) / (30.0 + 30.0 + 62.0 + 62.0));
    // Chunks that are read count as whole ones.
    assert_eq!(run.memory_hit_rate, 15.0 / (30.0 + 30.0 + 62.0 + 62.0));
}

#[test]
fn reading_ahead_takes_nothing_out() {
    let free = LinearCost { fixed: 0.0, each: 1e-9 };
    let mut manager = Manager::new(Config {
        forms: Vec::new(),
        layers: 1,
        page_bytes: 1024,
        element: interleaf_contract::PageElement::F16,
        tiers: vec![TierConfig { striped: false, chunks: 10 }, TierConfig { striped: false, chunks: 100 }],
        policy: Policy::Lru,
        costs: SwitchCosts { recompute: free, read: free, least_saved: 0.0 },
        can_recompute: true,
        idle_below: 0.7,
        busy_above: 0.95,
        longest_context: 1024,
    })
    .unwrap();
    let app = manager.open_app(None).unwrap();
    let serve = |manager: &mut Manager, first: u32, chunks: usize, now: f64| {
        let tokens: Vec<u32> = (0..16 * chunks as u32).map(|token| first + token).collect();
        let open = Open {
            app,
            adapter: None,
            tokens: &tokens,
            most: tokens.len() - 1,
            budget: 0.0,
            is_kept: true,
            now,
        };
        let id = manager.open(&open).unwrap().sequence;
        manager.append(id, tokens.len()).unwrap();
        manager.commit(id, &tokens, 0.0).unwrap();
        for op in manager.close(id, now).unwrap() {
            manager.done(op.id);
        }
    };
    serve(&mut manager, 0, 6, 0.0);
    manager.trim(TrimLevel::Warning);
    serve(&mut manager, 1000, 4, 1.0);
    let (evicted, held) = (manager.evicted(0), manager.held_bytes(0));
    let mut now = 1.0;
    for _ in 0..20 {
        now += 0.1;
        for op in manager.tick(now) {
            manager.done(op.id);
        }
    }
    assert_eq!((held, manager.held_bytes(0)), (4 * 1024, 7 * 1024), "filled to 70 % and no further");
    assert_eq!(manager.evicted(0), evicted);
    manager.check().unwrap();
}

#[test]
fn names_that_are_unknown_are_refused_with_those_that_are_known() {
    let error = NamedPolicy::matching("fifo").unwrap_err().to_string();
    let known = "no policy is called \"fifo\", expected one of lru, lctru, mobilora, elora, combined, lctru-pipeline, elora-";
    assert!(error.starts_with(known), "{error}");
    let error = Workload::matching("azure").unwrap_err().to_string();
    assert!(error.contains("azure") && error.contains("llms/random, "), "{error}");
    let policies = |names| NamedPolicy::matching(names).unwrap().len();
    assert_eq!(
        [policies("all"), policies("terms"), policies("lru,elora-cost")],
        [5, NamedPolicy::all().len() - 5, 2]
    );
    let workloads = |names| Workload::matching(names).unwrap().len();
    assert_eq!([workloads("all"), workloads("elora"), workloads("llms/random,elora")], [4, 1, 2]);
    for policy in NamedPolicy::all() {
        assert_eq!(NamedPolicy::named(policy.name).unwrap(), policy);
        let whole = policy.name.split('-').next().unwrap();
        assert!(
            policy.name == whole
                || policy != NamedPolicy { name: policy.name, ..NamedPolicy::named(whole).unwrap() }
        );
    }
}

#[test]
fn the_working_set_is_the_largest_sum_of_live_contexts() {
    // One context of 32 tokens, then 64 and 96: whole chunks of 16 KiB.
    let one = |requests| working_set(&calls(1, ""), &round::machine(), requests, 1);
    assert_eq!([one(1), one(2), one(3)], [2, 4, 6].map(|chunks| chunks * (16 << 10)));
    // Full contexts are forgotten, and single questions are not live once they are answered.
    assert_eq!(one(1000), (4096 / 16) * (16 << 10));
    let edgelora = Workload::named("edgelora").unwrap();
    let adapters: u64 = edgelora.adapters(&orin().model).iter().map(|adapter| adapter.bytes).sum();
    assert_eq!(working_set(&edgelora, &orin(), 1000, 1) - adapters, 24 * (4 << 20));
}

#[test]
fn a_grid_has_every_run_and_stands_policies_beside_each_other() {
    let grid = Grid {
        workloads: vec![Workload::named("mobilora").unwrap(), Workload::named("llms").unwrap()],
        policies: NamedPolicy::whole(),
        sizes: Sizes::default(),
        flash_bytes: Simulation::FLASH_BYTES,
        seeds: vec![1, 2],
        requests: 60,
        calibration: orin(),
    };
    let cells = grid.run().unwrap();
    assert_eq!(cells.len(), 2 * 5 * 3 * 2);
    let standings = table::standings(&cells);
    assert_eq!(standings.len(), 2 * 5 * 3);
    assert!(standings.iter().all(|standing| standing.worst_ratio >= 1.0));
    assert!(
        standings
            .iter()
            .any(|standing| standing.measure == "p99 switch latency" && standing.workload == "llms")
    );
    assert!(table::comparison(&cells).contains("mobilora, 25 % of the working set: mean TTFT"));
    let json = serde_json::to_value(&cells[0].run).unwrap();
    let expected = [
        "workload",
        "policy",
        "bytes",
        "hit_rate",
        "invalid_kv_share",
        "bytes_moved",
        "ttft_mean_ms",
        "ttft_p50_ms",
        "ttft_p95_ms",
        "ttft_p99_ms",
        "switch_mean_ms",
        "switch_p99_ms",
        "requests_per_second",
    ];
    assert!(expected.iter().all(|name| json.get(name).is_some_and(|value| !value.is_null())), "{json}");
}
