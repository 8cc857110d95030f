//! The server against cases that are computed by hand, laws that hold for any, and queueing theory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod round;

use std::collections::HashMap;

use interleaf_simulate::{Moment, Needs, Phase, Server, ServerError};
use proptest::prelude::*;

/// A request: when it comes, of which context, how urgent it is and what it needs.
type Asked = (f64, u32, u8, Needs);

fn answer(server: &mut Server, asked: &[Asked], until: f64, all: &mut Vec<Moment>) {
    while let Some(moment) = server.next(until) {
        if moment.phase == Phase::Start {
            server.start(moment.request, asked[moment.request as usize].3).unwrap();
        }
        all.push(moment);
    }
}

/// Serves all, which are in the order of their times.
fn serve(server: &mut Server, asked: &[Asked]) -> Vec<Moment> {
    let mut all = Vec::new();
    for (number, (at, context, urgency, _)) in asked.iter().enumerate() {
        answer(server, asked, *at, &mut all);
        server.admit(*at, number as u64, *context, *urgency).unwrap();
    }
    answer(server, asked, f64::INFINITY, &mut all);
    all
}

/// When each request got how far.
fn times(moments: &[Moment]) -> HashMap<(u64, Phase), f64> {
    moments.iter().map(|moment| ((moment.request, moment.phase), moment.at)).collect()
}

#[track_caller]
fn check(moments: &[Moment], expected: &[(u64, [f64; 4])]) {
    let found = times(moments);
    assert_eq!(found.len(), expected.len() * 4);
    for (request, at) in expected {
        for (phase, at) in [Phase::Start, Phase::Ready, Phase::FirstToken, Phase::Done].into_iter().zip(at) {
            let found = found[&(*request, phase)];
            assert!((found - at).abs() < 1e-9, "{request}, {phase:?}: {found}, expected {at}");
        }
    }
}

fn prompt(prefill_tokens: u32, output_tokens: u32) -> Needs {
    Needs { prefill_tokens, output_tokens, ..Needs::default() }
}

#[test]
fn one_request_takes_its_phases_one_after_the_other() {
    let needs = Needs {
        load_seconds: 1.0,
        read_seconds: 4.0,
        recompute_seconds: 2.5,
        prefill_tokens: 10,
        context_tokens: 100,
        output_tokens: 3,
        asks_again: false,
    };
    let mut server = Server::new(&round::machine(), 1);
    // Loaded at 3; recomputed until 5.5 while it reads until 7; prefilled until 8; two steps of 1.5 s.
    let moments = serve(&mut server, &[(2.0, 0, 0, needs)]);
    check(&moments, &[(0, [2.0, 7.0, 8.0, 11.0])]);
    let busy = server.busy();
    assert_eq!((busy.storage, busy.prefill, busy.decode), (5.0, 3.5, 3.0));
}

#[test]
fn steps_are_shared_and_pause_for_prefills() {
    // The first generates from 1 on, alone: 4 steps of 1.5 s would end at 7. At 2.5, after one step, the second prefills
    // for 1 s. From 3.5 both share steps of 2 s: the second's one step ends at 5.5, and the first has done 2. The other
    // two of the first, alone, end at 8.5.
    let asked = [(0.0, 0, 0, prompt(10, 5)), (2.5, 1, 0, prompt(10, 2))];
    let moments = serve(&mut Server::new(&round::machine(), 2), &asked);
    check(&moments, &[(0, [0.0, 0.0, 1.0, 8.5]), (1, [2.5, 2.5, 3.5, 5.5])]);
}

#[test]
fn a_slot_is_waited_for_and_the_urgent_are_first() {
    let asked = [
        (0.0, 0, 1, prompt(10, 1)),
        (0.1, 1, 1, prompt(20, 1)),
        (0.2, 2, 0, prompt(30, 1)),
        (0.3, 3, 1, prompt(40, 1)),
    ];
    let moments = serve(&mut Server::new(&round::machine(), 1), &asked);
    check(
        &moments,
        &[
            (0, [0.0, 0.0, 1.0, 1.0]),
            (2, [1.0, 1.0, 4.0, 4.0]),
            (1, [4.0, 4.0, 6.0, 6.0]),
            (3, [6.0, 6.0, 10.0, 10.0]),
        ],
    );
}

#[test]
fn a_context_answers_one_request_at_a_time() {
    let asked = [(0.0, 5, 0, prompt(10, 3)), (0.5, 5, 0, prompt(10, 1)), (0.6, 6, 0, prompt(10, 1))];
    let mut server = Server::new(&round::machine(), 8);
    let moments = serve(&mut server, &asked);
    // The third prefills from 1 to 2 while the first's two steps wait; they end at 5, and the second begins.
    check(&moments, &[(0, [0.0, 0.0, 1.0, 5.0]), (2, [0.6, 0.6, 2.0, 2.0]), (1, [5.0, 5.0, 6.0, 6.0])]);
    assert_eq!(server.queued(), 0);
}

#[test]
fn storage_does_one_thing_at_a_time_and_the_background_last() {
    let read =
        |seconds| Needs { read_seconds: seconds, prefill_tokens: 10, output_tokens: 1, ..Needs::default() };
    let mut server = Server::new(&round::machine(), 4);
    server.background(70, 3.0).unwrap();
    server.background(71, 3.0).unwrap();
    let asked = [(1.0, 0, 0, read(2.0)), (1.0, 1, 0, read(1.0))];
    let mut moments = serve(&mut server, &asked);
    // The first is under way and ends at 3; both reads go before the second.
    let ended: Vec<_> =
        moments.extract_if(.., |m| m.phase == Phase::Background).map(|m| (m.request, m.at)).collect();
    assert_eq!(ended, [(70, 3.0), (71, 9.0)]);
    check(&moments, &[(0, [1.0, 5.0, 6.0, 6.0]), (1, [1.0, 6.0, 7.0, 7.0])]);
    assert_eq!((server.busy().storage, server.now()), (9.0, 9.0));
}

#[test]
fn what_asks_again_is_started_again_from_where_it_is() {
    let mut server = Server::new(&round::machine(), 1);
    server.admit(0.0, 0, 0, 0).unwrap();
    let read = Needs {
        read_seconds: 2.0,
        prefill_tokens: 9,
        output_tokens: 9,
        asks_again: true,
        ..Needs::default()
    };
    let next = |server: &mut Server, limit| server.next(limit).map(|moment| (moment.at, moment.phase));
    assert_eq!(next(&mut server, 0.0), Some((0.0, Phase::Start)));
    server.start(0, read).unwrap();
    assert_eq!(server.start(0, read), Err(ServerError::NotStarting(0)));
    assert_eq!(next(&mut server, 9.0), Some((2.0, Phase::Ready)));
    // It keeps its slot and takes no time of anything while it waits.
    assert_eq!(next(&mut server, 3.0), None);
    server.start(0, Needs { recompute_seconds: 1.0, ..prompt(10, 1) }).unwrap();
    assert_eq!(next(&mut server, 9.0), Some((4.0, Phase::Ready)));
    assert_eq!(next(&mut server, 9.0), Some((5.0, Phase::FirstToken)));
    assert_eq!(next(&mut server, 9.0), Some((5.0, Phase::Done)));
    assert_eq!((server.busy().storage, server.busy().prefill), (2.0, 2.0));
}

#[test]
fn a_start_may_be_answered_later() {
    let mut server = Server::new(&round::machine(), 2);
    server.admit(0.0, 0, 0, 0).unwrap();
    server.admit(0.0, 1, 1, 0).unwrap();
    assert_eq!(server.next(0.0).map(|moment| moment.request), Some(0));
    assert_eq!(server.next(0.0).map(|moment| moment.request), Some(1));
    server.start(1, prompt(10, 1)).unwrap();
    let mut all = Vec::new();
    while let Some(moment) = server.next(f64::INFINITY) {
        if moment.phase == Phase::Done && moment.request == 1 {
            server.start(0, prompt(10, 1)).unwrap();
        }
        all.push(moment);
    }
    assert_eq!(times(&all)[&(0, Phase::Ready)], 1.0);
    assert_eq!(times(&all)[&(0, Phase::Done)], 2.0);
}

#[test]
fn calls_that_do_not_fit_are_refused() {
    let mut server = Server::new(&round::machine(), 1);
    assert_eq!(server.admit(1.0, 0, 0, 0), Err(ServerError::NotNow { at: 1.0, now: 0.0 }));
    assert_eq!(server.start(0, prompt(1, 1)), Err(ServerError::NotStarting(0)));
    server.admit(0.0, 0, 0, 0).unwrap();
    assert!(server.next(0.0).is_some());
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        let needs = Needs { read_seconds: bad, ..Needs::default() };
        assert!(matches!(server.start(0, needs), Err(ServerError::NoTime { field: "read_seconds", .. })));
    }
    server.start(0, prompt(1, 2)).unwrap();
    assert_eq!(server.start(0, prompt(1, 1)), Err(ServerError::NotStarting(0)));
}

/// Gaps between Poisson arrivals of a rate, from a generator of its own.
fn arrivals(rate: f64, count: usize) -> impl Iterator<Item = f64> {
    let mut state = 1_u64;
    let mut at = 0.0;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = ((state >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        at -= unit.ln() / rate;
        at
    })
}

#[test]
fn the_mean_wait_of_an_m_d_1_queue_is_that_of_theory() {
    // Pollaczek and Khinchine: ρ/(1 − ρ) · s/2 for a service of s seconds, here 1.
    for load in [0.5, 0.8] {
        let asked: Vec<Asked> =
            arrivals(load, 1_000_000).zip(0..).map(|(at, context)| (at, context, 0, prompt(10, 1))).collect();
        let moments = serve(&mut Server::new(&round::machine(), 1), &asked);
        let waits = moments.iter().filter(|moment| moment.phase == Phase::Start);
        let waited: f64 = waits.map(|moment| moment.at - asked[moment.request as usize].0).sum();
        let mean = waited / asked.len() as f64;
        let theory = load / (1.0 - load) / 2.0;
        assert!((mean / theory - 1.0).abs() < 0.03, "{load}: {mean}, expected {theory}");
    }
}

fn any_needs() -> impl Strategy<Value = Needs> {
    let seconds = || prop_oneof![Just(0.0), 0.0..3.0_f64];
    (seconds(), seconds(), seconds(), 0_u32..30, 0_u32..6).prop_map(
        |(load, read, recompute, prompt, answer)| Needs {
            load_seconds: load,
            read_seconds: read,
            recompute_seconds: recompute,
            prefill_tokens: prompt,
            context_tokens: 0,
            output_tokens: answer,
            asks_again: false,
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_asked_every_law_holds(
        requests in prop::collection::vec((0.0..4.0_f64, 0_u32..4, any_needs()), 1..40),
        slots in 1_usize..6,
    ) {
        let mut at = 0.0;
        let asked: Vec<Asked> = requests
            .into_iter()
            .map(|(gap, context, needs)| {
                at += gap;
                (at, context, 0, needs)
            })
            .collect();
        let mut server = Server::new(&round::machine(), slots);
        let moments = serve(&mut server, &asked);
        let times = times(&moments);

        // Each goes through all phases, in their order, not before it came.
        prop_assert_eq!(moments.len(), asked.len() * 4);
        prop_assert!(moments.windows(2).all(|two| two[0].at <= two[1].at));
        for (number, (came, _, _, needs)) in (0_u64..).zip(&asked) {
            let [start, ready, first, done] =
                [Phase::Start, Phase::Ready, Phase::FirstToken, Phase::Done].map(|phase| times[&(number, phase)]);
            prop_assert!(*came <= start && start <= ready && ready <= first && first <= done);
            // Nothing is faster than alone.
            let back = needs.load_seconds + needs.read_seconds.max(needs.recompute_seconds);
            prop_assert!(ready - start >= back - 1e-9);
            prop_assert!(first - ready >= f64::from(needs.prefill_tokens) * 0.1 - 1e-9);
            prop_assert!(done - first >= f64::from(needs.output_tokens.saturating_sub(1)) * 1.5 - 1e-9);
        }

        // What was asked of each resource is what it did, and it did one thing at a time.
        let sum = |of: &dyn Fn(&Needs) -> f64| asked.iter().map(|(_, _, _, needs)| of(needs)).sum::<f64>();
        let busy = server.busy();
        prop_assert!((busy.storage - sum(&|n| n.load_seconds + n.read_seconds)).abs() < 1e-6);
        let exclusive = sum(&|n| n.recompute_seconds + f64::from(n.prefill_tokens) * 0.1);
        prop_assert!((busy.prefill - exclusive).abs() < 1e-6);
        prop_assert!(busy.prefill + busy.decode <= server.now() + 1e-6);
        prop_assert!(busy.storage <= server.now() + 1e-6);
        // A row's step takes from 1/slots + 0.5 to 1.5 s of the device.
        let steps = sum(&|n| f64::from(n.output_tokens.saturating_sub(1)));
        prop_assert!(busy.decode <= steps * 1.5 + 1e-6);
        prop_assert!(busy.decode >= steps * (1.0 / slots as f64 + 0.5) - 1e-6);

        // No more than the slots are served at a time, a context has one request at a time, and all that could start
        // start in the order in which they came.
        let mut open: Vec<u64> = Vec::new();
        let mut started: HashMap<u32, u64> = HashMap::new();
        for moment in &moments {
            let context = asked[moment.request as usize].1;
            match moment.phase {
                Phase::Start => {
                    prop_assert!(open.iter().all(|other| asked[*other as usize].1 != context));
                    open.push(moment.request);
                    prop_assert!(open.len() <= slots);
                    prop_assert!(started.insert(context, moment.request).is_none_or(|last| last < moment.request));
                    let passed = (0..moment.request).filter(|earlier| times[&(*earlier, Phase::Start)] > moment.at);
                    // Only those whose context was not free.
                    for earlier in passed {
                        let held = (0..earlier).any(|before| {
                            asked[before as usize].1 == asked[earlier as usize].1
                                && times[&(before, Phase::Done)] >= moment.at
                        });
                        prop_assert!(held, "{earlier} was passed by {}", moment.request);
                    }
                }
                Phase::Done => open.retain(|other| *other != moment.request),
                Phase::Ready | Phase::FirstToken | Phase::Background => {}
            }
        }
    }
}
