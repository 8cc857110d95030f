// Two queries side by side in a vector: what is read of a page serves all of them.
alias lanes = vec2<f32>;
alias lanes_u = vec2<u32>;
alias lanes_b = vec2<bool>;

fn lane(value: lanes, i: u32) -> f32 {
    return value[i];
}
