//! Law: a row's bits depend on its own tokens, shape, dtype and kind; never on the rows beside it, the
//! number of threads, how a prompt was cut, or which slots its pages got.

use interleaf_runtime::{
    BackendChoice, Engine, EngineOptions, Feed, PageElement, RowKind, SequenceHandle, Want, WeightFormat,
};
use interleaf_tests::tolerance::assert_bits;

use crate::support::{demo, models, options, prompts};

/// Logits of every position of a prompt and of four more tokens, read in pieces of the given length.
fn alone(engine: &mut Engine, adapter: Option<&str>, prompt: &[u32], piece: usize) -> Vec<f32> {
    let sequence = engine.open_sequence(adapter, prompt).expect("registered");
    let mut logits = Vec::new();
    for tokens in prompt.chunks(piece) {
        logits.extend(feed(engine, &[(sequence, tokens, RowKind::Prompt)]).remove(0));
    }
    for token in [5, 300, 41, 7] {
        logits.extend(feed(engine, &[(sequence, &[token], RowKind::Generated)]).remove(0));
    }
    engine.close_sequence(sequence).expect("open");
    logits
}

fn feed(engine: &mut Engine, parts: &[(SequenceHandle, &[u32], RowKind)]) -> Vec<Vec<f32>> {
    let feeds: Vec<Feed<'_>> = parts
        .iter()
        .map(|&(sequence, tokens, kind)| Feed { sequence, tokens, kind, want: Want::Logits })
        .collect();
    engine.feed(&feeds).expect("it runs").into_iter().map(|f| f.logits).collect()
}

#[test]
fn a_mixed_batch_equals_single_sequences_to_the_bit() {
    for (backend, weights) in [
        (BackendChoice::Cpu, WeightFormat::Stored),
        (BackendChoice::Cpu, WeightFormat::Q4_0),
        (BackendChoice::Ref, WeightFormat::Stored),
    ] {
        let options = EngineOptions { weights, pages: PageElement::F16, ..options(backend) };
        let mut engine = demo(&options);
        engine.reserve_kv(8, 160).expect("a small pool");
        // Prompts of different lengths, so that rows of prompts and of answers meet in one step.
        let texts: Vec<Vec<u32>> =
            prompts(&engine).into_iter().enumerate().map(|(i, p)| p[..10 + 9 * i].to_vec()).collect();
        let expected: Vec<Vec<f32>> = models()
            .iter()
            .zip(&texts)
            .map(|(adapter, prompt)| alone(&mut engine, *adapter, prompt, 1000))
            .collect();

        let sequences: Vec<SequenceHandle> =
            models().iter().map(|adapter| engine.open_sequence(*adapter, &[]).expect("registered")).collect();
        let mut found: Vec<Vec<f32>> = vec![Vec::new(); sequences.len()];
        let mut at = vec![0; sequences.len()];
        while at.iter().zip(&texts).any(|(at, text)| *at < text.len() + 4) {
            let mut parts = Vec::new();
            for (i, text) in texts.iter().enumerate() {
                if at[i] < text.len() {
                    let end = (at[i] + 13).min(text.len());
                    parts.push((i, text[at[i]..end].to_vec(), RowKind::Prompt));
                } else if at[i] < text.len() + 4 {
                    parts.push((i, vec![[5, 300, 41, 7][at[i] - text.len()]], RowKind::Generated));
                }
            }
            let views: Vec<(SequenceHandle, &[u32], RowKind)> =
                parts.iter().map(|(i, tokens, kind)| (sequences[*i], &**tokens, *kind)).collect();
            for ((i, tokens, _), logits) in parts.iter().zip(feed(&mut engine, &views)) {
                at[*i] += tokens.len();
                found[*i].extend(logits);
            }
        }
        for ((found, expected), adapter) in found.iter().zip(&expected).zip(models()) {
            assert_bits(&format!("{backend:?} {weights:?} {adapter:?}"), found, expected);
        }
    }
}

#[test]
fn any_cut_of_a_prompt_gives_the_same_bits() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(1, 400).expect("a small pool");
    // Past one split of attention, so that its border falls inside pieces.
    let prompt: Vec<u32> = prompts(&engine).concat().into_iter().take(330).collect();
    for adapter in [None, Some("api-docs")] {
        let whole = alone(&mut engine, adapter, &prompt, 1000);
        for piece in [1, 7, 16, 100, 256] {
            let found = alone(&mut engine, adapter, &prompt, piece);
            assert_bits(&format!("{adapter:?} in pieces of {piece}"), &found, &whole);
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let mut expected: Option<Vec<f32>> = None;
    for threads in 1..=5 {
        let mut engine = demo(&EngineOptions { threads, ..options(BackendChoice::Cpu) });
        assert_eq!(engine.backend().threads, threads);
        engine.reserve_kv(1, 160).expect("a small pool");
        let prompt = prompts(&engine).remove(3);
        let logits = alone(&mut engine, Some("rust-code"), &prompt, 64);
        match &expected {
            Some(expected) => assert_bits(&format!("{threads} threads"), &logits, expected),
            None => expected = Some(logits),
        }
    }
}

#[test]
fn pages_in_other_slots_give_the_same_bits() {
    let mut engine = demo(&options(BackendChoice::Cpu));
    engine.reserve_kv(4, 160).expect("a small pool");
    let prompt = prompts(&engine).remove(2);
    let first = alone(&mut engine, Some("error-codes"), &prompt, 40);
    // Leave holes behind: the next sequence gets slots that are neither in order nor clean.
    let keep = engine.open_sequence(None, &[]).expect("the base");
    feed(&mut engine, &[(keep, &prompt[..30], RowKind::Prompt)]);
    let hole = engine.open_sequence(Some("rust-code"), &[]).expect("registered");
    feed(&mut engine, &[(hole, &prompt, RowKind::Prompt)]);
    engine.close_sequence(hole).expect("open");
    let again = alone(&mut engine, Some("error-codes"), &prompt, 40);
    assert_bits("in other slots", &first, &again);
}
