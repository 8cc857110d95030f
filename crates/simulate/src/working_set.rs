//! How much a workload would hold if nothing were shared and nothing went: what budgets are shares of.

use std::collections::{HashMap, HashSet};

use interleaf_contract::CHUNK_TOKENS;

use crate::driver::chunk_bytes;
use crate::event::What;
use crate::machine::Calibration;
use crate::workload::Workload;

/// Bytes of all adapters and, at the moment at which that is most, of every live context's whole K and V. A context is live
/// from its first request until it is forgotten or, where nothing says so, until its last request among these has come; it
/// has the prompt and the answer of the last one that came, in whole chunks, whatever other contexts begin with.
#[must_use]
pub fn working_set(workload: &Workload, calibration: &Calibration, requests: u64, seed: u64) -> u64 {
    let (mut last, mut forgotten) = (HashMap::new(), HashSet::new());
    for (number, event) in workload.events(seed).requests(requests).enumerate() {
        match event.what {
            What::Request(request) => drop(last.insert(request.context, number)),
            What::Forget { context } => drop(forgotten.insert(context)),
            What::AppState { .. } => {}
        }
    }
    let mut live: HashMap<u32, u64> = HashMap::new();
    let (mut chunks, mut most) = (0, 0);
    for (number, event) in workload.events(seed).requests(requests).enumerate() {
        match event.what {
            What::Request(request) => {
                let tokens = request.prompt_tokens() + u64::from(request.answer.tokens);
                let own = tokens.div_ceil(CHUNK_TOKENS as u64);
                chunks += own - live.insert(request.context, own).unwrap_or(0);
                most = most.max(chunks);
                let is_last = last.get(&request.context) == Some(&number);
                if is_last && !forgotten.contains(&request.context) {
                    chunks -= live.remove(&request.context).unwrap_or(0);
                }
            }
            What::Forget { context } => chunks -= live.remove(&context).unwrap_or(0),
            What::AppState { .. } => {}
        }
    }
    let adapters: u64 = workload.adapters(&calibration.model).iter().map(|adapter| adapter.bytes).sum();
    adapters + most * chunk_bytes(&calibration.model)
}

/// Bytes of memory beyond which more makes no difference: no share of it that the cache goes by is ever held. Twice all that
/// may come to be there if nothing is shared and nothing goes: every context as long as it gets, the end of every request,
/// which is no whole chunk and stays beside what goes on from it, and adapters, whose blocks are at least half full but for
/// the last.
pub(crate) fn most_used(workload: &Workload, calibration: &Calibration, requests: u64, seed: u64) -> u64 {
    let mut contexts: HashMap<u32, u64> = HashMap::new();
    for event in workload.events(seed).requests(requests) {
        if let What::Request(request) = event.what {
            let tokens = request.prompt_tokens() + u64::from(request.answer.tokens);
            let longest = contexts.entry(request.context).or_default();
            *longest = tokens.max(*longest);
        }
    }
    let adapters = workload.adapters(&calibration.model);
    let whole: u64 = contexts.values().map(|tokens| tokens.div_ceil(CHUNK_TOKENS as u64)).sum();
    let chunks = whole + requests + adapters.len() as u64;
    let weights: u64 = adapters.iter().map(|adapter| 2 * adapter.bytes).sum();
    chunks.saturating_mul(chunk_bytes(&calibration.model)).saturating_add(weights).saturating_mul(2)
}
