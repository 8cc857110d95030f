//! The files of `shaders/`, embedded. Nothing else: they are composed by `shader`.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../shaders/", $name)))),*]
    };
}

/// Every file, by its path below `shaders/`.
pub(crate) const FILES: &[(&str, &str)] = files![
    "kv_append.wgsl",
    "lora_matmul_decode.wgsl",
    "lora_matmul_prefill.wgsl",
    "lora_matmul_shrink.wgsl",
    "paged_attention_decode.wgsl",
    "paged_attention_merge.wgsl",
    "paged_attention_prefill.wgsl",
    "lib/attention_block.wgsl",
    "lib/attention_store.wgsl",
    "lib/f16_bits.wgsl",
    "lib/f16_pair.wgsl",
    "lib/fma_quad.wgsl",
    "lib/grid.wgsl",
    "lib/lanes_1.wgsl",
    "lib/lanes_2.wgsl",
    "lib/lanes_4.wgsl",
    "lib/lanes_sum.wgsl",
    "lib/lora_expand.wgsl",
    "lib/lora_matmul.wgsl",
    "lib/lora_site.wgsl",
    "lib/page.wgsl",
    "lib/page_encode_f16.wgsl",
    "lib/page_encode_f32.wgsl",
    "lib/page_f16.wgsl",
    "lib/page_f16_narrow.wgsl",
    "lib/page_f32.wgsl",
    "lib/page_f32_narrow.wgsl",
    "lib/rows_dot.wgsl",
    "lib/softmax_state.wgsl",
    "lib/weight_bf16.wgsl",
    "lib/weight_f16.wgsl",
    "lib/weight_f32.wgsl",
    "lib/weight_float.wgsl",
    "lib/weight_q4_0.wgsl",
    "lib/weight_q8_0.wgsl",
    "lib/weight_quant.wgsl",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn no_file_is_left_out() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shaders");
        for folder in ["", "lib"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|e| e == "wgsl") {
                    let name = Path::new(folder).join(path.file_name().unwrap());
                    assert!(FILES.iter().any(|(n, _)| Path::new(n) == name), "{}", name.display());
                }
            }
        }
    }
}
