// Four queries side by side in a vector: what is read of a page serves all of them.
alias lanes = vec4<f32>;
alias lanes_u = vec4<u32>;
alias lanes_b = vec4<bool>;

fn lane(value: lanes, i: u32) -> f32 {
    return value[i];
}
