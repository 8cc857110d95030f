// Two queries side by side in a vector: what is read of a page serves all of them.
alias abreast = vec2<f32>;
alias abreast_u = vec2<u32>;
alias abreast_b = vec2<bool>;

fn of_query(value: abreast, i: u32) -> f32 {
    return value[i];
}
