//! Cases of `lora_matmul`, run on any backend.

use interleaf_contract::{
    Adapter, Backend, BackendError, Batch, Dtype, LoraSite, Matrix, Op, Output, PageElement, PageTable,
    PoolGeometry, Projection, Row, RowKind, RowSet, Sequence, Step, VectorId,
};

use crate::data::{Random, magnitudes, matrix};

/// An adapter's site on each projection.
#[derive(Debug, Clone)]
pub struct AdapterSpec {
    /// Rank on each projection; `None` where it has no site.
    pub ranks: Vec<Option<usize>>,
    pub dtype: Dtype,
    pub scale: f32,
}

/// Projections that share x, and the rows that go through them.
#[derive(Debug, Clone)]
pub struct LoraCase {
    pub inputs: usize,
    /// Outputs of each projection.
    pub outputs: Vec<usize>,
    pub dtype: Dtype,
    pub bias: bool,
    pub adapters: Vec<AdapterSpec>,
    /// Kind and adapter index of each row.
    pub rows: Vec<(RowKind, i32)>,
    pub seed: u64,
}

/// The numbers of a case.
#[derive(Debug, Clone)]
pub struct LoraData {
    x: Vec<f32>,
    inputs: usize,
    weights: Vec<Matrix>,
    biases: Vec<Option<Vec<f32>>>,
    /// Per adapter and projection: A, B and scale.
    sites: Vec<Vec<Option<(Matrix, Matrix, f32)>>>,
    rows: Vec<(RowKind, i32)>,
}

impl LoraCase {
    pub fn data(&self) -> LoraData {
        let mut random = Random::new(self.seed);
        let x = random.values(self.rows.len() * self.inputs);
        let weights: Vec<Matrix> =
            self.outputs.iter().map(|&n| matrix("w", self.dtype, n, self.inputs, &mut random)).collect();
        let biases = self.outputs.iter().map(|&n| self.bias.then(|| random.values(n))).collect();
        let sites = self
            .adapters
            .iter()
            .map(|a| {
                let site = |(&n, rank): (&usize, &Option<usize>)| {
                    let rank = (*rank)?;
                    let down = matrix("lora_A", a.dtype, rank, self.inputs, &mut random);
                    Some((down, matrix("lora_B", a.dtype, n, rank, &mut random), a.scale))
                };
                self.outputs.iter().zip(&a.ranks).map(site).collect()
            })
            .collect();
        LoraData { x, inputs: self.inputs, weights, biases, sites, rows: self.rows.clone() }
    }

    pub fn max_rank(&self) -> usize {
        self.adapters.iter().flat_map(|a| &a.ranks).filter_map(|r| *r).max().unwrap_or(0)
    }
}

impl LoraData {
    /// All magnitudes, in f32: running it gives each result's error scale.
    pub fn magnitudes(&self) -> Self {
        let abs = |v: &Vec<f32>| v.iter().map(|v| v.abs()).collect::<Vec<f32>>();
        Self {
            x: abs(&self.x),
            inputs: self.inputs,
            weights: self.weights.iter().map(magnitudes).collect(),
            biases: self.biases.iter().map(|b| b.as_ref().map(abs)).collect(),
            sites: self
                .sites
                .iter()
                .map(|sites| {
                    let site = |s: &Option<(Matrix, Matrix, f32)>| {
                        s.as_ref().map(|(a, b, scale)| (magnitudes(a), magnitudes(b), scale.abs()))
                    };
                    sites.iter().map(site).collect()
                })
                .collect(),
            rows: self.rows.clone(),
        }
    }

    /// Only some rows of the batch.
    pub fn select(&self, rows: &[usize]) -> Self {
        let x = rows.iter().flat_map(|&r| self.x[r * self.inputs..(r + 1) * self.inputs].iter().copied());
        Self { x: x.collect(), rows: rows.iter().map(|&r| self.rows[r]).collect(), ..self.clone() }
    }

    /// Runs the case; one result per projection, rows × outputs.
    ///
    /// # Errors
    /// If the backend refuses it.
    pub fn run(&self, backend: &mut dyn Backend) -> Result<Vec<Vec<f32>>, BackendError> {
        let mut projections = Vec::new();
        for (w, bias) in self.weights.iter().zip(&self.biases) {
            let bias: Option<VectorId> =
                bias.as_ref().map(|b| backend.create_vector("bias", b)).transpose()?;
            let matrix = backend.create_matrix(w.clone())?;
            projections.push(backend.create_projection(Projection { name: "p".into(), matrix, bias })?);
        }
        let mut batch = Batch::default();
        for sites in &self.sites {
            let sites = sites
                .iter()
                .zip(&projections)
                .filter_map(|(site, &projection)| {
                    let (a, b, scale) = site.clone()?;
                    Some(LoraSite { projection, scale, a, b })
                })
                .collect();
            batch.adapters.push(backend.create_adapter(Adapter { name: "a".into(), sites })?);
        }
        batch.rows = rows(&self.rows);
        batch.sequences = self.rows.iter().map(|_| one_page()).collect();
        let adapters = batch.adapters.clone();

        let mut step = Step::new(batch)?;
        let cols = |n: usize| u32::try_from(n).expect("a small shape");
        let x = step.tensor(RowSet::All, cols(self.inputs));
        step.push(Op::Load { out: x, data: self.x.clone().into() });
        let outputs: Vec<_> = (self.weights.iter().zip(&projections))
            .map(|(w, &p)| (p, step.tensor(RowSet::All, cols(w.rows()))))
            .collect();
        step.push(Op::LoraMatmul { x, projections: outputs.clone() });
        for (_, y) in outputs {
            step.probe(y);
        }
        let ticket = backend.submit(step)?;
        let output = backend.wait(ticket)?;
        for adapter in adapters {
            backend.drop_adapter(adapter)?;
        }
        Ok(output.probes)
    }
}

/// Rows that are each a sequence of their own, at position 0.
pub fn rows(kinds: &[(RowKind, i32)]) -> Vec<Row> {
    let row = |(i, &(kind, adapter)): (usize, &(RowKind, i32))| Row {
        token: 0,
        position: 0,
        sequence: u32::try_from(i).expect("a small batch"),
        adapter,
        kind,
    };
    kinds.iter().enumerate().map(row).collect()
}

/// A sequence with one page.
pub fn one_page() -> Sequence {
    unread_pages(1)
}

/// A sequence whose pages no operation reads, so that there needs to be no pool.
pub fn unread_pages(chunks: u32) -> Sequence {
    let (slots, element) = (chunks as usize, PageElement::F32);
    let pool = PoolGeometry { layers: 1, kv_heads: 1, head_dim: 1, slots, element };
    Sequence { pages: PageTable::uniform(&pool, 0..chunks) }
}

/// Outputs for every row.
pub fn every_row(rows: usize) -> Vec<Output> {
    (0..rows).map(|i| Output { row: u32::try_from(i).expect("a small batch"), sampler: None }).collect()
}
