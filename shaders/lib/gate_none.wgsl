// A result is stored as it is.
const GATE_ENTRIES: u32 = 1u;

fn store_result(dot: f32, unused: f32, entry: u32, row: u32, out: u32) {
    let safe = min(out, tables[entry + ENTRY_OUTS] - 1u);
    store(finished(dot, entry, row, safe), entry, row, out);
}
