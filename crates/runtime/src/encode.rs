//! Encodes chunks that nobody uses any more, for calls that allow a loss, and says what that costs.

use interleaf_contract::{PageHalf, PageLoss, PageRecode};
use interleaf_kv::Op;

use crate::{Engine, EngineError};

/// What the mean divergence of outputs is at most, as a multiple of the squared relative errors of K and of V: it covered
/// every encoding that was measured on two trained models and ten adapters.
const DIVERGENCE: f64 = 0.25;

impl Engine {
    /// Carries encodings out, one chunk after the other, and reports what each costs. What the manager does not keep it
    /// does not keep: the exact pages are there until then. With a device that is left for another they are gone anyway.
    ///
    /// # Errors
    /// If the device is suspended, or fails and may not be left. What is not encoded by then stays as it is.
    pub(crate) fn encode_pages(&mut self, moves: Vec<Op>) -> Result<(), EngineError> {
        let mut left = moves;
        while let Some(op) = left.pop() {
            let pages = self.cache.manager().recodes(op.id);
            let losses = self.on_device(|engine| {
                engine.backend.recode_pages(&pages)?;
                Ok(engine.backend.compare_pages(&pages)?)
            });
            match losses {
                Ok(losses) => left.extend(self.cache.encoded(op, Some(divergence(&pages, &losses)))),
                Err(error) => {
                    for op in left.into_iter().chain([op]) {
                        self.cache.encoded(op, None);
                    }
                    return self.leave(error);
                }
            }
        }
        Ok(())
    }
}

/// A bound on the mean divergence of outputs over pages that have lost something: of K and of V the squared error relative
/// to what they were, over all layers.
fn divergence(pages: &[PageRecode], losses: &[PageLoss]) -> f32 {
    let relative = |half: PageHalf| {
        let of_half = pages.iter().zip(losses).filter(|(page, _)| page.half == half);
        let (error, norm) = of_half.fold((0.0, 0.0), |(error, norm), (_, loss)| {
            (error + f64::from(loss.error), norm + f64::from(loss.norm))
        });
        // What was nothing and is something is of no use.
        match (error > 0.0, norm > 0.0) {
            (false, _) => 0.0,
            (true, true) => error / norm,
            (true, false) => f64::INFINITY,
        }
    };
    (DIVERGENCE * (relative(PageHalf::K) + relative(PageHalf::V))) as f32
}
