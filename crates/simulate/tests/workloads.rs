//! What is drawn against what the papers say, in numbers; and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::path::Path;

use interleaf_simulate::{
    AppState, Calibration, Event, Request, Segment, SettingsError, What, Workload, length, shared_prefix,
};

fn workload(name: &str) -> Workload {
    Workload::named(name).unwrap()
}

fn requests(workload: &Workload, seed: u64, count: u64) -> Vec<(f64, Request)> {
    let events = workload.events(seed).requests(count);
    let request = |event: Event| match event.what {
        What::Request(request) => Some((event.at, request)),
        _ => None,
    };
    let all: Vec<_> = events.filter_map(request).collect();
    assert_eq!(all.len() as u64, count);
    all
}

/// FNV-1a of all that events say, times by their bits.
fn hash(events: impl Iterator<Item = Event>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |number: u64| {
        for byte in number.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for event in events {
        add(event.at.to_bits());
        match event.what {
            What::Request(request) => {
                add(u64::from(request.app));
                add(u64::from(request.context));
                add(request.adapter.map_or(u64::MAX, u64::from));
                for segment in request.prompt.iter().chain([&request.answer]) {
                    add(segment.source);
                    add(u64::from(segment.tokens));
                }
            }
            What::AppState { app, state } => {
                add(u64::from(app));
                add(state as u64);
            }
            What::Forget { context } => add(u64::from(context)),
        }
    }
    hash
}

#[test]
fn the_first_thousand_events_are_these_for_ever() {
    let found: Vec<(String, u64)> = Workload::names()
        .into_iter()
        .map(|name| {
            let drawn = hash(workload(&name).events(1).take(1000));
            assert_eq!(drawn, hash(workload(&name).events(1).take(1000)), "{name}");
            assert_ne!(drawn, hash(workload(&name).events(2).take(1000)), "{name}");
            (name, drawn)
        })
        .collect();
    let expected: Vec<(String, u64)> =
        GOLDEN.iter().map(|(name, hash)| ((*name).to_owned(), *hash)).collect();
    assert_eq!(found, expected, "{found:#x?}");
}

/// Whoever changes a number here changes what every recorded result was measured under.
const GOLDEN: [(&str, u64); 19] = [
    ("llms", 0xc427_4911_e1c1_4b9e),
    ("llms/adapters", 0xe71b_fd43_235d_acae),
    ("llms/gaussian", 0xa7a1_164f_d54d_f4e4),
    ("llms/markov", 0xc427_4911_e1c1_4b9e),
    ("llms/random", 0x0337_61fc_9da4_8535),
    ("edgelora", 0x6a94_2fc8_f0bc_cec0),
    ("edgelora/compat", 0x957f_ba4b_94ee_28f8),
    ("edgelora/prefixed", 0x2b84_815a_c927_17dd),
    ("edgelora/slora", 0x44f5_640a_2d41_6641),
    ("elora", 0x2dfc_c221_7c97_3299),
    ("elora/agents", 0x2dfc_c221_7c97_3299),
    ("elora/agents-100", 0x188f_4d3b_f6c9_a64d),
    ("elora/agents-20", 0x6b47_df8c_e403_8252),
    ("elora/chatbots", 0x58b7_4d1b_1a0f_03de),
    ("elora/translation", 0xd6b7_d891_fcf1_d96a),
    ("mobilora", 0xc742_155a_c2bf_9b00),
    ("mobilora/apps-20", 0x95bc_290d_51b4_6888),
    ("mobilora/zipf-12", 0x4d45_e0cf_0547_faec),
    ("mobilora/zipf-14", 0x9a29_ccec_27b6_b2ed),
];

#[test]
fn every_workload_keeps_the_rules_of_events() {
    for name in Workload::names() {
        let workload = workload(&name);
        let model = Calibration::named("orin-nx").unwrap().model;
        let adapters = workload.adapters(&model).len();
        let mut last = 0.0;
        // By context: its app, its adapter, and the text that it goes on with.
        let mut contexts: HashMap<u32, (u32, Option<u32>, Vec<Segment>)> = HashMap::new();
        let mut seen = HashSet::new();
        for event in workload.events(3).requests(20_000) {
            assert!(event.at >= last, "{name}: {} after {last}", event.at);
            last = event.at;
            match event.what {
                What::Request(request) => {
                    let tokens = request.prompt_tokens() + u64::from(request.answer.tokens);
                    assert!(tokens <= u64::from(workload.context_limit()), "{name}: {tokens}");
                    assert!(request.prompt.iter().all(|segment| segment.tokens > 0), "{name}");
                    assert!(request.answer.tokens > 0, "{name}");
                    match request.adapter {
                        None => assert_eq!(adapters, 0, "{name}"),
                        Some(adapter) => assert!((adapter as usize) < adapters, "{name}"),
                    }
                    let text = [request.prompt.as_slice(), &[request.answer]].concat();
                    if let Some((app, adapter, before)) = contexts.get(&request.context) {
                        assert_eq!((*app, *adapter), (request.app, request.adapter), "{name}");
                        assert_eq!(shared_prefix(before, &request.prompt), length(before), "{name}");
                    } else {
                        assert!(seen.insert(request.context), "{name}: a context came back");
                    }
                    contexts.insert(request.context, (request.app, request.adapter, text));
                }
                What::Forget { context } => assert!(contexts.remove(&context).is_some(), "{name}: {context}"),
                What::AppState { .. } => {}
            }
        }
    }
}

#[test]
fn variants_of_a_seed_have_the_same_arrivals() {
    let times = |name| requests(&workload(name), 5, 500).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(times("llms/random"), times("llms/gaussian"));
    assert_eq!(times("edgelora"), times("edgelora/compat"));
}

#[test]
fn events_end_where_they_are_told_to() {
    let workload = workload("llms");
    let ended: Vec<_> = workload.events(1).until(workload.seconds()).collect();
    assert!(ended.iter().all(|event| event.at <= 259_200.0));
    // 864 calls on average, with a deviation of 29.
    let calls = ended.iter().filter(|event| matches!(event.what, What::Request(_))).count();
    assert!((864 - 150..864 + 150).contains(&calls), "{calls}");
    let mut events = workload.events(1).requests(3);
    assert_eq!(events.by_ref().filter(|event| matches!(event.what, What::Request(_))).count(), 3);
    assert_eq!(events.next(), None);
}

#[test]
fn llms_calls_are_poisson_and_grow_as_their_data_sets() {
    let all = requests(&workload("llms/random"), 1, 100_000);
    let mean = all.last().unwrap().0 / all.len() as f64;
    assert!((mean / 300.0 - 1.0).abs() < 0.02, "{mean}");
    let growths = [(200, 500), (1000, 2000), (100, 300), (500, 1000), (100, 500), (10, 100)];
    let mut counts = [0_u32; 8];
    for (_, request) in &all {
        let growth = request.prompt.last().unwrap().tokens + request.answer.tokens;
        let (min, max) = growths[request.app as usize % 6];
        assert!((min..=max).contains(&growth), "{}: {growth}", request.app);
        counts[request.app as usize] += 1;
    }
    // Each app a share of 1/8, with a deviation of 105 calls.
    assert!(counts.iter().all(|count| count.abs_diff(12_500) < 525), "{counts:?}");
}

#[test]
fn llms_markov_favours_recent_contexts_and_gaussian_the_middle_ones() {
    // The share of calls whose app is the one that was called just before.
    let recent = |name| {
        let apps: Vec<u32> =
            requests(&workload(name), 1, 50_000).into_iter().map(|(_, request)| request.app).collect();
        apps.windows(2).filter(|two| two[0] == two[1]).count() as f64 / apps.len() as f64
    };
    // 0.5^0 / (0.5^0 + … + 0.5^7), and 1/8.
    assert!((recent("llms/markov") - 0.50196).abs() < 0.01, "{}", recent("llms/markov"));
    assert!((recent("llms/random") - 0.125).abs() < 0.01, "{}", recent("llms/random"));
    let mut counts = [0_u32; 8];
    for (_, request) in requests(&workload("llms/gaussian"), 1, 50_000) {
        counts[request.app as usize] += 1;
    }
    // App 1 has XSum, far longer than the mean, and app 3 CNN/DM, nearest to it.
    let means = [350.0, 1500.0, 200.0, 750.0, 300.0, 55.0, 350.0, 1500.0];
    let mean = means.iter().sum::<f64>() / 8.0;
    let variance = means.iter().map(|m: &f64| (m - mean).powi(2)).sum::<f64>() / 8.0;
    let weights = means.map(|m: f64| (-(m - mean).powi(2) / (2.0 * variance)).exp());
    let all: f64 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        assert!((f64::from(*count) / 50_000.0 - weight / all).abs() < 0.01, "{counts:?}");
    }
}

/// Shares of adapters, by their places.
fn shares(name: &str, changes: &str, count: u64) -> Vec<f64> {
    let workload = workload(name).with(changes).unwrap();
    let mut counts = vec![0.0; 50];
    for (_, request) in requests(&workload, 1, count) {
        counts[request.adapter.unwrap() as usize] += 1.0 / count as f64;
    }
    counts
}

#[test]
fn edgelora_draws_adapters_by_zipf_and_in_compat_by_the_power_law() {
    let count = 200_000;
    let square = |found: &[f64], expected: &dyn Fn(usize) -> f64| -> f64 {
        let of = |(place, share): (usize, &f64)| (share - expected(place)).powi(2) / expected(place);
        found.iter().enumerate().map(of).sum::<f64>() * count as f64
    };
    // Chi-squares of 49 degrees of freedom: 49 ± 10; 5 of these away.
    for exponent in [0.8, 1.0, 1.3] {
        let found = shares("edgelora", &format!("requests.exponent = {exponent}"), count);
        let all: f64 = (1..=50).map(|k| f64::from(k).powf(-exponent)).sum();
        let zipf = |place: usize| ((place + 1) as f64).powf(-exponent) / all;
        assert!(square(&found, &zipf) < 99.0, "{exponent}: {found:?}");
    }
    for alpha in [0.3, 1.0] {
        let found = shares("edgelora/compat", &format!("requests.exponent = {alpha}"), count);
        // u^(1/α)·n is below k with probability (k/n)^α: for α = 1 all are equal.
        let below = |place: usize| (place as f64 / 50.0).powf(alpha);
        assert!(square(&found, &|place| below(place + 1) - below(place)) < 99.0, "{alpha}: {found:?}");
    }
}

#[test]
fn edgelora_arrives_at_its_rate_with_its_variation() {
    let count = 200_000;
    let all = requests(&workload("edgelora"), 1, count);
    let gaps: Vec<f64> = all.windows(2).map(|two| two[1].0 - two[0].0).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
    assert!((mean / 2.0 - 1.0).abs() < 0.02, "{mean}");
    assert!((deviation / mean / 1.5 - 1.0).abs() < 0.03, "{}", deviation / mean);
    let mean =
        |tokens: &dyn Fn(&Request) -> f64| all.iter().map(|(_, r)| tokens(r)).sum::<f64>() / count as f64;
    assert!((mean(&|r| r.prompt_tokens() as f64) - 68.0).abs() < 0.5);
    assert!((mean(&|r| f64::from(r.answer.tokens)) - 132.0).abs() < 1.0);
}

#[test]
fn edgelora_shares_no_text_unless_told_to() {
    let pairs = |name| {
        let all = requests(&workload(name), 1, 200);
        let two = |(a, b): (usize, usize)| (all[a].1.clone(), all[b].1.clone());
        (0..200).flat_map(|a| (0..a).map(move |b| (a, b))).map(two).collect::<Vec<_>>()
    };
    assert!(pairs("edgelora").iter().all(|(a, b)| shared_prefix(&a.prompt, &b.prompt) == 0));
    for (a, b) in pairs("edgelora/prefixed") {
        let expected = if a.adapter == b.adapter { 256 } else { 0 };
        assert_eq!(shared_prefix(&a.prompt, &b.prompt), expected);
    }
    for (a, b) in pairs("edgelora/compat") {
        assert_eq!(shared_prefix(&a.prompt, &b.prompt), a.prompt_tokens().min(b.prompt_tokens()));
    }
}

#[test]
fn elora_has_turns_that_come_back_and_dialogues_side_by_side() {
    let all = requests(&workload("elora"), 1, 100_000);
    let mut turns: HashMap<u32, Vec<f64>> = HashMap::new();
    for (at, request) in &all {
        turns.entry(request.context).or_default().push(*at);
    }
    let mean = all.len() as f64 / turns.len() as f64;
    // 1/(1 − 0.91) turns; dialogues end by themselves long before their context is full.
    assert!((mean / 11.1 - 1.0).abs() < 0.05, "{mean}");
    let gaps: Vec<f64> = turns.values().flat_map(|at| at.windows(2).map(|two| two[1] - two[0])).collect();
    let think = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!((think / 30.0 - 1.0).abs() < 0.03, "{think}");
    // An adapter has several dialogues at a time: one that is not over yet is interrupted by another of the same adapter.
    let mut last: HashMap<u32, u32> = HashMap::new();
    let mut interrupted = 0;
    for (at, request) in &all {
        let before = last.insert(request.app, request.context);
        let other = before.filter(|context| *context != request.context);
        interrupted += u32::from(other.is_some_and(|context| turns[&context].last() > Some(at)));
    }
    assert!(interrupted as usize > all.len() / 10, "{interrupted}");
}

#[test]
fn elora_adapters_and_their_bytes_are_as_said() {
    let model = Calibration::named("orin-nx").unwrap().model;
    for (name, count) in [("elora/agents-20", 20), ("elora", 50), ("elora/agents-100", 100)] {
        let adapters = workload(name).adapters(&model);
        assert_eq!(adapters.len(), count, "{name}");
        assert_eq!((adapters[0].rank, adapters[1].rank, adapters[2].rank), (32, 64, 32));
        // Four projections of 4096 × 4096 in 32 layers, f16.
        assert_eq!(adapters[0].bytes, 32 * 4 * (4096 + 4096) * 32 * 2);
        assert_eq!(adapters[1].bytes, 2 * adapters[0].bytes);
    }
}

#[test]
fn mobilora_tells_the_states_of_apps_lawfully() {
    let workload = workload("mobilora");
    let mut states: HashMap<u32, AppState> = HashMap::new();
    let mut used: HashMap<u32, f64> = HashMap::new();
    let mut told = HashMap::new();
    for event in workload.events(4).requests(50_000) {
        match event.what {
            What::AppState { app, state } => {
                let before = states.insert(app, state);
                *told.entry(state).or_insert(0) += 1;
                match state {
                    AppState::Foreground => assert_ne!(before, Some(state)),
                    AppState::Background => {
                        assert_eq!(before, Some(AppState::Foreground));
                        assert!(event.at - used[&app] < 600.0);
                    }
                    AppState::Killed => {
                        assert_eq!(before, Some(AppState::Foreground));
                        assert!((event.at - used[&app] - 600.0).abs() < 1e-6);
                    }
                }
            }
            What::Request(request) => {
                assert_eq!(states.get(&request.app), Some(&AppState::Foreground));
                let in_front = states.values().filter(|state| **state == AppState::Foreground).count();
                assert_eq!(in_front, 1);
                used.insert(request.app, event.at);
            }
            What::Forget { .. } => {}
        }
    }
    assert_eq!(told.len(), 3);
    assert!(told.values().all(|count| *count > 1000), "{told:?}");
}

#[test]
fn mobilora_reuses_seven_in_ten_and_shares_prefixes() {
    let workload = workload("mobilora");
    let mut last: HashMap<u32, u32> = HashMap::new();
    let (mut could, mut did) = (0.0, 0.0);
    let mut first: Option<Request> = None;
    for event in workload.events(6).requests(100_000) {
        match event.what {
            What::Forget { context } => last.retain(|_, number| *number != context),
            What::Request(request) => {
                if let Some(before) = last.insert(request.app, request.context) {
                    could += 1.0;
                    did += f64::from(u8::from(before == request.context));
                }
                assert_eq!(request.adapter, Some(request.app % 10));
                let first = first.get_or_insert_with(|| request.clone());
                let shared = shared_prefix(&first.prompt, &request.prompt);
                match first.app == request.app {
                    true => assert!(shared >= 384, "{shared}"),
                    false => assert_eq!(shared, 256),
                }
            }
            What::AppState { .. } => {}
        }
    }
    // Somewhat fewer than 0.7: contexts fill.
    let share: f64 = did / could;
    assert!((0.66..0.705).contains(&share), "{share}");
}

/// The field and the reason of a refusal.
fn refused(name: &str, from: &str, to: &str) -> (String, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../benches/workloads/{name}.toml"));
    let good = std::fs::read_to_string(file).unwrap();
    let text = good.replacen(from, to, 1);
    assert_ne!(text, good, "{from}");
    match Workload::parse("w.toml", &text, None).unwrap_err() {
        SettingsError::Field { file, field, reason } => {
            assert!(file.starts_with("w.toml"), "{file}");
            (field, reason)
        }
        error => panic!("{error}"),
    }
}

#[test]
fn what_is_wrong_is_refused_by_field() {
    for (name, from, to, field, reason) in [
        ("llms", "seconds = 2", "minutes = 3\nseconds = 2", "minutes", "unknown field `minutes`"),
        ("llms", "recency = 0.5", "recency = 0.5\nspeed = 1", "requests.speed", "unknown field `speed`"),
        (
            "llms",
            "mean_gap = 300.0",
            "mean_gap = -300.0",
            "requests.mean_gap",
            "-300, expected a finite number",
        ),
        ("llms", "mean_gap = 300.0", "mean_gap = \"x\"", "requests.mean_gap", "invalid type: string"),
        ("llms", "mean_gap = 300.0", "", "requests", "missing field `mean_gap`"),
        ("llms", "[200, 500]", "[500, 200]", "requests.datasets[0].growth", "1 <= min <= max"),
        ("llms", "[1000, 2000]", "[1000, 5000]", "requests.datasets", "5000 tokens in one request"),
        ("llms", "answer_share = 0.01", "answer_share = 1.01", "requests.datasets[0].answer_share", "0 to 1"),
        ("llms", "contexts = 8", "contexts = 0", "requests.contexts", "nonzero"),
        ("llms", "kind = \"llms\"", "kind = \"llm\"", "kind", "unknown variant `llm`"),
        ("llms", "switching = \"markov\"", "switching = \"best\"", "requests.switching", "unknown variant"),
        ("edgelora", "rate = 0.5", "rate = -0.5", "requests.rate", "above 0"),
        ("edgelora", "rate = 0.5", "rate = inf", "requests.rate", "finite"),
        ("edgelora", "prompt = [8, 128]", "prompt = [0, 128]", "requests.prompt", "1 <= min"),
        ("edgelora", "ranks = [32]", "ranks = []", "adapters.ranks", "empty"),
        (
            "edgelora",
            "compat = true,",
            "compat = true, prefix = 9,",
            "requests.prefix",
            "expected 0 with compat",
        ),
        ("elora", "more = 0.91", "more = 1.0", "requests.more", "has an end"),
        ("elora", "more = 0.91", "more = 1.5", "requests.more", "0 to 1"),
        ("mobilora", "reuse = 0.7", "reuse = 70", "requests.reuse", "0 to 1"),
        ("mobilora", "visits = [1, 8]", "visits = [9, 8]", "requests.visits", "1 <= min <= max"),
        (
            "mobilora",
            "app_prefix = 128",
            "app_prefix = 4000",
            "requests.tasks",
            "at most context_limit, 4096",
        ),
    ] {
        let (found, why) = refused(name, from, to);
        assert_eq!(found, field, "{name}, {to}: {why}");
        assert!(why.contains(reason), "{name}, {to}: {why}");
    }
}

#[test]
fn a_fault_of_a_variant_is_found_whichever_is_asked_for() {
    let (_, reason) = refused("elora", "count = 20", "count = 0");
    assert!(reason.contains("nonzero"), "{reason}");
}

#[test]
fn names_that_are_not_known_are_answered_with_those_that_are() {
    for name in ["lru", "llms/best"] {
        let error = Workload::named(name).unwrap_err();
        assert!(matches!(error, SettingsError::Unknown { .. }));
        assert!(error.to_string().contains("markov"), "{error}");
    }
    let missing = Workload::load(Path::new("/nowhere/w.toml"), None).unwrap_err();
    assert!(matches!(missing, SettingsError::Io { .. }), "{missing}");
}

#[test]
fn a_file_and_changes_of_it_are_taken_as_what_is_built_in() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/workloads/elora.toml");
    let read = Workload::load(&file, Some("chatbots")).unwrap();
    assert_eq!(hash(read.events(1).take(100)), hash(workload("elora/chatbots").events(1).take(100)));
    let faster = workload("edgelora").with("requests.rate = 1.0").unwrap();
    let times =
        |workload: &Workload| requests(workload, 1, 10).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    let doubled: Vec<f64> = times(&faster).iter().map(|at| at * 2.0).collect();
    let same = doubled.iter().zip(times(&workload("edgelora"))).all(|(a, b)| (a / b - 1.0).abs() < 1e-12);
    assert!(same);
    assert!(workload("edgelora").with("requests.rate = 0").is_err());
}
