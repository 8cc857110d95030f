//! What a row must read and multiply, whatever the kernels: counted, not measured.

use interleaf_runtime::{Engine, ModelConfig, PageElement, Proj};

use super::case::{Case, Test};

/// The work of one repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Steps.
    pub steps: u64,
    /// Bytes that the steps read: weights as kept and adapters in use once a step, K and V of every position
    /// that a sequence's rows see once a step.
    pub bytes: u64,
    /// Multiplications that are followed by an addition: of matrices, factors, scores and mixed values.
    pub multiply_adds: u64,
}

/// The rows of one step: each of `sequences` has `rows` from position `start` on.
struct Step {
    sequences: u64,
    start: usize,
    rows: usize,
    /// Sequences whose logits are wanted, each of one row.
    outputs: u64,
}

impl Work {
    /// The work of a case. Prompts are read in pieces of `prefill_rows`.
    pub fn of(engine: &Engine, case: &Case, prefill_rows: usize, pages: PageElement) -> Self {
        let in_use: Vec<String> = (0..case.adapters_in_use()).filter_map(|i| case.adapter(i)).collect();
        let adapters = engine.adapters().filter(|adapter| in_use.contains(&adapter.name));
        let (adapter_bytes, rank) = adapters
            .fold((0, 0), |(bytes, rank), adapter| (bytes + adapter.bytes, adapter.max_rank.max(rank)));
        let weights = engine.weight_bytes();
        let model = Shape { config: engine.config(), pages, rank: rank as u64 };
        let mut work = Self::default();
        for step in steps(case, prefill_rows) {
            work.steps += 1;
            work.bytes += weights.layers + adapter_bytes + step.sequences * model.kv_bytes(&step);
            work.bytes += if step.outputs > 0 { weights.head } else { 0 };
            work.multiply_adds += step.sequences * model.multiply_adds(&step);
            work.multiply_adds += step.outputs * model.head();
        }
        work
    }
}

fn steps(case: &Case, prefill_rows: usize) -> Vec<Step> {
    match case.test {
        Test::Prompt(tokens) => (0..tokens)
            .step_by(prefill_rows)
            .map(|at| {
                let rows = prefill_rows.min(tokens - at);
                Step { sequences: 1, start: case.depth + at, rows, outputs: u64::from(at + rows == tokens) }
            })
            .collect(),
        Test::Generate(tokens) => (0..tokens)
            .map(|at| {
                let sequences = case.batch as u64;
                Step { sequences, start: case.depth + at, rows: 1, outputs: sequences }
            })
            .collect(),
    }
}

/// A model, as far as it is counted.
struct Shape<'a> {
    config: &'a ModelConfig,
    pages: PageElement,
    /// Of the adapters in use; 0 where there are none.
    rank: u64,
}

impl Shape<'_> {
    /// Bytes of K and V that one sequence's rows see.
    fn kv_bytes(&self, step: &Step) -> u64 {
        let end = step.start + step.rows;
        let seen = |window: Option<usize>| end - window.map_or(0, |w| (step.start + 1).saturating_sub(w));
        let positions: usize = self.config.layer_kinds.iter().map(|kind| seen(kind.window)).sum();
        2 * self.pages.bytes(positions * self.config.kv_heads * self.config.head_dim) as u64
    }

    /// Of one sequence's rows, without the head.
    fn multiply_adds(&self, step: &Step) -> u64 {
        let config = self.config;
        let linear: u64 = (Proj::ALL.into_iter())
            .map(|proj| {
                let [outputs, inputs] = config.projection_shape(proj).map(|n| n as u64);
                outputs * inputs + self.rank * (outputs + inputs)
            })
            .sum();
        let seen: u64 = (config.layer_kinds.iter())
            .flat_map(|kind| {
                let ends = step.start + 1..=step.start + step.rows;
                ends.map(|end| end.min(kind.window.unwrap_or(end)) as u64)
            })
            .sum();
        // A score and a share of the values for every position seen.
        let attention = 2 * seen * (config.heads * config.head_dim) as u64;
        step.rows as u64 * config.layers as u64 * linear + attention
    }

    /// Of one row of logits.
    fn head(&self) -> u64 {
        (self.config.vocab_size * self.config.hidden_size) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interleaf_runtime::EngineOptions;

    use crate::load;

    fn engine() -> Engine {
        Engine::open(load::demo_base(), &EngineOptions::default(), &mut |_| ()).unwrap()
    }

    fn case(test: Test, batch: usize, depth: usize) -> Case {
        Case { test, batch, adapters: 0, depth }
    }

    #[test]
    fn a_step_reads_every_weight_and_multiplies_by_it() {
        let engine = engine();
        let config = engine.config();
        let work = Work::of(&engine, &case(Test::Generate(1), 1, 0), 128, PageElement::F16);
        let matrices: usize = Proj::ALL.map(|p| config.projection_shape(p).iter().product()).iter().sum();
        let matrices = config.layers * matrices + config.vocab_size * config.hidden_size;
        let kv = config.layers * config.kv_heads * config.head_dim * 2;
        let norms = (2 * config.layers + 1) * config.hidden_size;
        assert_eq!(work.bytes, (2 * matrices + 2 * kv + 4 * norms) as u64, "f16 but for the norms");
        let attention = 2 * config.layers * config.heads * config.head_dim;
        assert_eq!(work.multiply_adds, (matrices + attention) as u64);
    }

    #[test]
    fn a_batch_shares_the_weights_and_a_prompt_its_pieces() {
        let engine = engine();
        let of =
            |test, batch, depth, rows| Work::of(&engine, &case(test, batch, depth), rows, PageElement::F16);
        let (one, four) = (of(Test::Generate(8), 1, 16, 128), of(Test::Generate(8), 4, 16, 128));
        assert_eq!((one.steps, four.multiply_adds), (8, 4 * one.multiply_adds));
        assert!(four.bytes < one.bytes * 5 / 4);
        let (whole, pieces) = (of(Test::Prompt(64), 1, 0, 64), of(Test::Prompt(64), 1, 0, 16));
        assert_eq!((whole.steps, pieces.steps, whole.multiply_adds), (1, 4, pieces.multiply_adds));
        assert!(pieces.bytes > 3 * whole.bytes - 3 * engine.weight_bytes().head);
    }
}
