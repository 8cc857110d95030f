//! What an adapter is: its targets, read in full and checked against its base.

use std::collections::HashSet;
use std::path::Path;
use std::time::SystemTime;

use interleaf_runtime::{DigestOrigin, Model, PeftAdapter, PeftSite, Source, Store};
use serde::Serialize;

use super::groups::{group, ranges, split_layer};
use crate::table::{self, Align, bytes, count};
use crate::{CliError, load};

/// The model that an adapter was checked against.
#[derive(Debug, Serialize)]
pub struct Base {
    folder: String,
    /// Who named it: `--model`, or `base_model_name_or_path`.
    named_by: &'static str,
    architecture: &'static str,
    layers: usize,
    /// Whether every weight was read and found finite.
    checked: bool,
}

/// An adapter.
#[derive(Debug, Serialize)]
pub struct Report {
    folder: String,
    base: Base,
    rank: usize,
    alpha: f64,
    rslora: bool,
    /// As adapter_config.json has it; `targets` are what the tensors adapt.
    target_modules: String,
    /// The invocation of an activated LoRA.
    alora_invocation_tokens: Option<Vec<u32>>,
    parameters: u64,
    /// Of the factors as stored.
    bytes: u64,
    bytes_on_disk: u64,
    digest: String,
    /// Whether an earlier run had computed it.
    digest_cached: bool,
    targets: Vec<Target>,
}

/// One adapted projection.
#[derive(Debug, Serialize)]
struct Target {
    module: String,
    layer: Option<usize>,
    rank: usize,
    scale: f32,
    dtype_a: &'static str,
    dtype_b: &'static str,
    outputs: usize,
    inputs: usize,
}

impl Base {
    /// The base in `folder`, opened as `model`.
    pub fn new(folder: &Path, named_by: &'static str, model: &Model, checked: bool) -> Self {
        let (architecture, layers) = (model.architecture(), model.config().layers);
        Self { folder: folder.display().to_string(), named_by, architecture, layers, checked }
    }
}

impl Report {
    /// Opens an adapter on its base and describes it.
    pub fn read(folder: &Path, base: Base, model: &Model, store: &Store) -> Result<Self, CliError> {
        let (opening, source) = (SystemTime::now(), Source::dir(folder));
        let adapter = PeftAdapter::open(&load::model_name(Some(folder)), &source, model)?;
        let (digest, origin) = store.adapter_digest(&adapter, &source, model, opening);
        let mut bytes_on_disk = 0;
        for file in PeftAdapter::FILES {
            bytes_on_disk += source.read(file)?.len() as u64;
        }
        let (parameters, bytes) = size(&adapter.sites);
        Ok(Self {
            folder: folder.display().to_string(),
            base,
            rank: adapter.rank,
            alpha: adapter.alpha,
            rslora: adapter.rslora,
            target_modules: adapter.targets,
            alora_invocation_tokens: adapter.invocation,
            parameters,
            bytes,
            bytes_on_disk,
            digest: digest.to_string(),
            digest_cached: origin == DigestOrigin::Cached,
            targets: adapter.sites.iter().map(Target::from).collect(),
        })
    }

    /// The same for a person.
    pub fn lines(&self) -> Vec<String> {
        let base = &self.base;
        let named =
            if base.named_by == "--model" { String::new() } else { format!(", by {}", base.named_by) };
        let finite = if base.checked { "; its every weight is finite" } else { "" };
        let cached = if self.digest_cached { " (kept from an earlier run)" } else { "" };
        let stabilised = if self.rslora { "alpha/√r (rslora)" } else { "alpha/r" };
        let acts = match &self.alora_invocation_tokens {
            None => "on every token".into(),
            Some(tokens) => {
                let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
                format!("from the last {} in a prompt on (activated LoRA)", tokens.join(" "))
            }
        };
        let facts = [
            ("adapter", self.folder.clone()),
            ("fits base", format!("{} ({}{named}){finite}", base.folder, base.architecture)),
            ("config", format!("r {}, alpha {}, scale {stabilised}", self.rank, self.alpha)),
            ("target_modules", self.target_modules.clone()),
            ("acts", acts),
            ("parameters", format!("{} ({})", count(self.parameters), bytes(self.bytes))),
            ("on disk", bytes(self.bytes_on_disk)),
            ("digest", format!("{}{cached}", self.digest)),
        ];
        let mut lines = table::facts(&facts);
        lines.push(String::new());
        lines.extend(self.target_table());
        lines
    }

    /// Targets that differ in nothing but their layer are one row.
    fn target_table(&self) -> Vec<String> {
        let columns = [
            ("target", Align::Left),
            ("layers", Align::Left),
            ("rank", Align::Right),
            ("scale", Align::Right),
            ("dtype", Align::Left),
            ("outputs × inputs", Align::Right),
        ];
        let keyed = self.targets.iter().map(|t| {
            let kind = split_layer(&t.module).map_or(&*t.module, |(_, _, rest)| rest);
            ((kind, t.rank, t.scale.to_bits(), t.dtype_a, t.dtype_b, t.outputs, t.inputs), t.layer)
        });
        let rows: Vec<Vec<String>> = (group(keyed).into_iter())
            .map(|((kind, rank, scale, a, b, outputs, inputs), layers)| {
                vec![
                    kind.into(),
                    ranges(layers.into_iter().flatten()),
                    rank.to_string(),
                    f32::from_bits(scale).to_string(),
                    if a == b { a.into() } else { format!("A {a}, B {b}") },
                    format!("{outputs} × {inputs}"),
                ]
            })
            .collect();
        table::render(&columns, &rows)
    }
}

impl From<&PeftSite> for Target {
    fn from(site: &PeftSite) -> Self {
        let [dtype_a, dtype_b] = site.dtypes.map(|dtype| dtype.name());
        Self {
            module: site.module.clone(),
            layer: split_layer(&site.module).map(|(_, layer, _)| layer),
            rank: site.rank,
            scale: site.scale,
            dtype_a,
            dtype_b,
            outputs: site.b.rows(),
            inputs: site.a.cols(),
        }
    }
}

/// Parameters of all sites, and their bytes as stored. Of a module that is several projections, A is one.
fn size(sites: &[PeftSite]) -> (u64, u64) {
    let mut seen = HashSet::new();
    let (mut parameters, mut bytes) = (0, 0);
    for site in sites {
        let module = site.module.split('#').next();
        let a = if seen.insert(module) { &[(&site.a, site.dtypes[0])][..] } else { &[] };
        for (matrix, dtype) in a.iter().copied().chain([(&site.b, site.dtypes[1])]) {
            let elements = (matrix.rows() * matrix.cols()) as u64;
            parameters += elements;
            bytes += elements * dtype.block_bytes() as u64;
        }
    }
    (parameters, bytes)
}
