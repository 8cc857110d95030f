//! Which operations of a step become one kernel: a pure function of their list. How they are recorded is in the
//! modules of the kernels.
//!
//! A norm and the shrink of what it norms; a gate, its up and their product; what is done to queries and keys and
//! their append; a residual's own norm and the norm that takes it in. Nothing is fused over a tensor that somebody
//! still reads.

use interleaf_contract::{Activation, Op, ProjectionId, RopeId, Tensor, VectorId};

/// A norm of whole rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Norm {
    pub x: Tensor,
    pub add: Option<Tensor>,
    /// A norm of the residual's own, over the whole row.
    pub after: Option<(VectorId, f32)>,
    pub weight: VectorId,
    pub epsilon: f32,
    pub heads: u32,
    pub out: Tensor,
    /// Whether x with the residual in it is read again.
    pub keeps_sum: bool,
}

/// What is done to the heads of queries and keys before keys are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Roped {
    pub q: Tensor,
    /// The norms on the heads of q and of k.
    pub norms: Option<[(VectorId, f32); 2]>,
    pub rope: Option<RopeId>,
}

/// A kernel, or a few that belong together.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work<'a> {
    /// An operation by itself.
    Op(&'a Op),
    Norm(Norm),
    Matmul {
        /// A norm whose result is x.
        norm: Option<Norm>,
        x: Tensor,
        projections: &'a [(ProjectionId, Tensor)],
        /// The two projections are a gate and its up, and this is all that is wanted of them.
        gate: Option<(Activation, Tensor)>,
    },
    /// `KvAppend` with what comes before it; `ops` are those that it stands for.
    Append {
        layer: u32,
        k: Tensor,
        v: Tensor,
        roped: Roped,
        ops: &'a [Op],
    },
}

/// A step's work in order, each with how many operations it stands for. `together` says whether projections can be one
/// dispatch; `head_dim` is the pool's.
pub(crate) fn fuse<'a>(
    ops: &'a [Op],
    head_dim: u32,
    together: impl Fn(&[(ProjectionId, Tensor)]) -> bool,
) -> Vec<(Work<'a>, usize)> {
    let mut works = Vec::new();
    let mut at = 0;
    while at < ops.len() {
        let (work, used) = append(ops, at, head_dim)
            .or_else(|| normed(ops, at, &together))
            .or_else(|| matmul(ops, at, &together))
            .unwrap_or((Work::Op(&ops[at]), 1));
        works.push((work, used));
        at += used;
    }
    works
}

/// A norm, perhaps with one of its residual before it and a matmul behind it.
fn normed<'a>(
    ops: &'a [Op],
    at: usize,
    together: &impl Fn(&[(ProjectionId, Tensor)]) -> bool,
) -> Option<(Work<'a>, usize)> {
    let (norm, used) = after(ops, at).or_else(|| Some((norm_of(ops, at)?, 1)))?;
    let next = at + used;
    if norm.heads == 1
        && norm.out != norm.x
        && norm.out.rows == norm.x.rows
        && let Some((Work::Matmul { x, projections, gate, .. }, more)) = matmul(ops, next, together)
        && x == norm.out
    {
        return Some((Work::Matmul { norm: Some(norm), x, projections, gate }, used + more));
    }
    Some((Work::Norm(norm), used))
}

fn norm_of(ops: &[Op], at: usize) -> Option<Norm> {
    let &Op::RmsNorm { x, add, weight, epsilon, heads, out } = ops.get(at)? else { return None };
    let keeps_sum = add.is_some() && out != x && !is_dead(ops, at + 1, x);
    Some(Norm { x, add, after: None, weight, epsilon, heads, out, keeps_sum })
}

/// Two norms: of a residual, in place, then of what it is added to.
fn after(ops: &[Op], at: usize) -> Option<(Norm, usize)> {
    let (first, second) = (norm_of(ops, at)?, norm_of(ops, at + 1)?);
    let of_residual = first.add.is_none() && first.heads == 1 && first.out == first.x;
    let fits = second.heads == 1 && second.add == Some(first.x) && second.out != first.x;
    if !of_residual || !fits || !is_dead(ops, at + 2, first.x) {
        return None;
    }
    Some((Norm { after: Some((first.weight, first.epsilon)), ..second }, 2))
}

fn matmul<'a>(
    ops: &'a [Op],
    at: usize,
    together: &impl Fn(&[(ProjectionId, Tensor)]) -> bool,
) -> Option<(Work<'a>, usize)> {
    let Op::LoraMatmul { x, projections } = ops.get(at)? else { return None };
    let (x, norm) = (*x, None);
    if let [(_, first), (_, second)] = projections.as_slice()
        && let Some(&Op::SwiGlu { activation, gate, up, out }) = ops.get(at + 1)
        && (gate, up) == (*first, *second)
        && out != x
        && (gate == out || is_dead(ops, at + 2, gate))
        && is_dead(ops, at + 2, up)
        && together(projections)
    {
        return Some((Work::Matmul { norm, x, projections, gate: Some((activation, out)) }, 2));
    }
    Some((Work::Matmul { norm, x, projections, gate: None }, 1))
}

/// Norms and rotation of the heads of queries and keys, either or both, and the append of the keys.
fn append(ops: &[Op], at: usize, head_dim: u32) -> Option<(Work<'_>, usize)> {
    let mut next = at;
    let mut of = None;
    let mut norms = None;
    if let (Some(q), Some(k)) = (norm_of(ops, next), norm_of(ops, next + 1))
        && [q, k].iter().all(|n| n.add.is_none() && n.out == n.x && n.x.cols == n.heads * head_dim)
    {
        (of, norms) = (Some((q.x, k.x)), Some([(q.weight, q.epsilon), (k.weight, k.epsilon)]));
        next += 2;
    }
    let mut rope = None;
    if let (Some(&Op::Rope { x: q, head_dim: a, table }), Some(&Op::Rope { x: k, head_dim: b, table: other })) =
        (ops.get(next), ops.get(next + 1))
        && (a, b, table) == (head_dim, head_dim, other)
        && of.is_none_or(|of| of == (q, k))
    {
        (of, rope) = (Some((q, k)), Some(table));
        next += 2;
    }
    let (q, turned) = of?;
    let &Op::KvAppend { layer, k, v } = ops.get(next)? else { return None };
    if k != turned || q == k || q == v || k == v || !is_dead(ops, next + 1, k) {
        return None;
    }
    let used = next + 1 - at;
    Some((Work::Append { layer, k, v, roped: Roped { q, norms, rope }, ops: &ops[at..=next] }, used))
}

/// Whether nothing reads a tensor's present value from operation `from` on.
fn is_dead(ops: &[Op], from: usize, tensor: Tensor) -> bool {
    for op in ops.iter().skip(from) {
        let (read, written) = uses(op);
        if read.contains(&tensor) {
            return false;
        }
        if written.contains(&tensor) {
            return true;
        }
    }
    true
}

/// The tensors that an operation reads, and those that it writes whole.
pub(crate) fn uses(op: &Op) -> (Vec<Tensor>, Vec<Tensor>) {
    match op {
        Op::Load { out, .. } | Op::Embed { out, .. } => (vec![], vec![*out]),
        Op::RmsNorm { x, add, out, .. } => (std::iter::once(*x).chain(*add).collect(), vec![*out]),
        Op::LoraMatmul { x, projections } => (vec![*x], projections.iter().map(|(_, y)| *y).collect()),
        Op::Rope { x, .. } | Op::Softcap { x, .. } | Op::Probe { x } => (vec![*x], vec![]),
        Op::KvAppend { k, v, .. } => (vec![*k, *v], vec![]),
        // Columns around those that it writes stay, so what was there is still wanted.
        Op::KvRead { out, .. } => (vec![*out], vec![]),
        Op::Add { x, from, .. } => (vec![*x, *from], vec![]),
        Op::PagedAttention { q, out, .. } => (vec![*q], vec![*out]),
        Op::SwiGlu { gate, up, out, .. } => (vec![*gate, *up], vec![*out]),
        Op::Sample { logits } => (vec![*logits], vec![]),
        // An operation that this backend does not know is refused when it is recorded.
        _ => (vec![], vec![]),
    }
}

#[cfg(test)]
mod tests {
    use interleaf_contract::RowSet;

    use super::*;

    fn t(index: u32, cols: u32) -> Tensor {
        Tensor { index, rows: RowSet::All, cols }
    }

    fn norm(x: Tensor, add: Option<Tensor>, heads: u32, out: Tensor) -> Op {
        Op::RmsNorm { x, add, weight: VectorId(0), epsilon: 1e-5, heads, out }
    }

    fn matmul(x: Tensor, ys: &[Tensor]) -> Op {
        Op::LoraMatmul { x, projections: ys.iter().map(|y| (ProjectionId(0), *y)).collect() }
    }

    fn rope(x: Tensor) -> Op {
        Op::Rope { x, head_dim: 8, table: RopeId(0) }
    }

    fn counts(ops: &[Op]) -> Vec<usize> {
        fuse(ops, 8, |_| true).iter().map(|(_, used)| *used).collect()
    }

    const SILU: Activation = Activation::Silu;

    #[test]
    fn a_layer_is_six_works() {
        let [x, normed, q, k, v, mixed, delta] =
            [(0, 32), (1, 32), (2, 16), (3, 8), (4, 8), (5, 16), (6, 32)].map(|(i, c)| t(i, c));
        let [gate, up] = [t(7, 64), t(8, 64)];
        let shape = interleaf_contract::AttentionShape {
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            scale: 1.0,
            softcap: None,
            window: None,
        };
        let layer = [
            norm(x, None, 1, normed),
            matmul(normed, &[q, k, v]),
            norm(q, None, 2, q),
            norm(k, None, 1, k),
            rope(q),
            rope(k),
            Op::KvAppend { layer: 0, k, v },
            Op::PagedAttention { layer: 0, shape, q, out: mixed },
            matmul(mixed, &[delta]),
            norm(delta, None, 1, delta),
            norm(x, Some(delta), 1, normed),
            matmul(normed, &[gate, up]),
            Op::SwiGlu { activation: SILU, gate, up, out: gate },
            matmul(gate, &[delta]),
        ];
        assert_eq!(counts(&layer), [2, 5, 1, 1, 4, 1]);
        let plain: Vec<Op> = layer
            .iter()
            .filter(|op| !matches!(op, Op::RmsNorm { x, .. } if [q, k, delta].contains(x)))
            .cloned()
            .collect();
        assert_eq!(counts(&plain), [2, 3, 1, 1, 3, 1]);
        let works = fuse(&plain, 8, |_| true);
        assert!(matches!(works[4].0, Work::Matmul { norm: Some(Norm { keeps_sum: false, .. }), .. }));
        assert!(
            matches!(works[4].0, Work::Matmul { gate: Some((Activation::Silu, out)), .. } if out == gate)
        );
    }

    #[test]
    fn nothing_is_fused_over_what_is_still_read() {
        let [x, g, u, d] = [0, 1, 2, 3].map(|i| t(i, 8));
        let gated =
            |then: Op| [matmul(x, &[g, u]), Op::SwiGlu { activation: SILU, gate: g, up: u, out: g }, then];
        assert_eq!(counts(&gated(Op::Probe { x: g })), [2, 1]);
        assert_eq!(counts(&gated(Op::Probe { x: u })), [1, 1, 1]);
        assert_eq!(fuse(&gated(Op::Probe { x: g }), 8, |_| false)[0].1, 1);

        let twice = |then: Op| [norm(d, None, 1, d), norm(x, Some(d), 1, g), then];
        assert_eq!(counts(&twice(Op::Probe { x: g })), [2, 1]);
        assert_eq!(counts(&twice(Op::Probe { x: d })), [1, 1, 1]);
        assert_eq!(counts(&twice(matmul(g, &[d]))), [3]);

        let appended = |then: Op| [rope(x), rope(g), Op::KvAppend { layer: 0, k: g, v: u }, then];
        assert_eq!(counts(&appended(Op::Probe { x })), [3, 1]);
        assert_eq!(counts(&appended(Op::Probe { x: g })), [1, 1, 1, 1]);
        assert_eq!(counts(&[Op::KvAppend { layer: 0, k: g, v: u }]), [1]);
    }

    #[test]
    fn reading_and_adding_keep_their_place_and_what_they_grow() {
        let [x, g, u, d] = [0, 1, 2, 3].map(|i| t(i, 8));
        let read = |out| Op::KvRead { layer: 0, rope: None, out, at: 0 };
        let add = |x, from| Op::Add { x, from, at: 0 };
        // Between what is fused otherwise.
        assert_eq!(counts(&[rope(x), rope(g), read(d), Op::KvAppend { layer: 0, k: g, v: u }]), [1; 4]);
        assert_eq!(counts(&[norm(x, None, 1, g), add(g, d), matmul(g, &[u])]), [1; 3]);
        // Behind it: both read what they write, and keep it alive.
        let appended = |then| [rope(x), rope(g), Op::KvAppend { layer: 0, k: g, v: u }, then];
        assert_eq!(counts(&appended(read(d))), [3, 1]);
        for then in [read(g), add(g, d), add(d, g)] {
            assert_eq!(counts(&appended(then)), [1; 4]);
        }
        let sum = |then| [norm(x, Some(d), 1, g), then];
        for (then, keeps_sum) in [(add(x, d), true), (add(d, g), false)] {
            let ops = sum(then);
            let Work::Norm(norm) = fuse(&ops, 8, |_| true)[0].0 else { panic!("a norm") };
            assert_eq!(norm.keeps_sum, keeps_sum);
        }
    }
}
