// The parameters of a norm of whole rows.
struct Norm {
    rows: u32,           // that are stored
    rows_at: u32,        // the rows of x behind them, in tables
    cols: u32,           // without the zeros behind them
    weight_at: u32,      // in vectors, in vec4<f32>
    normed_at: u32,      // of row 0, in vec4<f32>
    normed_stride: u32,  // vec4<f32> from a row to the next
    add_at: u32,
    add_stride: u32,
    sum_at: u32,
    sum_stride: u32,
    after_at: u32,       // the weights of the residual's own norm, in vectors
    epsilon: f32,
    after_epsilon: f32,
    padding_0: u32,      // a struct within uniform parameters is whole vec4
    padding_1: u32,
    padding_2: u32,
}
