//! `attention_mass` of the reference against the attention matrix written out, and of backends against the reference.

use approx::assert_relative_eq;
use interleaf_contract::host::{HostBackend, HostKernels, Pool, Resident};
use interleaf_contract::{
    AttentionShape, Backend, BackendError, BackendInfo, Batch, Bits, Coefficients, MassSample, Matrix,
    Numerics, Op, PageCodec, PageElement, RowKind, RowSet, Sequence, Step, StepOutput,
};
use interleaf_kernels_ref::attention_mass::{Attended, ColumnMass, attention_mass, chunk_density};
use interleaf_kernels_ref::paged_attention::paged_attention;
use interleaf_tests::attention::{AttentionCase, SequenceData, SequenceSpec};
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::coded::{self, CodedCase, generated};
use interleaf_tests::data::Random;
use interleaf_tests::tolerance::assert_bits;

/// Host kernels that measure mass where attention would run.
struct Measure<'a>(&'a AttentionCase, std::sync::Arc<std::sync::Mutex<Vec<ColumnMass>>>);

impl HostKernels for Measure<'_> {
    type Matrix = Matrix;

    fn weights(&self, matrix: Matrix) -> Result<Matrix, BackendError> {
        Ok(matrix)
    }

    fn factors(&self, sites: Vec<[Matrix; 2]>) -> Result<Vec<[Matrix; 2]>, BackendError> {
        Ok(sites)
    }

    fn info(&self) -> BackendInfo {
        let (device, numerics) = (String::new(), Numerics::ActF32);
        BackendInfo { name: "test", device, tier: "test", numerics, threads: 1 }
    }

    fn run(
        &mut self,
        step: &Step,
        resident: &Resident<Matrix>,
        pool: &mut Pool,
    ) -> Result<StepOutput, BackendError> {
        let Some(Op::Load { data: q, .. }) = step.ops().first() else { return Ok(StepOutput::default()) };
        let (batch, shape) = (step.batch(), self.0.shape());
        let mut out = vec![0.0; q.len()];
        let log_sums = paged_attention(batch, 1, shape, q, (pool, resident), &mut out)?;
        let attended = Attended { layer: 1, shape, q, log_sums: &log_sums };
        let every_head = MassSample { layers: [1].into(), every: 1 };
        for sequence in 0..batch.sequences.len() {
            let mass = attention_mass(batch, sequence, &attended, &every_head, (pool, resident))?;
            self.1.lock().expect("no other thread").push(mass);
        }
        Ok(StepOutput::default())
    }

    fn scratch_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn column_means_equal_the_explicit_matrix() {
    let spec = |tokens, queries| SequenceSpec { tokens, queries, kind: RowKind::Prompt };
    let case = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        element: PageElement::F32,
        sequences: vec![spec(40, 40), spec(37, 5)],
        seed: 1,
    };
    let data = case.data();
    let (batch, pages, geometry) = case.batch(&data);
    let found = std::sync::Arc::default();
    let case_ref: &'static AttentionCase = Box::leak(Box::new(case.clone()));
    let mut backend = HostBackend::new(Measure(case_ref, std::sync::Arc::clone(&found)));
    backend.create_pool(geometry).expect("a small pool");
    backend.write_pages(&pages).expect("pages of the pool's size");
    let mut step = Step::new(batch).expect("a well-formed batch");
    let q = step.tensor(RowSet::All, 64);
    let queries: Vec<f32> = data.iter().flat_map(|s| s.q.iter().copied()).collect();
    step.push(Op::Load { out: q, data: queries.into() });
    backend.submit(step).expect("the step runs");

    let found = found.lock().expect("no other thread");
    for (sequence, mass) in data.iter().zip(found.iter()) {
        let (tokens, queries) = (sequence.spec.tokens, sequence.spec.queries);
        let mut sums = vec![0.0f64; tokens];
        for i in 0..queries {
            let visible = tokens - queries + i + 1;
            for head in 0..case.heads {
                let q = &sequence.q[(i * case.heads + head) * 16..][..16];
                let keys = &sequence.k[head / 2 * tokens * 16..][..visible * 16];
                let score = |k: &[f32]| -> f64 {
                    let dot: f64 = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    (dot * f64::from(case.scale())).exp()
                };
                let weights: Vec<f64> = keys.chunks_exact(16).map(score).collect();
                let total: f64 = weights.iter().sum();
                sums.iter_mut().zip(weights).for_each(|(s, w)| *s += w / total / case.heads as f64);
            }
        }
        let seen: Vec<u32> =
            (0..tokens).map(|c| u32::try_from(queries.min(tokens - c)).expect("few rows")).collect();
        assert_eq!(mass.rows, seen);
        for (found, expected) in mass.sum.iter().zip(&sums) {
            assert_relative_eq!(*found, *expected, max_relative = 1e-9);
        }
        // Every row hands out a mass of one.
        assert_relative_eq!(mass.sum.iter().sum::<f64>(), queries as f64, max_relative = 1e-9);
        let density = chunk_density(mass);
        assert_eq!(density.len(), tokens.div_ceil(16));
        for (chunk, density) in density.iter().enumerate() {
            let columns = chunk * 16..tokens.min(chunk * 16 + 16);
            let mean =
                columns.clone().map(|c| sums[c] / f64::from(seen[c])).sum::<f64>() / columns.len() as f64;
            assert_relative_eq!(*density, mean, max_relative = 1e-9);
        }
    }
}

fn prompt(tokens: usize, queries: usize) -> SequenceSpec {
    SequenceSpec { tokens, queries, kind: RowKind::Prompt }
}

/// Those that are held to the reference.
fn backends() -> Vec<Boxed> {
    let mut backends = backends::cpu_tiers(2, Numerics::ActF32);
    backends.extend(backends::gpu());
    backends
}

fn sample(layers: &[u32], every: u32) -> MassSample {
    MassSample { layers: layers.into(), every }
}

/// Attention in layers 0 and 1, each with queries of its own.
struct Layers {
    shape: AttentionShape,
    batch: Batch,
    q: [Vec<f32>; 2],
}

impl Layers {
    /// Of pages that are where they are read.
    fn new(shape: AttentionShape, batch: Batch, q: Vec<f32>) -> Self {
        Self { shape, batch, q: [q.iter().rev().copied().collect(), q] }
    }

    /// Of a case, whose pages are written to both layers.
    fn write(
        case: &AttentionCase,
        shape: AttentionShape,
        data: &[SequenceData],
        backend: &mut Boxed,
    ) -> Self {
        let (batch, mut pages, geometry) = case.batch(data);
        backend.create_pool(geometry).expect("a small pool");
        for layer in [1, 0] {
            pages.iter_mut().for_each(|page| page.address.layer = layer);
            backend.write_pages(&pages).expect("pages of the pool's size");
        }
        Self::new(shape, batch, data.iter().flat_map(|s| s.q.iter().copied()).collect())
    }

    /// The same with one sequence alone.
    fn alone(&self, sequence: usize) -> Self {
        let cols = (self.shape.heads * self.shape.head_dim) as usize;
        let (_, first, count) =
            self.batch.runs().find(|(of, _, _)| *of == sequence).expect("a sequence with rows");
        let rows = self.batch.rows[first..first + count].iter();
        let rows = rows.map(|row| interleaf_contract::Row { sequence: 0, ..*row }).collect();
        let sequences = vec![self.batch.sequences[sequence].clone()];
        let q = [0, 1].map(|layer: usize| self.q[layer][first * cols..(first + count) * cols].to_vec());
        Self { batch: Batch { rows, sequences, ..self.batch.clone() }, q, shape: self.shape }
    }

    /// Runs both layers, or one; what they gave is probed.
    fn run(&self, layers: &[u32], backend: &mut Boxed, sample: Option<&MassSample>) -> StepOutput {
        let mut step = Step::new(self.batch.clone()).expect("a well-formed batch");
        if let Some(sample) = sample {
            step.measure_mass(sample.clone());
        }
        let cols = self.shape.heads * self.shape.head_dim;
        for &layer in layers {
            let (q, out) = (step.tensor(RowSet::All, cols), step.tensor(RowSet::All, cols));
            step.push(Op::Load { out: q, data: self.q[layer as usize].clone().into() });
            step.push(Op::PagedAttention { layer, shape: self.shape, q, out });
            step.probe(out);
        }
        let ticket = backend.submit(step).expect("the step is lawful");
        backend.wait(ticket).expect("the step ends")
    }

    /// Checks that measuring changes no bit of what is computed; returns the mass.
    fn measure(&self, layers: &[u32], backend: &mut Boxed, sample: &MassSample) -> Vec<Vec<f32>> {
        let label = label(&**backend);
        let (without, with) = (self.run(layers, backend, None), self.run(layers, backend, Some(sample)));
        for (without, with) in without.probes.iter().zip(&with.probes) {
            assert_bits(&format!("{label}, measured"), without, with);
        }
        assert!(without.mass.is_empty(), "{label}: nothing is measured");
        with.mass
    }
}

/// What a mass may be off by, as a share of it. Scores are sums of `head_dim` products of up to 6 with up to 1, over √head_dim,
/// in f32, of keys that are sums of up to 64 products; a weight is off by what its score and its sum are.
fn tolerance(shape: &AttentionShape) -> f32 {
    let dim = shape.head_dim as f32;
    let score = (dim / 2.0 + 32.0 + 8.0) * 6.0 * dim.sqrt();
    2.0 * score * f32::EPSILON
}

fn assert_alike(label: &str, layers: &Layers, expected: &[Vec<f32>], found: &[Vec<f32>]) {
    let tolerance = tolerance(&layers.shape);
    assert_eq!(expected.len(), found.len(), "{label}: sequences");
    for (sequence, (expected, found)) in expected.iter().zip(found).enumerate() {
        assert_eq!(expected.len(), found.len(), "{label}: chunks of sequence {sequence}");
        for (chunk, (expected, found)) in expected.iter().zip(found).enumerate() {
            assert!(
                (expected - found).abs() <= tolerance * expected + 1e-9,
                "{label}: chunk {chunk} of sequence {sequence} got {found}, expected {expected}"
            );
        }
        // Every row pays 1 in all.
        let rows = layers.batch.rows.iter().filter(|row| row.sequence as usize == sequence).count();
        let paid: f32 = found.iter().sum();
        assert!((paid - rows as f32).abs() <= 1e-4 * rows as f32, "{label}: sequence {sequence} paid {paid}");
    }
}

#[test]
fn backends_measure_what_the_reference_does() {
    let backends = &mut backends();
    let mut reference = backends::reference(Numerics::ActF32);
    let sequences = vec![prompt(290, 40), generated(620), prompt(20, 20), generated(1), prompt(600, 3)];
    for (heads, kv_heads, head_dim, window, softcap) in
        [(6, 3, 66, None, None), (8, 2, 32, Some(250), Some(5.0)), (3, 3, 6, Some(17), None)]
    {
        let element = if head_dim == 32 { PageElement::F16 } else { PageElement::F32 };
        let sequences = sequences.clone();
        let case = AttentionCase { heads, kv_heads, head_dim, element, sequences, seed: head_dim as u64 };
        let (data, shape) = (case.data(), AttentionShape { window, softcap, ..case.shape() });
        let expected = Layers::write(&case, shape, &data, &mut reference);
        for backend in &mut *backends {
            let layers = Layers::write(&case, shape, &data, backend);
            for sample in [sample(&[0, 1], 1), sample(&[1], 1), sample(&[0, 1], 2), sample(&[0], 9)] {
                let expected = expected.run(&[0, 1], &mut reference, Some(&sample)).mass;
                let found = layers.measure(&[0, 1], backend, &sample);
                let label = format!("{} {shape:?} {sample:?}", label(&**backend));
                assert_alike(&label, &layers, &expected, &found);
            }
            assert!(layers.run(&[0], backend, Some(&sample(&[1], 1))).mass.is_empty(), "not in the step");
        }
    }
}

/// Generated rows that read the same pages together, at other positions, and a prompt's rows over them.
#[test]
fn sequences_that_share_pages_get_what_their_own_rows_pay() {
    let backends = &mut backends();
    let case = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        element: PageElement::F16,
        sequences: vec![generated(800)],
        seed: 5,
    };
    let data = case.data();
    let positions = [799, 600, 255, 256, 600, 0];
    let shape = AttentionShape { window: Some(512), ..case.shape() };
    let q: Vec<f32> = Random::new(8).values(positions.len() * 128).iter().map(|v| 6.0 * v).collect();
    let shared = |backend: &mut Boxed| {
        let Layers { batch, .. } = Layers::write(&case, shape, &data, backend);
        let row = |(sequence, &position)| interleaf_contract::Row { sequence, position, ..batch.rows[0] };
        let rows = (0..).zip(&positions).map(row).collect();
        let Sequence { pages } = &batch.sequences[0];
        let sequences = vec![Sequence { pages: pages.clone() }; positions.len()];
        Layers::new(shape, Batch { rows, sequences, ..batch }, q.clone())
    };
    let (mut reference, sample) = (backends::reference(Numerics::ActF32), sample(&[0, 1], 1));
    let expected = shared(&mut reference).run(&[0, 1], &mut reference, Some(&sample)).mass;
    for backend in backends {
        let layers = shared(backend);
        let found = layers.measure(&[0, 1], backend, &sample);
        assert_alike(&label(&**backend), &layers, &expected, &found);
        for (sequence, together) in found.iter().enumerate() {
            let alone = layers.alone(sequence).run(&[0, 1], backend, Some(&sample)).mass.remove(0);
            assert_bits(&format!("{}, sequence {sequence} alone", label(&**backend)), &alone, together);
        }
    }
}

/// Differences from anchors that rows share, and values of coefficients, which are gathered before they are expanded.
#[test]
fn coded_pages() {
    let backends = &mut backends();
    let low_rank =
        PageCodec::LowRank { rank: 16, coefficients: Coefficients::Codes(Bits::Four), keeps_first: true };
    for (seed, values) in [(50, PageCodec::Delta(Bits::Four)), (51, low_rank)] {
        let case = CodedCase {
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            element: PageElement::F16,
            window: None,
            softcap: None,
            values: Some(values),
            sequences: vec![generated(530), generated(610), prompt(330, 21), generated(530)],
            seed,
        };
        let coded = case.coded();
        let write = |backend: &mut Boxed| {
            Layers::new(
                coded.shape,
                coded.write(&mut **backend).expect("every codec is read"),
                coded.q.clone(),
            )
        };
        let (mut reference, sample) = (backends::reference(Numerics::ActF32), sample(&[coded::LAYER], 1));
        let layers = write(&mut reference);
        let expected = layers.run(&[coded::LAYER], &mut reference, Some(&sample)).mass;
        for backend in &mut *backends {
            let layers = write(backend);
            let found = layers.measure(&[coded::LAYER], backend, &sample);
            assert_alike(&format!("{} {values}", label(&**backend)), &layers, &expected, &found);
        }
    }
}

/// A prompt that is read in pieces pays in all what it pays at once.
#[test]
fn pieces_of_a_prompt_add_up() {
    let case = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        element: PageElement::F16,
        sequences: vec![prompt(300, 60)],
        seed: 7,
    };
    let (data, cols) = (case.data(), 128);
    let sample = sample(&[0, 1], 1);
    for backend in &mut backends() {
        let layers = Layers::write(&case, case.shape(), &data, backend);
        let whole = layers.run(&[0, 1], backend, Some(&sample)).mass;
        let mut sum = vec![0.0; whole[0].len()];
        for rows in [0..7, 7..40, 40..60] {
            let q = layers.q.each_ref().map(|q| q[rows.start * cols..rows.end * cols].to_vec());
            let batch = Batch { rows: layers.batch.rows[rows].to_vec(), ..layers.batch.clone() };
            let piece = Layers { shape: layers.shape, batch, q };
            let paid = piece.run(&[0, 1], backend, Some(&sample)).mass.remove(0);
            sum.iter_mut().zip(paid).for_each(|(sum, paid)| *sum += paid);
        }
        assert_alike(&label(&**backend), &layers, &whole, &[sum]);
    }
}

/// Many rows on a device with little room, which takes them in parts.
#[test]
fn more_rows_than_a_buffer_has_room_for() {
    let case = AttentionCase {
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        element: PageElement::F16,
        sequences: vec![prompt(600, 600), prompt(100, 40)],
        seed: 9,
    };
    // The lowest tier comes last.
    let Some(mut gpu) = backends::gpu_variants_within(Some(1 << 20)).pop() else { return };
    let (data, sample) = (case.data(), sample(&[0, 1], 1));
    let mut reference = backends::reference(Numerics::ActF32);
    let layers = Layers::write(&case, case.shape(), &data, &mut reference);
    let expected = layers.run(&[0, 1], &mut reference, Some(&sample)).mass;
    let layers = Layers::write(&case, case.shape(), &data, &mut gpu);
    let found = layers.measure(&[0, 1], &mut gpu, &sample);
    assert_alike(&label(&*gpu), &layers, &expected, &found);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let case = AttentionCase {
        heads: 6,
        kv_heads: 3,
        head_dim: 16,
        element: PageElement::F16,
        sequences: vec![prompt(290, 70), generated(600), generated(5), prompt(17, 17)],
        seed: 3,
    };
    let data = case.data();
    let sample = sample(&[0, 1], 1);
    let run = |threads| {
        backends::cpu_tiers(threads, Numerics::ActF32).into_iter().map(|mut backend| {
            let layers = Layers::write(&case, case.shape(), &data, &mut backend);
            let mass = layers.run(&[0, 1], &mut backend, Some(&sample)).mass;
            (label(&*backend), mass)
        })
    };
    let one: Vec<_> = run(1).collect();
    for threads in [2, 3, 5] {
        for ((label, one), (_, many)) in one.iter().zip(run(threads)) {
            assert_eq!(*one, many, "{label} {threads} threads");
        }
    }
}
