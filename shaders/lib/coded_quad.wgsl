// A quad of a page of keys or values in any codec, by itself: for kernels that go over pages element by element.
#include "lib/coefficients.wgsl"
#include "lib/keys_coded.wgsl"
#include "lib/values_coded.wgsl"

// A word of a token beside those of the others is how codes of keys lie.
fn coded_quad(base: Part, over: Part, spot: Spot, quad: u32) -> vec4<f32> {
    var base_cache = nothing_loaded();
    var over_cache = nothing_loaded();
    var value: vec4<f32>;
    if (is_set(base, 4u)) {
        let steps = base_key_steps(base, &base_cache, spot, quad);
        value = base_keys(base, &base_cache, steps, spot, quad).quad_0;
    } else {
        value = base_value(base, &base_cache, base_value_step(base, spot, quad), spot, quad);
    }
    if (is_set(over, 4u) || kind_of(over) == LOW_RANK) {
        let steps = over_key_steps(over, &over_cache, spot, quad);
        return over_keys(over, &over_cache, steps, spot, quad, Keys(value)).quad_0;
    }
    return over_value(over, &over_cache, over_value_step(over, spot, quad), spot, quad, value);
}
