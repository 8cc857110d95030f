//! Whole-model benches through the engine.

mod adapters;
mod decode;
mod first_touch;
mod switch;

/// Whether a bench that times in its own way is asked for: by the word that names it, or by none.
fn is_wanted(bench: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| bench.contains(&*word))
}

criterion::criterion_main!(decode::benches, first_touch::benches, switch::benches, adapters::benches);
