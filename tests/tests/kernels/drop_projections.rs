//! Projections that are dropped: their weights go as far as no other uses them, what is left computes the same, and
//! what cannot be dropped leaves everything as it was.

use interleaf_contract::{
    Adapter, Backend, BackendError, Batch, ContractError, Dtype, LoraSite, Matrix, MatrixId, Numerics, Op,
    Projection, ProjectionId, RowKind, RowSet, Step, VectorId,
};
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::data::{Random, matrix};
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::tolerance::assert_bits;

const INPUTS: usize = 16;

/// Not whole units of any dtype.
const OUTPUTS: usize = 12;

fn all() -> Vec<Boxed> {
    let mut all = backends::all();
    all.push(backends::reference(Numerics::ActF32));
    all
}

fn weights<const N: usize>(backend: &mut Boxed) -> [MatrixId; N] {
    let mut random = Random::new(1);
    let matrices: [Matrix; N] =
        std::array::from_fn(|_| matrix("w", Dtype::F32, OUTPUTS, INPUTS, &mut random));
    let ids = backend.create_matrices(matrices.into()).expect("matrices");
    ids.try_into().expect("as many")
}

fn project(backend: &mut Boxed, matrix: MatrixId, bias: Option<VectorId>) -> ProjectionId {
    backend.create_projection(Projection { name: "p".into(), matrix, bias }).expect("it fits")
}

/// A row through projections one after another.
fn step(projections: &[(ProjectionId, usize)]) -> Step {
    let rows = rows(&[(RowKind::Prompt, -1)]);
    let batch = Batch { rows, sequences: vec![one_page()], ..Batch::default() };
    let mut step = Step::new(batch).expect("a sound batch");
    let mut x = step.tensor(RowSet::All, INPUTS as u32);
    step.push(Op::Load { out: x, data: Random::new(2).values(INPUTS).into() });
    for &(projection, outputs) in projections {
        let y = step.tensor(RowSet::All, outputs as u32);
        step.push(Op::LoraMatmul { x, projections: vec![(projection, y)] });
        x = y;
    }
    step.probe(x);
    step
}

fn run(backend: &mut dyn Backend, projections: &[(ProjectionId, usize)]) -> Vec<f32> {
    let ticket = backend.submit(step(projections)).expect("it is sound");
    backend.wait(ticket).expect("it runs").probes.remove(0)
}

fn is_unknown<T: std::fmt::Debug>(what: &str, label: &str, result: Result<T, BackendError>) {
    assert!(
        matches!(&result, Err(BackendError::UnknownHandle { kind, .. }) if *kind == what),
        "{label}: {result:?}"
    );
}

#[test]
fn weights_go_with_the_last_that_uses_them() {
    for backend in &mut all() {
        let label = label(&**backend);
        let biases =
            [0.5, 1.5].map(|value| backend.create_vector("bias", &[value; OUTPUTS]).expect("a vector"));
        let [kept] = weights(backend);
        let kept = project(backend, kept, Some(biases[0]));
        let before = backend.memory().base;
        let result = run(&mut **backend, &[(kept, OUTPUTS)]);

        let [shared, alone] = weights(backend);
        let more = backend.memory().base;
        assert!(more > before, "{label}");
        let [a, b] = [Some(biases[0]), Some(biases[1])].map(|bias| project(backend, shared, bias));
        let c = project(backend, alone, Some(biases[1]));
        backend.drop_projections(&[a]).expect("nothing attaches to it");
        assert_eq!(backend.memory().base, more, "{label}: others use its weights");
        backend.drop_projections(&[b, b]).expect("twice is once");
        assert!(backend.memory().base <= more, "{label}");
        is_unknown("projection", &label, backend.submit(step(&[(b, OUTPUTS)])));
        let again = Projection { name: "p".into(), matrix: shared, bias: None };
        is_unknown("matrix", &label, backend.create_projection(again));
        run(&mut **backend, &[(c, OUTPUTS)]);
        backend.drop_projections(&[c]).expect("nothing attaches to it");
        let bias = size_of::<[f32; OUTPUTS]>() as u64;
        let left = backend.memory().base;
        // A device may keep the room of a vector.
        assert!(left == before || left == before - bias, "{label}: {left} of {before} and {bias}");
        let again = Projection { name: "p".into(), matrix: alone, bias: None };
        is_unknown("matrix", &label, backend.create_projection(again));

        let [other] = weights(backend);
        let new = project(backend, other, None);
        assert!(
            ![shared, alone].contains(&other) && ![a, b, c].contains(&new),
            "{label}: a handle came again"
        );
        let bias = Projection { name: "p".into(), matrix: other, bias: Some(biases[1]) };
        is_unknown("vector", &label, backend.create_projection(bias));
        assert_bits(&label, &result, &run(&mut **backend, &[(kept, OUTPUTS)]));
    }
}

#[test]
fn a_step_under_way_keeps_what_it_reads() {
    for backend in &mut all() {
        let label = label(&**backend);
        let [w] = weights(backend);
        let bias = backend.create_vector("bias", &[0.5; OUTPUTS]).expect("a vector");
        let p = project(backend, w, Some(bias));
        let expected = run(&mut **backend, &[(p, OUTPUTS)]);
        let ticket = backend.submit(step(&[(p, OUTPUTS)])).expect("it is sound");
        backend.drop_projections(&[p]).expect("nothing attaches to it");
        // In the places of what was dropped, where they are free.
        weights::<1>(backend);
        backend.create_vector("bias", &[7.0; OUTPUTS]).expect("a vector");
        let found = backend.wait(ticket).expect("it runs").probes.remove(0);
        assert_bits(&label, &expected, &found);
    }
}

/// Rows and vectors are padded with zeros where kernels read whole units, also where something else was.
#[test]
fn a_vector_in_the_place_of_another_has_nothing_behind_it() {
    for backend in &mut all() {
        let label = label(&**backend);
        let second = matrix("w2", Dtype::F16, 4, OUTPUTS, &mut Random::new(3));
        let second = backend.create_matrix(second).expect("a matrix");
        let second = (project(backend, second, None), 4);
        let [first] = weights(backend);
        let fresh = backend.create_vector("bias", &[0.5; OUTPUTS]).expect("a vector");
        let fresh = (project(backend, first, Some(fresh)), OUTPUTS);
        let expected = run(&mut **backend, &[fresh, second]);

        let long = matrix("w3", Dtype::F32, 64, INPUTS, &mut Random::new(4));
        let long = backend.create_matrix(long).expect("a matrix");
        let bias = backend.create_vector("bias", &[f32::NAN; 64]).expect("a vector");
        let long = project(backend, long, Some(bias));
        backend.drop_projections(&[long]).expect("nothing attaches to it");
        let bias = backend.create_vector("bias", &[0.5; OUTPUTS]).expect("a vector");
        let again = (project(backend, first, Some(bias)), OUTPUTS);
        assert_bits(&label, &expected, &run(&mut **backend, &[again, second]));
    }
}

#[test]
fn what_cannot_be_dropped_leaves_everything() {
    for backend in &mut all() {
        let label = label(&**backend);
        let [plain, adapted] = weights(backend).map(|w| project(backend, w, None));
        let mut random = Random::new(5);
        let site = LoraSite {
            projection: adapted,
            scale: 1.0,
            a: matrix("lora_A", Dtype::F32, 2, INPUTS, &mut random),
            b: matrix("lora_B", Dtype::F32, OUTPUTS, 2, &mut random),
        };
        let adapter =
            backend.create_adapter(Adapter { name: "a".into(), sites: vec![site] }).expect("it fits");
        let held = backend.memory().base;
        is_unknown("projection", &label, backend.drop_projections(&[plain, ProjectionId(99)]));
        let refused = backend.drop_projections(&[plain, adapted]);
        let attached = ContractError::Adapted { projection: adapted.0, adapter: adapter.0 };
        assert_eq!(refused, Err(BackendError::Contract(attached)), "{label}");
        assert_eq!(backend.memory().base, held, "{label}");
        run(&mut **backend, &[(plain, OUTPUTS)]);

        backend.drop_adapter(adapter).expect("it is resident");
        backend.drop_projections(&[plain, adapted]).expect("nothing attaches to them");
        assert!(backend.memory().base < held, "{label}");
        is_unknown("projection", &label, backend.drop_projections(&[plain]));
    }
}
