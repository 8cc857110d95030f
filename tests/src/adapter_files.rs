//! Generated adapters as PEFT folders, for what registers many from disk.

use std::path::{Path, PathBuf};

use interleaf_model::{Model, PeftAdapter, PeftSite};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Writes an adapter of drawn factors for some projections of a model, such as `q_proj`, into a folder of its name. Returns the folder.
///
/// # Errors
/// If it cannot be made for the model, or written.
pub fn write(
    folder: &Path,
    name: &str,
    targets: &[&str],
    (rank, seed): (usize, u64),
    model: &Model,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let adapter = PeftAdapter::generated(name, rank, seed, model)?;
    let is_target = |site: &&PeftSite| targets.iter().any(|target| site.module.ends_with(target));
    let mut tensors = Vec::new();
    for site in adapter.sites.iter().filter(is_target) {
        for (half, matrix) in [("A", &site.a), ("B", &site.b)] {
            let bytes = matrix.rows() * matrix.cols();
            let dtype = if matrix.data().len() == 2 * bytes { Dtype::F16 } else { Dtype::F32 };
            let view = TensorView::new(dtype, vec![matrix.rows(), matrix.cols()], matrix.data())?;
            tensors.push((format!("base_model.model.{}.lora_{half}.weight", site.module), view));
        }
    }
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder)?;
    safetensors::serialize_to_file(tensors, None, &folder.join("adapter_model.safetensors"))?;
    let config = serde_json::json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": adapter.alpha, "target_modules": targets,
        "bias": "none", "fan_in_fan_out": false, "use_rslora": false,
    });
    std::fs::write(folder.join("adapter_config.json"), serde_json::to_vec(&config)?)?;
    Ok(folder)
}
