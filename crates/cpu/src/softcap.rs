//! Soft capping: a value keeps its sign and stays below a cap.

use rayon::prelude::*;

/// Elements handled by one worker at a time.
const CHUNK: usize = 4096;

/// `x = cap · tanh(x / cap)`, element by element.
pub fn softcap(x: &mut [f32], cap: f32) {
    x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|v| *v = cap * (*v / cap).tanh()));
}
