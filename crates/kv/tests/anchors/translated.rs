//! A prefix that the base has, translated for an adapter that has not: how far, for whom, and until when.

use interleaf_contract::CHUNK_TOKENS;
use interleaf_kv::{AdapterId, FirstTouch, OpKind, Over, SequenceId, Source, Translation, TranslationWay};

use super::{LAYERS, World, delta, stored_world, text, world};

/// One way.
fn translation(computed: usize, measured: &[(usize, f32)]) -> Translation {
    Translation { ways: vec![TranslationWay { computed, measured: measured.to_vec() }] }
}

fn tokens(chunks: usize) -> Vec<u32> {
    (0..(chunks * CHUNK_TOKENS) as u32).collect()
}

/// Up to two chunks at a hundredth, up to four at a fiftieth, the last chunk computed.
fn measured() -> Translation {
    translation(CHUNK_TOKENS, &[(2 * CHUNK_TOKENS, 0.01), (4 * CHUNK_TOKENS, 0.02)])
}

impl World {
    /// Opens, translates, computes the rest of a text and closes.
    fn translated(&mut self, adapter: AdapterId, tokens: &[u32], budget: f32) -> FirstTouch {
        let opened = self.open(Some(adapter), tokens, budget);
        let first_touch = self.touch(opened.sequence);
        self.moved(opened.moves);
        self.manager.append(opened.sequence, tokens.len() - opened.reused).expect("room");
        self.manager.commit(opened.sequence, &tokens[opened.reused..], 0.0).expect("room");
        let moves = self.close(opened.sequence);
        self.moved(moves);
        first_touch
    }

    fn found(&self, adapter: AdapterId, tokens: &[u32], budget: f32) -> usize {
        self.manager.look_up(&self.call(Some(adapter), tokens, budget)).expect("known")
    }

    fn touch(&self, sequence: SequenceId) -> FirstTouch {
        self.manager.first_touch(sequence).expect("open")
    }

    fn drift(&self, sequence: SequenceId) -> f32 {
        self.manager.drift(sequence).expect("open")
    }
}

#[test]
fn a_translated_prefix_is_there_for_those_who_allow_it() {
    let mut world = world(Vec::new(), 64);
    let translation = translation(0, &[(2 * CHUNK_TOKENS, 0.02)]);
    let adapter = world.adapter(1, 0, Some(translation));
    world.answer(None, &text(), 0.0);
    assert_eq!(world.open(Some(adapter), &text(), 0.01).reused, 0);
    let sources = world.sources(Some(adapter), &text(), 0.1);
    assert_eq!(sources, vec![vec![Source::Translated; LAYERS]; 2]);
    let opened = world.open(Some(adapter), &text(), 0.1);
    assert_eq!(opened.reused, text().len());
    assert!(opened.moves.iter().all(|op| op.kind == OpKind::Translate) && opened.moves.len() == 2);
    assert!(world.manager.append(opened.sequence, 1).is_err(), "it waits for them");
    // They end in any order.
    for op in opened.moves.iter().rev() {
        assert_eq!(world.manager.done(op.id), []);
        world.manager.check().expect("sound");
    }
    world.manager.append(opened.sequence, 1).expect("room");
    world.manager.commit(opened.sequence, &[7], 0.0).expect("room");
    world.close(opened.sequence);
    // It is not exact, and neither is what was computed over it.
    let longer = [&text()[..], &[7]].concat();
    assert_eq!(world.open(Some(adapter), &longer, 0.1).reused, longer.len());
    assert_eq!(world.open(Some(adapter), &longer, 0.0).reused, 0);
}

#[test]
fn what_was_not_measured_so_is_computed() {
    let mut world = world(Vec::new(), 64);
    let adapter = world.adapter(1, 0, None);
    world.answer(None, &tokens(5), 0.0);
    let touch = |world: &mut World, chunks: usize, budget: f32| {
        let opened = world.open(Some(adapter), &tokens(chunks), budget);
        let (found, reused) = (world.touch(opened.sequence), opened.reused);
        let moves = opened.moves.iter().filter(|op| op.kind == OpKind::Translate).count();
        assert_eq!(moves * CHUNK_TOKENS, reused);
        opened.moves.iter().for_each(|op| drop(world.manager.cancelled(op.id)));
        world.close(opened.sequence);
        found
    };
    let prefix = |chunks: usize| chunks * CHUNK_TOKENS;
    assert_eq!(touch(&mut world, 3, 0.1), FirstTouch::Unmeasured { prefix: prefix(3) });
    world.manager.set_translation(adapter, Some(measured())).expect("lawful");
    // Exact calls, and those of which nothing would be left to translate, are as ever.
    assert_eq!(touch(&mut world, 3, 0.0), FirstTouch::Nothing);
    assert_eq!(touch(&mut world, 1, 0.1), FirstTouch::Nothing);
    let translated = |chunks: usize, drift| FirstTouch::Translated {
        prefix: prefix(chunks),
        tokens: prefix(chunks - 1),
        drift,
    };
    assert_eq!(touch(&mut world, 2, 0.01), translated(2, 0.01));
    assert_eq!(touch(&mut world, 3, 0.01), FirstTouch::OverBudget { prefix: prefix(3), drift: 0.02 });
    assert_eq!(touch(&mut world, 3, 0.02), translated(3, 0.02));
    assert_eq!(touch(&mut world, 5, 0.1), FirstTouch::TooLong { prefix: prefix(5), most: prefix(4) });
    world.manager.set_translation(adapter, None).expect("known");
    assert_eq!(touch(&mut world, 2, 0.1), FirstTouch::Unmeasured { prefix: prefix(2) });
    for measured in [vec![], vec![(32, 0.1), (32, 0.2)], vec![(16, 0.0)], vec![(16, f32::NAN)]] {
        let set = world.manager.set_translation(adapter, Some(translation(0, &measured)));
        assert!(set.is_err());
    }
}

#[test]
fn who_allows_less_computes_more() {
    let mut world = world(Vec::new(), 64);
    let way = |chunks, drift| TranslationWay {
        computed: chunks * CHUNK_TOKENS,
        measured: vec![(4 * CHUNK_TOKENS, drift)],
    };
    let ways = vec![way(0, 0.04), way(1, 0.02), way(3, 0.01)];
    let adapter = world.adapter(1, 0, Some(Translation { ways }));
    world.answer(None, &tokens(4), 0.0);
    for (budget, translated, drift) in [(0.04, 4, 0.04), (0.039, 3, 0.02), (0.01, 1, 0.01)] {
        let opened = world.open(Some(adapter), &tokens(4), budget);
        let tokens = translated * CHUNK_TOKENS;
        let expected = FirstTouch::Translated { prefix: 4 * CHUNK_TOKENS, tokens, drift };
        assert_eq!(world.touch(opened.sequence), expected);
        opened.moves.iter().for_each(|op| drop(world.manager.cancelled(op.id)));
        world.close(opened.sequence);
    }
    let opened = world.open(Some(adapter), &tokens(4), 0.009);
    assert_eq!(
        world.touch(opened.sequence),
        FirstTouch::OverBudget { prefix: 4 * CHUNK_TOKENS, drift: 0.01 }
    );
    // Of two chunks the best way would translate nothing.
    let opened = world.open(Some(adapter), &tokens(2), 0.01);
    assert_eq!(
        world.touch(opened.sequence),
        FirstTouch::OverBudget { prefix: 2 * CHUNK_TOKENS, drift: 0.02 }
    );
}

#[test]
fn a_bound_of_a_longer_prefix_is_never_less() {
    let way = TranslationWay { computed: 0, measured: vec![(16, 0.3), (32, 0.1), (64, 0.5)] };
    let bounds = [16, 17, 32, 33, 64, 65].map(|prefix| way.drift(prefix));
    assert_eq!(bounds, [Some(0.3), Some(0.3), Some(0.3), Some(0.5), Some(0.5), None]);
}

#[test]
fn what_the_base_has_lost_counts_too() {
    let alone = delta(Over::Nothing);
    let mut world = world(vec![alone], 64);
    let adapter = world.adapter(1, 0, Some(measured()));
    let moves = world.answer(None, &tokens(3), 0.01);
    world.done(moves);
    // Of a fiftieth and a hundredth the roots add up.
    let both = (0.02_f32.sqrt() + 0.01_f32.sqrt()).powi(2);
    let opened = world.open(Some(adapter), &tokens(3), 0.058);
    assert_eq!(world.touch(opened.sequence), FirstTouch::OverBudget { prefix: 48, drift: both });
    world.close(opened.sequence);
    let opened = world.open(Some(adapter), &tokens(3), 0.06);
    assert_eq!(world.touch(opened.sequence), FirstTouch::Translated { prefix: 48, tokens: 32, drift: both });
    world.moved(opened.moves);
    assert_eq!(world.drift(opened.sequence), both);
    world.close(opened.sequence);
}

#[test]
fn it_is_computed_anew_in_time_that_is_idle() {
    for mut world in [world(Vec::new(), 64), stored_world(Vec::new(), 64)] {
        let [adapter, other] = [1, 2].map(|digest| world.adapter(digest, 0, Some(measured())));
        world.answer(None, &tokens(3), 0.0);
        assert_eq!(world.manager.translated_text(), None);
        // Two contexts go on from one translated prefix, and another adapter's is computed.
        let long = [&tokens(3)[..], &[900, 901]].concat();
        let longer = [&tokens(3)[..], &[800; CHUNK_TOKENS], &[801]].concat();
        for text in [&long, &longer] {
            world.translated(adapter, text, 0.1);
        }
        world.answer(Some(other), &tokens(3), 0.0);
        let held = world.manager.held_bytes(0);
        assert_eq!(world.found(adapter, &longer, 0.1), longer.len());
        assert_eq!(world.found(adapter, &longer, 0.0), 0);

        assert_eq!(world.manager.translated_text(), Some((adapter, longer.clone(), 0.1)));
        // Nothing is forgotten that there is nothing exact of.
        assert_eq!(world.manager.replace_translated(adapter, &longer), Ok(0));
        let call = world.call(Some(adapter), &longer, 0.1);
        let opened = world.manager.open_exact(&call).expect("it opens");
        assert_eq!((opened.reused, world.touch(opened.sequence)), (0, FirstTouch::Nothing));
        world.manager.append(opened.sequence, longer.len()).expect("room");
        world.manager.commit(opened.sequence, &longer, 0.0).expect("room");
        assert_eq!(world.drift(opened.sequence), 0.0);
        let moves = world.close(opened.sequence);
        world.moved(moves);
        assert_eq!(world.found(adapter, &longer, 0.0), longer.len());
        // What the other context goes on from stays for it.
        assert_eq!(world.manager.replace_translated(adapter, &longer), Ok(CHUNK_TOKENS + 1));
        world.manager.check().expect("sound");
        assert_eq!(world.found(adapter, &long, 0.1), long.len());

        assert_eq!(world.manager.translated_text(), Some((adapter, long.clone(), 0.1)));
        // Nor is what somebody reads.
        let opened = world.open(Some(adapter), &long, 0.1);
        world.moved(opened.moves);
        assert_eq!(world.manager.translated_text(), None);
        assert_eq!(world.manager.replace_translated(adapter, &long), Ok(0));
        let moves = world.close(opened.sequence);
        world.moved(moves);
        let moves = world.answer(Some(adapter), &long, 0.0);
        world.moved(moves);
        assert_eq!(world.manager.replace_translated(adapter, &long), Ok(long.len()));
        world.manager.check().expect("sound");
        assert_eq!((world.manager.translated_text(), world.manager.held_bytes(0)), (None, held));
        let opened = world.open(Some(adapter), &longer, 0.1);
        assert_eq!((opened.reused, world.drift(opened.sequence)), (longer.len(), 0.0));
        world.close(opened.sequence);
    }
}

#[test]
fn what_replaces_it_may_be_encoded_as_its_users_allow() {
    let mut world = world(vec![delta(Over::Base)], 64);
    let adapter = world.adapter(1, 0, Some(measured()));
    let text = tokens(3);
    world.answer(None, &text, 0.0);
    world.translated(adapter, &text, 0.1);
    let (_, found, budget) = world.manager.translated_text().expect("it was translated");
    assert_eq!((&found, budget), (&text, 0.1));
    let call = world.call(Some(adapter), &text, budget);
    let opened = world.manager.open_exact(&call).expect("it opens");
    world.manager.append(opened.sequence, text.len()).expect("room");
    world.manager.commit(opened.sequence, &text, 0.0).expect("room");
    assert_eq!(world.manager.replace_translated(adapter, &text), Ok(text.len()));
    let moves = world.close(opened.sequence);
    assert!(moves.iter().any(|op| matches!(op.kind, OpKind::Encode { .. })), "{moves:?}");
}
