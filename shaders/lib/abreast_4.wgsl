// Four queries side by side in a vector: what is read of a page serves all of them.
alias abreast = vec4<f32>;
alias abreast_u = vec4<u32>;
alias abreast_b = vec4<bool>;

fn of_query(value: abreast, i: u32) -> f32 {
    return value[i];
}
