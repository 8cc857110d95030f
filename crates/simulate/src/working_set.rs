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
