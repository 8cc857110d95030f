//! `kv_read` against what was appended: to the bit without a rotation, and within what the two rotations round with one.
//! Columns beside those that it writes stay.

use half::f16;
use interleaf_contract::{
    Backend, Batch, Dtype, Op, PageElement, PageTable, PoolGeometry, Projection, RopeId, RopeTable, Row,
    RowKind, RowSet, Sequence, Step, Tensor,
};
use interleaf_tests::backends::{self, label};
use interleaf_tests::data::{Random, matrix};
use interleaf_tests::single;
use interleaf_tests::tolerance::{assert_bits, error};

const LAYERS: usize = 2;

const fn pool(kv_heads: usize, head_dim: usize, element: PageElement) -> PoolGeometry {
    PoolGeometry { layers: LAYERS, kv_heads, head_dim, slots: 6, element }
}

/// Keys of 2, 6, 64 and 80 columns, and heads that are no whole vectors in either element.
const POOLS: [PoolGeometry; 5] = [
    pool(1, 2, PageElement::F16),
    pool(3, 2, PageElement::F32),
    pool(1, 6, PageElement::F16),
    pool(1, 64, PageElement::F32),
    pool(2, 40, PageElement::F16),
];

/// Rows of two sequences on both sides of chunk borders, whose layers and chunks lie anywhere.
fn batch(pool: &PoolGeometry, rows: &[(u32, u32)]) -> Batch {
    let table = |slots: &[[u32; LAYERS]]| {
        let mut pages = PageTable::default();
        slots.iter().for_each(|slots| pages.push(LAYERS, |layer| pool.slot(slots[layer])));
        Sequence { pages }
    };
    let row =
        |&(position, sequence)| Row { token: 0, position, sequence, adapter: -1, kind: RowKind::Prompt };
    Batch {
        rows: rows.iter().map(row).collect(),
        sequences: vec![table(&[[4, 3], [1, 5], [5, 0]]), table(&[[2, 4], [0, 1]])],
        ..Batch::default()
    }
}

const ROWS: [(u32, u32); 8] = [(0, 0), (15, 0), (16, 0), (31, 0), (32, 0), (3, 1), (4, 1), (16, 1)];

/// Some of them, which another step reads.
const LATER: [usize; 3] = [2, 3, 6];

/// A layer's keys and values of all rows.
struct Layer {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// What is around the columns that are read: before the first layer's, between the two and behind.
const AROUND: [usize; 3] = [3, 1, 2];

struct Case {
    pool: PoolGeometry,
    layers: [Layer; LAYERS],
    /// What is in the wide tensor before.
    before: Vec<f32>,
}

impl Case {
    fn new(pool: PoolGeometry, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let width = pool.kv_heads * pool.head_dim;
        let mut values = |cols: usize| random.values(ROWS.len() * cols);
        let layers = [(); LAYERS].map(|()| Layer { k: values(width), v: values(width) });
        Self { pool, layers, before: values(AROUND.iter().sum::<usize>() + 2 * LAYERS * width) }
    }

    fn width(&self) -> usize {
        self.pool.kv_heads * self.pool.head_dim
    }

    /// Columns of the wide tensor, and where each layer's begin.
    fn columns(&self) -> (usize, [usize; LAYERS]) {
        let read = 2 * self.width();
        (self.before.len() / ROWS.len(), [AROUND[0], AROUND[0] + read + AROUND[1]])
    }

    /// The wide tensor after keys and values were read, as pages hold them.
    fn after(&self) -> Vec<f32> {
        let stored = |value: f32| match self.pool.element {
            PageElement::F16 => f16::from_f32(value).to_f32(),
            PageElement::F32 => value,
        };
        let (cols, firsts) = self.columns();
        let (mut after, width) = (self.before.clone(), self.width());
        for (row, after) in after.chunks_exact_mut(cols).enumerate() {
            for (layer, first) in self.layers.iter().zip(firsts) {
                for i in 0..width {
                    after[first + i] = stored(layer.k[row * width + i]);
                    after[first + width + i] = stored(layer.v[row * width + i]);
                }
            }
        }
        after
    }

    fn read(&self, step: &mut Step, rope: Option<RopeId>, out: Tensor) {
        for (layer, at) in (0..).zip(self.columns().1) {
            step.push(Op::KvRead { layer, rope, out, at: at as u32 });
        }
    }

    /// Appends all rows and reads them in the same step, keys turned before and back as asked.
    fn run(&self, backend: &mut dyn Backend, turned: Option<RopeId>, back: Option<RopeId>) -> Vec<f32> {
        backend.create_pool(self.pool).expect("a small pool");
        let width = self.width() as u32;
        let mut inputs = vec![(self.columns().0 as u32, self.before.clone())];
        for layer in &self.layers {
            inputs.extend([(width, layer.k.clone()), (width, layer.v.clone())]);
        }
        let output = single::run(backend, batch(&self.pool, &ROWS), &inputs, |step, t| {
            for (layer, kv) in (0..).zip(t[1..].chunks_exact(2)) {
                if let Some(table) = turned {
                    step.push(Op::Rope { x: kv[0], head_dim: self.pool.head_dim as u32, table });
                }
                step.push(Op::KvAppend { layer, k: kv[0], v: kv[1] });
            }
            self.read(step, back, t[0]);
            vec![t[0]]
        });
        output.expect("the backend appends and reads").probes.remove(0)
    }

    /// Reads some of the rows in a step of their own.
    fn run_later(&self, backend: &mut dyn Backend) -> Vec<f32> {
        let rows = LATER.map(|row| ROWS[row]);
        let inputs = [(self.columns().0 as u32, self.later(&self.before))];
        let output = single::run(backend, batch(&self.pool, &rows), &inputs, |step, t| {
            self.read(step, None, t[0]);
            t.to_vec()
        });
        output.expect("the backend reads").probes.remove(0)
    }

    /// Those rows of a wide tensor.
    fn later(&self, values: &[f32]) -> Vec<f32> {
        let cols = self.columns().0;
        LATER.iter().flat_map(|row| values[row * cols..][..cols].iter().copied()).collect()
    }

    /// Checks that keys are as they were to within `bound`, and everything else is to the bit.
    fn check(&self, label: &str, expected: &[f32], found: &[f32], bound: f64) {
        let (cols, firsts) = self.columns();
        let mut found = found.to_vec();
        for (i, (expected, found)) in expected.iter().zip(&mut found).enumerate() {
            if firsts.iter().any(|first| (*first..first + self.width()).contains(&(i % cols))) {
                let off = (f64::from(*expected) - f64::from(*found)).abs();
                assert!(off <= bound, "{label}: key {i} is {found}, not {expected}, by more than {bound:e}");
                *found = *expected;
            }
        }
        assert_bits(label, expected, &found);
    }
}

#[test]
fn what_was_appended_is_read_to_the_bit() {
    for (seed, pool) in (0..).zip(POOLS) {
        let case = Case::new(pool, seed);
        let after = case.after();
        for backend in &mut backends::reference_and_others() {
            let label = format!("{}, {pool:?}", label(&**backend));
            assert_bits(&label, &after, &case.run(&mut **backend, None, None));
            assert_bits(&label, &case.later(&after), &case.run_later(&mut **backend));
        }
    }
}

#[test]
fn keys_are_turned_back_by_their_position() {
    const EPSILON: f64 = f32::EPSILON as f64;
    for (pool, rotary_dim) in [(POOLS[3], 64), (POOLS[4], 24)] {
        let case = Case::new(pool, 9);
        let angles: Vec<f32> = Random::new(10).values(33 * rotary_dim / 2).iter().map(|v| v * 40.0).collect();
        let table = RopeTable {
            rotary_dim,
            positions: 33,
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
        };
        // What is stored is up to √2 large and off by ε/2, of which the turn back makes √2 times as much; the keys that
        // are compared are stored without a turn, off by ε/4 at most.
        let stored = match pool.element {
            PageElement::F16 => f64::from(f16::EPSILON.to_f32()),
            PageElement::F32 => 0.0,
        };
        let mut reference = Vec::new();
        for backend in &mut backends::reference_and_others() {
            let label = format!("{}, {pool:?}", label(&**backend));
            let rope = backend.create_rope(table.clone()).expect("a table");
            let back = case.run(&mut **backend, None, Some(rope));
            if reference.is_empty() {
                reference.clone_from(&back);
            }
            // Two products and a sum of values up to 1.
            case.check(&label, &reference, &back, 3.0 * EPSILON);
            // A turn rounds by √2 ε at most, which the turn back makes 2 ε and rounds by as much again; and the squares of a
            // stored cosine and sine add up to 1 within ε.
            let round_trip = case.run(&mut **backend, Some(rope), Some(rope));
            case.check(&label, &case.after(), &round_trip, 5.0 * EPSILON + stored);
        }
    }
}

/// Rows are padded with zeros where kernels read whole units of weights, and the columns that are read may be all of a
/// tensor, in memory where something else was.
#[test]
fn what_was_read_is_the_input_of_a_matmul() {
    let case = Case::new(POOLS[2], 11);
    let (cols, width) = (2 * case.width(), case.width() as u32);
    let w = matrix("w", Dtype::F16, 8, cols, &mut Random::new(12));
    let mut results = Vec::new();
    for mut backend in backends::reference_and_others() {
        let id = backend.create_matrix(w.clone()).expect("a matrix");
        let projection = Projection { name: "p".into(), matrix: id, bias: None };
        let p = backend.create_projection(projection).expect("it fits");
        backend.create_pool(case.pool).expect("a small pool");
        let [Layer { k, v }, _] = &case.layers;
        let nowhere =
            (cols.next_multiple_of(8) as u32, vec![f32::NAN; ROWS.len() * cols.next_multiple_of(8)]);
        let inputs = [(width, k.clone()), (width, v.clone()), nowhere];
        let output = single::run(&mut *backend, batch(&case.pool, &ROWS), &inputs, |step, t| {
            step.push(Op::KvAppend { layer: 0, k: t[0], v: t[1] });
            let [out, y] = [cols as u32, 8].map(|cols| step.tensor(RowSet::All, cols));
            step.push(Op::KvRead { layer: 0, rope: None, out, at: 0 });
            step.push(Op::LoraMatmul { x: out, projections: vec![(p, y)] });
            vec![y]
        });
        results.push(output.expect("it runs").probes.remove(0));
    }
    for found in &results[1..] {
        // Sums of twelve products of values up to 1.
        let bound = 12.0 * 12.0 * f64::from(f32::EPSILON);
        assert!(error(&results[0], found).max_abs <= bound);
    }
}
