//! Golden vectors of unknown files, read and checked against a sound model.

use std::path::Path;

use interleaf_cli::verify::golden;
use interleaf_model::Model;

/// Whether there is a golden set for this model. One that passes must hold what a comparison indexes by.
pub fn read(folder: &Path, model: &Model) -> bool {
    let config = model.config();
    let read = golden::read(folder);
    let golden = match read.and_then(|golden| golden.check(config, config.max_positions).map(|()| golden)) {
        Ok(golden) => golden,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    assert!(!golden.targets.is_empty());
    let known = |tokens: &[u32]| tokens.iter().all(|t| (*t as usize) < config.vocab_size);
    for prompt in golden.targets.iter().flat_map(|target| &target.prompts) {
        assert!(!prompt.ids.is_empty() && !prompt.greedy.is_empty() && prompt.best > 0);
        assert!(known(&prompt.ids) && known(&prompt.greedy) && known(&prompt.top_ids));
        assert_eq!(prompt.last_logits.len(), config.vocab_size);
        assert_eq!(Some(prompt.top_ids.len()), prompt.ids.len().checked_mul(prompt.best));
        assert_eq!(prompt.top_logits.len(), prompt.top_ids.len());
        assert_eq!(prompt.margins.len(), prompt.greedy.len());
        assert!(prompt.token_nll.iter().all(|nll| nll.len() + 1 == prompt.ids.len()));
        for kv in &prompt.kv {
            let values = config.kv_heads * prompt.ids.len() * config.head_dim;
            assert!(kv.layer < config.layers && kv.k.len() == values && kv.v.len() == values);
        }
    }
    for window in golden.targets.iter().flat_map(|target| &target.windows) {
        assert!(known(&window.ids) && !window.nll.is_empty());
        assert_eq!(window.ids.len(), window.nll.len() + 1);
    }
    true
}
