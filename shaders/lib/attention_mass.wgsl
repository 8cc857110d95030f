// Sums of a block's weights by chunk, for attention_mass.
const BLOCK_CHUNKS: u32 = ${SPLIT}u / ${CHUNK}u;

const_assert ${VECTORS}u * BLOCK_CHUNKS <= ${WORKGROUP}u;

// The vector and the chunk of a block whose sums a thread has.
fn vector_of_mass(thread: u32) -> u32 {
    return thread / BLOCK_CHUNKS;
}

fn chunk_of_mass(thread: u32) -> u32 {
    return thread % BLOCK_CHUNKS;
}

// A thread's sums, in ascending order. What a query does not see has no weight; behind `count` nobody has written.
fn chunk_mass(thread: u32, count: u32) -> abreast {
    var sum = abreast(0.0);
    if (vector_of_mass(thread) < ${VECTORS}u) {
        let begin = chunk_of_mass(thread) * ${CHUNK}u;
        for (var token = begin; token < min(begin + ${CHUNK}u, count); token++) {
            sum += scores[vector_of_mass(thread) * ${SPLIT}u + token];
        }
    }
    return sum;
}
