// A gate and its up are computed side by side, and their gated product is all that is stored.
#include "lib/activation_${ACTIVATION}.wgsl"

const GATE_ENTRIES: u32 = 2u;

fn store_result(gate_dot: f32, up_dot: f32, entry: u32, row: u32, out: u32) {
    let safe = min(out, tables[entry + ENTRY_OUTS] - 1u);
    let gate = finished(gate_dot, entry, row, safe);
    let up = finished(up_dot, entry + ENTRY_WORDS, row, safe);
    store(activation(gate) * up, entry, row, out);
}
