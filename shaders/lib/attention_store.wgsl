// Stores attention's result, and keeps the columns that pad a row of it at zero.
fn store(row: u32, head: u32, element: u32, value: f32) {
    if (element < ${HEAD_DIM}u) {
        out[params.out_at + row * params.out_stride + head * ${HEAD_DIM}u + element] = value;
    }
}

fn store_padding(row: u32, head: u32, thread: u32) {
    let column = params.heads * ${HEAD_DIM}u + thread;
    if (head == 0u && column < params.out_columns) {
        out[params.out_at + row * params.out_stride + column] = 0.0;
    }
}
