//! What measuring attention mass costs, as a share: of an attention layer with the heads of Llama 3.2 1B, and of that model's
//! whole step. A prefill of 128 rows that ends at 1024 tokens, and one decoded row at 2048.
//!
//! Criterion's times are of what is measured in full; the shares are printed: medians of runs that take turns with those
//! that measure nothing, so that what else the machine does falls on all of them.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use interleaf_contract::{MassSample, Numerics, Op, PageElement, RowKind, RowSet, Step, StepOutput};
use interleaf_tests::attention::{AttentionCase, SequenceSpec};
use interleaf_tests::backends::{self, Boxed};

use crate::model::{LAYERS, Model, Widths};

/// Rows of one sequence: the last `queries` of its tokens.
const SHAPES: [SequenceSpec; 2] = [
    SequenceSpec { tokens: 1024, queries: 128, kind: RowKind::Prompt },
    SequenceSpec { tokens: 2048, queries: 1, kind: RowKind::Generated },
];

criterion::criterion_group!(
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = cpu, gpu
);

fn cpu(c: &mut Criterion) {
    bench(c, "cpu", || Some(backends::cpu(0, Numerics::ActQ8_0)));
}

fn gpu(c: &mut Criterion) {
    bench(c, "gpu", backends::gpu);
}

fn bench(c: &mut Criterion, backend: &str, open: impl Fn() -> Option<Boxed>) {
    if open().is_none() {
        return;
    }
    for spec in SHAPES {
        let SequenceSpec { tokens, queries, kind } = spec;
        let phase = if kind == RowKind::Prompt { "prefill" } else { "decode" };
        let mut group = c.benchmark_group(format!("attention_mass/{backend}/{phase} {queries} at {tokens}"));
        let opened = || open().expect("it was there before");
        let name = |what| format!("{backend}, {phase} {queries} at {tokens}, {what}");

        let mut rig = None;
        let every_head = MassSample { layers: [0].into(), every: 1 };
        compare(&mut group, "layer", &name("layer"), &[("everything", every_head)], |sample| {
            let (backend, step) = rig.get_or_insert_with(|| layer(opened(), spec));
            check(queries, run(backend, measured(step, sample)), sample);
        });

        let mut rig = None;
        let sample = |step, every| MassSample { layers: (0..LAYERS as u32).step_by(step).collect(), every };
        let samples = [("everything", sample(1, 1)), ("a layer and a head in four", sample(4, 4))];
        compare(&mut group, "step", &name("step"), &samples, |sample| {
            let (model, step) = rig.get_or_insert_with(|| {
                let widths = match crate::is_measuring() {
                    true => Widths::new(2048, 512, 8192, 128_256, 64),
                    // On software Vulkan a step of the wide ones takes a minute.
                    false => Widths::new(256, 128, 512, 2048, 64),
                };
                let model = Model::new(opened(), widths, tokens);
                let step = model.step(kind, (tokens - queries) as u32..tokens as u32);
                (model, step)
            });
            check(queries, model.run(measured(step, sample)), sample);
        });
        group.finish();
    }
}

/// Every row pays 1 in all where something is measured, and nothing else does.
fn check(rows: usize, output: StepOutput, sample: Option<&MassSample>) {
    let paid: f32 = output.mass.iter().flatten().sum();
    let expected = if sample.is_some() { rows as f32 } else { 0.0 };
    assert!((paid - expected).abs() <= 1e-4 * expected, "{rows} rows paid {paid}");
}

/// Times a step that measures nothing and under each sample in turns, and prints what it takes more.
fn compare(
    group: &mut BenchmarkGroup<'_, WallTime>,
    what: &str,
    name: &str,
    samples: &[(&str, MassSample)],
    mut run: impl FnMut(Option<&MassSample>),
) {
    let mut nothing = Vec::new();
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); samples.len()];
    let mut timed = |sample| {
        let start = Instant::now();
        run(sample);
        start.elapsed()
    };
    group.bench_function(what, |b| {
        b.iter_custom(|rounds| {
            let before = times[0].len();
            for _ in 0..rounds {
                nothing.push(timed(None));
                for ((_, sample), times) in samples.iter().zip(&mut times) {
                    times.push(timed(Some(sample)));
                }
            }
            times[0][before..].iter().sum()
        });
    });
    // A filter may have left it out.
    if nothing.is_empty() {
        return;
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        1e3 * times[times.len() / 2].as_secs_f64()
    };
    let nothing = median(&mut nothing);
    for ((measured, _), times) in samples.iter().zip(&mut times) {
        let more = median(times) - nothing;
        println!("{name}: {nothing:.3} ms, measuring {measured} {:+.2} %", 100.0 * more / nothing);
    }
}

fn measured(step: &Step, sample: Option<&MassSample>) -> Step {
    let mut step = step.clone();
    if let Some(sample) = sample {
        step.measure_mass(sample.clone());
    }
    step
}

/// One layer's attention of all rows, over pages of its own.
fn layer(mut backend: Boxed, spec: SequenceSpec) -> (Boxed, Step) {
    let case = AttentionCase {
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        element: PageElement::F16,
        sequences: vec![spec],
        seed: 4,
    };
    let data = case.data();
    let (batch, mut pages, geometry) = case.batch(&data);
    backend.create_pool(geometry).expect("room for the pages");
    pages.iter_mut().for_each(|page| page.address.layer = 0);
    backend.write_pages(&pages).expect("pages of the pool");
    let mut step = Step::new(batch).expect("a well-formed batch");
    let cols = (case.heads * case.head_dim) as u32;
    let (q, out) = (step.tensor(RowSet::All, cols), step.tensor(RowSet::All, cols));
    step.push(Op::Load { out: q, data: data[0].q.clone().into() });
    step.push(Op::PagedAttention { layer: 0, shape: case.shape(), q, out });
    (backend, step)
}

fn run(backend: &mut Boxed, step: Step) -> StepOutput {
    let ticket = backend.submit(step).expect("the step is lawful");
    backend.wait(ticket).expect("the step ends")
}
