// One query at a time.
alias abreast = f32;
alias abreast_u = u32;
alias abreast_b = bool;

fn of_query(value: abreast, i: u32) -> f32 {
    return value;
}
