//! Whole-model benches through the engine.

mod adapters;
mod decode;
mod first_touch;
mod switch;

use criterion::Criterion;

/// Whether a bench that times in its own way is asked for: by the word that names it, or by none.
fn is_wanted(bench: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| bench.contains(&*word))
}

/// Whether figures are asked for, as by `cargo bench`. Else benches run once on the demo model, for the answers that they check.
fn is_measuring() -> bool {
    std::env::args().any(|word| word == "--bench")
}

/// How many turns are taken for figures; one without.
fn turns(measured: usize) -> usize {
    if is_measuring() { measured } else { 1 }
}

fn main() {
    decode::benches();
    let timed_here: [(&str, fn()); 3] = [
        ("first_touch", first_touch::first_touch),
        ("switch", switch::switch),
        ("adapters", adapters::adapters),
    ];
    timed_here.iter().filter(|(name, _)| is_wanted(name)).for_each(|(_, bench)| bench());
    Criterion::default().configure_from_args().final_summary();
}
