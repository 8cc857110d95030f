// sample: a token from each row of logits, by the rules and in the order of the contract's Sampler. A workgroup
// takes one row.
//
// Nothing is sorted. Top-k, top-p and the draw each ask for the shortest run of most likely tokens that reaches
// something, a number of tokens or a share of their weights; such a run is a key, of which so many of the lowest
// ids belong to it, and everything above. The key is found digit by digit, from the sums of the weights under
// each value of the next digit.
struct Params {
    outputs: u32,
    records_at: u32,   // one for each, in tables
    logits_at: u32,    // of row 0
    stride: u32,       // f32 from a row of logits to the next
    vocabulary: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<f32>;  // (rows, stride)
@group(0) @binding(2) var<storage, read> tables: array<u32>;        // records, edits, biases
@group(0) @binding(3) var<storage, read_write> saved: array<f32>;   // (edit): logits as they were
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;  // (output)

#include "lib/grid.wgsl"
#include "lib/pcg4d.wgsl"

// A record of an output.
const ROW: u32 = 0u;
const TEMPERATURE: u32 = 1u;     // f32 bits, like the next ones; 0 is greedy
const TOP_P: u32 = 2u;
const MIN_P: u32 = 3u;
const PENALTY: u32 = 4u;
const TOP_K: u32 = 5u;           // 0: all
const SEED: u32 = 6u;            // four words: the seed, the sequence, the step
const EDITS_AT: u32 = 10u;       // in tables
const EDITS: u32 = 11u;          // tokens whose logit is changed
const SAVED_AT: u32 = 12u;       // in saved
const RECORD_WORDS: u32 = 13u;

// An edit of a token's logit.
const EDIT_TOKEN: u32 = 0u;
const EDIT_BIASES_AT: u32 = 1u;  // in tables
const EDIT_BIASES: u32 = 2u;     // that are added one after another
const EDIT_PENALTY: u32 = 3u;    // 1: the penalty applies
const EDIT_WORDS: u32 = 4u;

const NO_TOKEN: u32 = 0xffffffffu;

// What a run of most likely tokens must reach.
const BY_COUNT: u32 = 0u;   // a number of tokens
const BY_SHARE: u32 = 1u;   // a share of the weight of all
const BY_DRAW: u32 = 2u;    // more than a share

// The most likely tokens: those whose key is above `key`, and the first `ties` whose key is it.
struct Run {
    key: u32,
    ties: f32,
}

struct Weighing {
    largest: f32,
    temperature: f32,
    min_p: f32,
}

var<workgroup> shares: array<vec4<f32>, ${WORKGROUP}u>;
var<workgroup> shares_of: array<vec4<f32>, ${ROOT}u>;
var<workgroup> keys: array<u32, ${WORKGROUP}u>;
var<workgroup> keys_of: array<u32, ${ROOT}u>;
var<workgroup> found: u32;

const_assert ${ROOT}u * ${ROOT}u == ${WORKGROUP}u;

// The key of the largest number: a draw counts +∞ as it.
const LARGEST_KEY: u32 = 0xff7fffffu;

// Ascends with the logit; 0 for what is never chosen: NaN and −∞. By integers, because WGSL's compilers may
// assume that there is neither.
fn key_of(logit: f32) -> u32 {
    let bits = bitcast<u32>(logit);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u || bits == 0xff800000u) {
        return 0u;
    }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

// exp((logit − largest) / temperature), 0 below e⁻⁸⁰: nothing of it is ever drawn. Halves are subtracted: the
// difference of two logits may be beyond binary32.
fn weight_of(key: u32, by: Weighing) -> f32 {
    let logit = logit_of(key);
    if (logit == by.largest) {
        return 1.0;
    }
    let half_down = logit * 0.5 - by.largest * 0.5;
    if (half_down <= -40.0 * by.temperature) {
        return 0.0;
    }
    let exponent = 2.0 * (half_down / by.temperature);
    // Not every device's exp is 1 for what rounds to 1.
    let weight = select(exp(exponent), 1.0, exponent > -0x1p-25f);
    return select(0.0, weight, weight >= by.min_p);
}

// The sum over all threads, in their order.
fn sum_of(thread: u32, own: vec4<f32>) -> vec4<f32> {
    shares[thread] = own;
    workgroupBarrier();
    if (thread < ${ROOT}u) {
        var sum = vec4<f32>();
        for (var i = 0u; i < ${ROOT}u; i++) {
            sum += shares[thread * ${ROOT}u + i];
        }
        shares_of[thread] = sum;
    }
    workgroupBarrier();
    var sum = vec4<f32>();
    for (var i = 0u; i < ${ROOT}u; i++) {
        sum += shares_of[i];
    }
    workgroupBarrier();
    return sum;
}

fn largest_key(thread: u32, row_at: u32) -> u32 {
    var own = 0u;
    for (var i = thread; i < params.vocabulary; i += ${WORKGROUP}u) {
        own = max(own, key_of(logits[row_at + i]));
    }
    keys[thread] = own;
    workgroupBarrier();
    if (thread < ${ROOT}u) {
        for (var i = 0u; i < ${ROOT}u; i++) {
            own = max(own, keys[thread * ${ROOT}u + i]);
        }
        keys_of[thread] = own;
    }
    workgroupBarrier();
    for (var i = 0u; i < ${ROOT}u; i++) {
        own = max(own, keys_of[i]);
    }
    workgroupBarrier();
    return own;
}

// The shortest run within `within` that reaches `share` of its weight, or that number of tokens; all of
// `within` where rounding lets nothing reach it.
fn shortest_run(thread: u32, row_at: u32, within: Run, reach: u32, share: f32, by: Weighing) -> Run {
    var prefix = 0u;
    var above = 0.0;
    var sought = share;
    var ties = 0.0;
    for (var level = 0u; level < 8u; level++) {
        let shift = 28u - 4u * level;
#repeat b 4
        var bins_${b} = vec4<f32>();
#end
        for (var i = thread; i <= params.vocabulary; i += ${WORKGROUP}u) {
            // Behind the last token stand the ties of the run itself, counted together.
            var key = within.key;
            var many = within.ties;
            if (i < params.vocabulary) {
                key = min(key_of(logits[row_at + i]), LARGEST_KEY);
                many = select(0.0, 1.0, key > within.key);
            }
            // By two shifts: one by 32 is not defined.
            let matches = key > 0u && ((key >> shift) >> 4u) == ((prefix >> shift) >> 4u);
            if (matches && many > 0.0) {
                let weight = weight_of(key, by);
                var add = many * weight;
                if (reach == BY_COUNT) {
                    add = many;
                }
                let digit = vec4<u32>((key >> shift) & 15u);
#repeat b 4
                bins_${b} += select(vec4<f32>(), vec4<f32>(add), digit == vec4<u32>(0u, 1u, 2u, 3u) + ${b}u * 4u);
#end
            }
        }
#repeat b 4
        let all_${b} = sum_of(thread, bins_${b});
#end
        if (level == 0u && reach != BY_COUNT) {
            var total = 0.0;
#repeat b 4
#repeat e 4
            total += all_${b}[${e}];
#end
#end
            sought = share * total;
        }
        // From the largest digit down. Where rounding lets none reach it, the last that holds anything is taken.
        if (thread == 0u) {
#repeat b 4
            shares_of[${b}] = all_${b};
#end
        }
        workgroupBarrier();
        var digit = 0u;
        var before = above;
        var running = above;
        for (var d = 16u; d > 0u; d--) {
            let bin = shares_of[(d - 1u) / 4u][(d - 1u) % 4u];
            if (bin > 0.0) {
                digit = d - 1u;
                before = running;
                running += bin;
                ties = bin;
                if (reaches(running, sought, reach)) {
                    break;
                }
            }
        }
        workgroupBarrier();
        prefix |= digit << shift;
        above = before;
    }
    // All that is left has one key, hence one weight.
    var unit = 1.0;
    if (reach != BY_COUNT) {
        unit = weight_of(prefix, by);
    }
    let all = max(round(ties / unit), 1.0);
    var needed = ceil((sought - above) / unit);
    if (reach == BY_DRAW) {
        needed = floor((sought - above) / unit) + 1.0;
    }
    return Run(prefix, clamp(needed, 1.0, all));
}

fn reaches(sum: f32, sought: f32, reach: u32) -> bool {
    return select(sum >= sought, sum > sought, reach == BY_DRAW);
}

// The token whose key this is, so many of them in the order of ids. For a draw, +∞ is the largest number; else minus
// zero is zero.
fn token_of(thread: u32, row_at: u32, key: u32, number: f32, drawn: bool) -> u32 {
    // A thread takes a stretch of its own, so that the order of threads is that of ids.
    let stretch = (params.vocabulary + ${WORKGROUP}u - 1u) / ${WORKGROUP}u;
    let first = min(thread * stretch, params.vocabulary);
    let end = min(first + stretch, params.vocabulary);
    var own = 0u;
    for (var i = first; i < end; i++) {
        own += select(0u, 1u, is_key(logits[row_at + i], key, drawn));
    }
    keys[thread] = own;
    if (thread == 0u) {
        found = NO_TOKEN;
    }
    workgroupBarrier();
    if (thread < ${ROOT}u) {
        var sum = 0u;
        for (var i = 0u; i < ${ROOT}u; i++) {
            sum += keys[thread * ${ROOT}u + i];
        }
        keys_of[thread] = sum;
    }
    workgroupBarrier();
    var before = 0u;
    for (var i = 0u; i < thread / ${ROOT}u; i++) {
        before += keys_of[i];
    }
    for (var i = thread / ${ROOT}u * ${ROOT}u; i < thread; i++) {
        before += keys[i];
    }
    let sought = u32(number);
    if (before < sought && sought <= before + own) {
        for (var i = first; i < end; i++) {
            before += select(0u, 1u, is_key(logits[row_at + i], key, drawn));
            if (before == sought) {
                found = i;
                break;
            }
        }
    }
    workgroupBarrier();
    return found;
}

fn is_key(logit: f32, key: u32, drawn: bool) -> bool {
    let own = key_of(logit);
    if (drawn) {
        return min(own, LARGEST_KEY) == key;
    }
    // Of +0 and −0.
    return own == key || (own >= 0x7fffffffu && own <= 0x80000000u && key == 0x80000000u);
}

fn edit(thread: u32, record: u32, row_at: u32) {
    let penalty = bitcast<f32>(tables[record + PENALTY]);
    for (var i = thread; i < tables[record + EDITS]; i += ${WORKGROUP}u) {
        let edit_at = tables[record + EDITS_AT] + i * EDIT_WORDS;
        let at = row_at + tables[edit_at + EDIT_TOKEN];
        var logit = logits[at];
        saved[tables[record + SAVED_AT] + i] = logit;
        for (var b = 0u; b < tables[edit_at + EDIT_BIASES]; b++) {
            logit += bitcast<f32>(tables[tables[edit_at + EDIT_BIASES_AT] + b]);
        }
        if (tables[edit_at + EDIT_PENALTY] == 1u) {
            logit = select(logit * penalty, logit / penalty, logit > 0.0);
        }
        logits[at] = logit;
    }
}

// Whoever reads the logits afterwards reads them as they were.
fn restore(thread: u32, record: u32, row_at: u32) {
    for (var i = thread; i < tables[record + EDITS]; i += ${WORKGROUP}u) {
        let edit_at = tables[record + EDITS_AT] + i * EDIT_WORDS;
        logits[row_at + tables[edit_at + EDIT_TOKEN]] = saved[tables[record + SAVED_AT] + i];
    }
}

fn draw(thread: u32, record: u32, row_at: u32, largest: u32) -> u32 {
    let seed = record + SEED;
    let word = pcg4d(vec4<u32>(tables[seed], tables[seed + 1u], tables[seed + 2u], tables[seed + 3u])).x;
    let share = f32(word >> 8u) * 0x1p-24f;
    let top_p = bitcast<f32>(tables[record + TOP_P]);
    var by = Weighing(logit_of(largest), bitcast<f32>(tables[record + TEMPERATURE]), 0.0);
    var run = Run(0u, 0.0);
    if (tables[record + TOP_K] > 0u) {
        run = shortest_run(thread, row_at, run, BY_COUNT, f32(tables[record + TOP_K]), by);
    }
    if (top_p < 1.0) {
        run = shortest_run(thread, row_at, run, BY_SHARE, top_p, by);
    }
    by.min_p = bitcast<f32>(tables[record + MIN_P]);
    run = shortest_run(thread, row_at, run, BY_DRAW, share, by);
    return token_of(thread, row_at, run.key, run.ties, true);
}

@compute @workgroup_size(${WORKGROUP})
fn sample(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
) {
    let index = folded_index(id, grid);
    if (index >= params.outputs) {
        return;
    }
    let record = params.records_at + index * RECORD_WORDS;
    let row_at = params.logits_at + tables[record + ROW] * params.stride;
    edit(thread, record, row_at);
    storageBarrier();
    let largest = largest_key(thread, row_at);
    var token = NO_TOKEN;
    if (largest > 0u) {
        if (tables[record + TEMPERATURE] == 0u) {
            token = token_of(thread, row_at, largest, 1.0, false);
        } else {
            token = draw(thread, record, row_at, min(largest, LARGEST_KEY));
        }
    }
    storageBarrier();
    restore(thread, record, row_at);
    if (thread == 0u) {
        tokens[index] = token;
    }
}
