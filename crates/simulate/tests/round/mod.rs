//! A machine of round numbers, whose times can be computed by hand.

use interleaf_simulate::Calibration;

/// One layer and 1 KiB for a token, so that a chunk has 16 KiB: prefilled at 0.1 s for a token, a step
/// taking 1 s and 0.5 s more for each row, read at 2⁻¹⁵ s for a byte,
/// and written at no cost.
pub fn machine() -> Calibration {
    let text = r#"
        machine = "round"
        source = "for tests"
        model = { name = "m", layers = 1, hidden = 256, heads = 1, kv_heads = 1, head_dim = 512, intermediate = 1, kv_bits = 8, weight_bytes = 1 }
        prefill = { fixed = 0, per_token = 0.1, per_token_and_1k_context = 0 }
        decode = { fixed = 1, per_row = 0.5 }
        read = { fixed = 0.25, per_byte = 0.000030517578125 }
        write = { fixed = 0, per_byte = 0 }
        adapter_load = { fixed = 2, per_byte = 0.0009765625 }
    "#;
    Calibration::parse("round.toml", text).unwrap()
}
