//! Rows whose token the step before chose: they are what rows with that token are, whether or not the host has waited for
//! it, and what there is no token for is refused by name.

use std::sync::Arc;

use interleaf_contract::{
    Backend, BackendError, Batch, Chained, ContractError, Dtype, MatrixId, Numerics, Op, Output, RowKind,
    RowSet, Sampler, Step, Ticket,
};
use interleaf_tests::backends::{self, Boxed, label};
use interleaf_tests::data::{Random, matrix};
use interleaf_tests::lora::{one_page, rows};
use interleaf_tests::tolerance::assert_bits;

const TOKENS: usize = 40;
const HIDDEN: u32 = 32;
const ROWS: u32 = 4;

fn backends() -> Vec<Boxed> {
    let mut all = backends::all();
    all.extend(backends::gpu_variants());
    all.push(backends::reference(Numerics::ActF32));
    all
}

fn batch(kind: RowKind, sampled: impl Fn(u32) -> bool) -> Batch {
    let output = |row| Output { row, sampler: sampled(row).then(Sampler::greedy) };
    Batch {
        rows: rows(&[(kind, -1); ROWS as usize]),
        sequences: (0..ROWS).map(|_| one_page()).collect(),
        outputs: (0..ROWS).map(output).collect(),
        ..Batch::default()
    }
}

/// Embeds every row, and chooses a token for all but one of them by logits that are given.
fn step(batch: Batch, table: MatrixId, logits: &Arc<[f32]>) -> Result<Step, ContractError> {
    let mut step = Step::new(batch)?;
    let out = step.tensor(RowSet::All, HIDDEN);
    step.push(Op::Embed { table, scale: 2.0, out });
    step.probe(out);
    let cols = (logits.len() / ROWS as usize) as u32;
    let given = step.tensor(RowSet::Outputs, cols);
    step.push(Op::Load { out: given, data: Arc::clone(logits) });
    step.push(Op::Sample { logits: given });
    Ok(step)
}

fn is_sampled(row: u32) -> bool {
    row != 1
}

/// Logits by which row i chooses a token of its own; `None` for one without any number.
fn logits(tokens: [Option<usize>; ROWS as usize]) -> Arc<[f32]> {
    let row = |token: Option<usize>| {
        let mut logits = vec![if token.is_some() { 0.0 } else { f32::NAN }; TOKENS];
        token.into_iter().for_each(|token| logits[token] = 1.0);
        logits
    };
    tokens.into_iter().flat_map(row).collect()
}

fn table(backend: &mut dyn Backend, tokens: usize) -> MatrixId {
    let table = matrix("embedding", Dtype::Q8_0, tokens, HIDDEN as usize, &mut Random::new(3));
    backend.create_matrix(table).expect("a matrix")
}

fn submit(backend: &mut dyn Backend, step: Step) -> Ticket {
    backend.submit(step).expect("it is sound")
}

/// Tokens are handed on twice, some of them to other rows, before any step is waited for; then by hand.
#[test]
fn chained_rows_are_those_with_the_token() {
    let chosen = [[Some(7), Some(1), Some(39), Some(0)], [Some(20), Some(1), Some(5), Some(33)]];
    let links: [&[(u32, u32)]; 2] = [&[(0, 0), (1, 2), (2, 3)], &[(0, 3), (2, 0), (3, 2)]];
    for backend in &mut backends() {
        let label = label(&**backend);
        let table = table(&mut **backend, TOKENS);
        let mut tickets = Vec::new();
        for k in 0..3_usize {
            let mut batch = batch(RowKind::Generated, is_sampled);
            if let Some(links) = k.checked_sub(1).map(|k| links[k]) {
                batch.chained = links.iter().map(|&(row, output)| Chained { row, output }).collect();
            }
            let step = step(batch, table, &logits(chosen[k % 2])).expect("a sound batch");
            tickets.push(submit(&mut **backend, step));
        }
        let found: Vec<_> = tickets.into_iter().map(|t| backend.wait(t).expect("it runs")).collect();
        for (k, found) in found.iter().enumerate().skip(1) {
            let mut batch = batch(RowKind::Generated, is_sampled);
            for &(row, output) in links[k - 1] {
                let token = chosen[(k - 1) % 2][output as usize].expect("chosen");
                batch.rows[row as usize].token = token as u32;
            }
            let step = step(batch, table, &logits(chosen[k % 2])).expect("a sound batch");
            let ticket = submit(&mut **backend, step);
            let expected = backend.wait(ticket).expect("it runs");
            assert_bits(&format!("{label}, step {k}"), &found.probes[0], &expected.probes[0]);
            assert_eq!(found.tokens, expected.tokens, "{label}");
        }
    }
}

#[test]
fn where_no_token_was_chosen_the_others_are_as_ever() {
    for backend in &mut backends() {
        let label = label(&**backend);
        let table = table(&mut **backend, TOKENS);
        let first =
            step(batch(RowKind::Generated, is_sampled), table, &logits([Some(9), Some(1), None, Some(31)]));
        let first = submit(&mut **backend, first.expect("a sound batch"));
        let mut next = batch(RowKind::Generated, is_sampled);
        next.chained = [(0, 0), (1, 2), (2, 3)].map(|(row, output)| Chained { row, output }).into();
        let next = step(next, table, &logits([Some(1); 4])).expect("a sound batch");
        let next = submit(&mut **backend, next);
        let tokens: Vec<_> = backend.wait(first).expect("it runs").tokens.iter().map(|t| t.token).collect();
        assert_eq!(tokens, [Some(9), None, Some(31)], "{label}");
        let found = backend.wait(next).expect("it runs").probes.remove(0);
        let mut given = batch(RowKind::Generated, is_sampled);
        for (row, token) in [(0, 9), (2, 31)] {
            given.rows[row].token = token;
        }
        let given = step(given, table, &logits([Some(1); 4])).expect("a sound batch");
        let given = submit(&mut **backend, given);
        let expected = backend.wait(given).expect("it runs").probes.remove(0);
        let of_rows = |values: &[f32]| {
            let rows = values.chunks(HIDDEN as usize).enumerate();
            rows.filter(|(row, _)| *row != 1).flat_map(|(_, row)| row.to_vec()).collect::<Vec<f32>>()
        };
        assert_bits(&label, &of_rows(&found), &of_rows(&expected));
    }
}

#[test]
fn what_cannot_be_chained_is_refused_by_name() {
    let chain = |batch: Batch, links: &[(u32, u32)]| Batch {
        chained: links.iter().map(|&(row, output)| Chained { row, output }).collect(),
        ..batch
    };
    let generated = || batch(RowKind::Generated, is_sampled);
    for (batch, said) in [
        (chain(generated(), &[(4, 0)]), "chained row 4 is out of range: there are 4"),
        (chain(generated(), &[(2, 0), (1, 2)]), "a chained row must be ascending, found 1"),
        (chain(generated(), &[(2, 0), (2, 2)]), "a chained row must be ascending, found 2"),
        (chain(batch(RowKind::Prompt, is_sampled), &[(3, 0)]), "a chained row must be generated, found 3"),
    ] {
        let refused = Step::new(batch).expect_err("it contradicts itself").to_string();
        assert!(refused.contains(said), "{refused}");
    }
    for backend in &mut backends() {
        let label = label(&**backend);
        let (whole, small) = (table(&mut **backend, TOKENS), table(&mut **backend, TOKENS - 1));
        let logits = logits([Some(3); 4]);
        let refused = |backend: &mut dyn Backend, table, output| {
            let step = step(chain(generated(), &[(0, output)]), table, &logits).expect("a sound batch");
            match backend.submit(step).expect_err("it is refused") {
                BackendError::Contract(refused) => refused,
                other => panic!("{label}: {other}"),
            }
        };
        let nothing = |output| ContractError::NothingChosen { output };
        assert_eq!(refused(&mut **backend, whole, 0), nothing(0), "there is no step before");
        let first = step(generated(), whole, &logits).expect("a sound batch");
        let ticket = submit(&mut **backend, first);
        assert_eq!(refused(&mut **backend, whole, 1), nothing(1), "it has no sampler");
        assert_eq!(refused(&mut **backend, whole, 4), nothing(4), "there are four");
        let beyond = ContractError::OutOfRange { what: "a chosen token", index: TOKENS - 1, len: TOKENS - 1 };
        assert_eq!(refused(&mut **backend, small, 0), beyond, "a table that does not have them all");
        // What was refused is not the step before.
        let next = step(chain(generated(), &[(0, 3)]), whole, &logits).expect("a sound batch");
        let next = submit(&mut **backend, next);
        backend.wait(ticket).expect("it runs");
        backend.wait(next).expect("it runs");
        // One that chooses nothing is.
        let nobody = step(batch(RowKind::Generated, |_| false), whole, &logits).expect("a sound batch");
        let ticket = submit(&mut **backend, nobody);
        assert_eq!(refused(&mut **backend, whole, 0), nothing(0));
        backend.wait(ticket).expect("it runs");
    }
}
