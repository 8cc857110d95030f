// One query at a time.
alias lanes = f32;
alias lanes_u = u32;
alias lanes_b = bool;

fn lane(value: lanes, i: u32) -> f32 {
    return value;
}
