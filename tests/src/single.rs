//! A step of one or a few operations over loaded tensors, for the kernels that need no weights of their
//! own shape.

use interleaf_contract::{Backend, BackendError, Batch, Op, RowSet, Step, StepOutput, Tensor};

/// Loads each of `inputs` (columns and values, one per batch row) and records what `ops` asks for; every
/// tensor it returns is probed.
///
/// # Errors
/// If the backend refuses it.
pub fn run(
    backend: &mut dyn Backend,
    batch: Batch,
    inputs: &[(u32, Vec<f32>)],
    ops: impl FnOnce(&mut Step, &[Tensor]) -> Vec<Tensor>,
) -> Result<StepOutput, BackendError> {
    let mut step = Step::new(batch)?;
    let tensors: Vec<Tensor> = inputs
        .iter()
        .map(|(cols, values)| {
            let t = step.tensor(RowSet::All, *cols);
            step.push(Op::Load { out: t, data: values.clone().into() });
            t
        })
        .collect();
    for t in ops(&mut step, &tensors) {
        step.probe(t);
    }
    let ticket = backend.submit(step)?;
    backend.wait(ticket)
}
