// The bits of the binary16 nearest to a binary32, ties to even. By integers: WGSL leaves the rounding of
// pack2x16float to the device, and pages are promised to be rounded one way everywhere.
fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u;  // NaN
    }
    if (magnitude >= 0x477ff000u) {
        return sign | 0x7c00u;  // from 65520 on: infinity
    }
    if (magnitude >= 0x38800000u) {
        // Normal: drop 13 bits of the fraction and move the exponent's bias from 127 to 15.
        let odd = (magnitude >> 13u) & 1u;
        return sign | ((magnitude + 0xfffu + odd - 0x38000000u) >> 13u);
    }
    // Subnormal: steps of 2⁻²⁴. Below exponent 102 the value is less than half a step.
    let exponent = magnitude >> 23u;
    if (exponent < 102u) {
        return sign;
    }
    let shift = 126u - exponent;
    let fraction = (magnitude & 0x7fffffu) | 0x800000u;
    let kept = fraction >> shift;
    let rest = fraction & ((1u << shift) - 1u);
    let middle = 1u << (shift - 1u);
    return sign | (kept + select(0u, 1u, rest > middle || (rest == middle && (kept & 1u) == 1u)));
}
