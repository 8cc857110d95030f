//! The files of `shaders/`, embedded. Nothing else: they are composed by `shader`.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../shaders/", $name)))),*]
    };
}

/// Every file, by its path below `shaders/`.
pub(crate) const FILES: &[(&str, &str)] = files![
    "add.wgsl",
    "attention_mass_heads.wgsl",
    "attention_mass_rows.wgsl",
    "embed.wgsl",
    "kv_append.wgsl",
    "kv_append_roped.wgsl",
    "kv_read.wgsl",
    "lora_matmul_decode.wgsl",
    "lora_matmul_prefill.wgsl",
    "lora_matmul_shrink.wgsl",
    "page_codec_compare.wgsl",
    "page_codec_decode.wgsl",
    "page_codec_encode.wgsl",
    "page_codec_measure.wgsl",
    "paged_attention_decode.wgsl",
    "paged_attention_merge.wgsl",
    "paged_attention_prefill.wgsl",
    "quantise.wgsl",
    "rms_norm.wgsl",
    "rms_norm_heads.wgsl",
    "roofline_count.wgsl",
    "roofline_fma.wgsl",
    "roofline_read.wgsl",
    "rope.wgsl",
    "sample.wgsl",
    "softcap.wgsl",
    "swiglu.wgsl",
    "lib/abreast_1.wgsl",
    "lib/abreast_2.wgsl",
    "lib/abreast_4.wgsl",
    "lib/activation_gelu_tanh.wgsl",
    "lib/activation_silu.wgsl",
    "lib/attention_block.wgsl",
    "lib/attention_mass.wgsl",
    "lib/attention_store.wgsl",
    "lib/bound.wgsl",
    "lib/coded_quad.wgsl",
    "lib/coefficient_sums.wgsl",
    "lib/coefficients.wgsl",
    "lib/dot_codes.wgsl",
    "lib/f16_bits.wgsl",
    "lib/fma_quad.wgsl",
    "lib/gate_none.wgsl",
    "lib/gate_paired.wgsl",
    "lib/grid.wgsl",
    "lib/half_integer.wgsl",
    "lib/half_native.wgsl",
    "lib/keys_coded.wgsl",
    "lib/keys_one.wgsl",
    "lib/lanes_memory.wgsl",
    "lib/lanes_subgroup.wgsl",
    "lib/leave_rows.wgsl",
    "lib/lora_expand.wgsl",
    "lib/lora_matmul.wgsl",
    "lib/lora_site.wgsl",
    "lib/norm.wgsl",
    "lib/norm_params.wgsl",
    "lib/page.wgsl",
    "lib/page_coded.wgsl",
    "lib/page_coded_f16.wgsl",
    "lib/page_coded_f32.wgsl",
    "lib/page_codec.wgsl",
    "lib/page_constants.wgsl",
    "lib/page_element_f16.wgsl",
    "lib/page_element_f32.wgsl",
    "lib/page_encode_f16.wgsl",
    "lib/page_encode_f32.wgsl",
    "lib/page_f16.wgsl",
    "lib/page_f16_narrow.wgsl",
    "lib/page_f32.wgsl",
    "lib/page_f32_narrow.wgsl",
    "lib/page_form.wgsl",
    "lib/page_scales_f16.wgsl",
    "lib/page_scales_f32.wgsl",
    "lib/pages_apart.wgsl",
    "lib/pages_apart_coded.wgsl",
    "lib/pages_one.wgsl",
    "lib/pages_one_coded.wgsl",
    "lib/pcg4d.wgsl",
    "lib/residual_none.wgsl",
    "lib/residual_normed.wgsl",
    "lib/residual_plain.wgsl",
    "lib/rotate.wgsl",
    "lib/quantise.wgsl",
    "lib/rows_dot_float.wgsl",
    "lib/rows_dot_integer.wgsl",
    "lib/rows_dots_float.wgsl",
    "lib/rows_dots_integer.wgsl",
    "lib/shrink_normed.wgsl",
    "lib/shrink_plain.wgsl",
    "lib/softcap_scores.wgsl",
    "lib/softmax_state.wgsl",
    "lib/stage_f16.wgsl",
    "lib/stage_f32.wgsl",
    "lib/tanh.wgsl",
    "lib/target_own.wgsl",
    "lib/target_x.wgsl",
    "lib/tile_dots_float.wgsl",
    "lib/tile_dots_integer.wgsl",
    "lib/tile_dots_matrix.wgsl",
    "lib/tile_loads.wgsl",
    "lib/tile_sums.wgsl",
    "lib/values_coded.wgsl",
    "lib/weight_bf16.wgsl",
    "lib/weight_f16.wgsl",
    "lib/weight_f32.wgsl",
    "lib/weight_float.wgsl",
    "lib/weight_q4_0.wgsl",
    "lib/weight_q8_0.wgsl",
    "lib/weight_quant.wgsl",
    "lib/words_abreast_1.wgsl",
    "lib/words_abreast_4.wgsl",
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
