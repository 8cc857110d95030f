//! Tokens of a sequence computed again where they are: any of them, at their true positions among those whose pages are there
//! (LLMS, arXiv 2403.11805, §3.3). Each layer's keys and values are put in their places before the layer attends, so that every
//! token sees what is before it, whether that is resident or has just been computed.

use interleaf_contract::{Arrival, Batch, Row, RowKind, Sequence, Step};

use interleaf_kv::KvError;

use crate::adapters::Activation;
use crate::forward::{self, Tap};
use crate::{Engine, EngineError, SequenceHandle};

impl Engine {
    /// Computes keys and values of a sequence's tokens again, under its adapter, at some positions, ascending; `tokens` are all that
    /// it has. What they attend to elsewhere is read as it is: where that is what a forward pass left, so is what they become, up
    /// to the rounding in which a device's kernels differ. Only pages of [`Engine::open_sequence`] are written.
    ///
    /// # Errors
    /// If the sequence is not open or its pages can be found by others, positions do not ascend or are not the sequence's, a
    /// token is not in the vocabulary, the GPU is suspended, or the device fails.
    pub fn recompute(
        &mut self,
        sequence: SequenceHandle,
        tokens: &[u32],
        positions: &[usize],
    ) -> Result<(), EngineError> {
        if self.cache.manager().is_kept(sequence.id)? {
            return Err(EngineError::SharedPages);
        }
        let has = self.cache.manager().tokens(sequence.id)?.min(tokens.len());
        if let Some(&position) = positions.iter().find(|position| **position >= has) {
            return Err(EngineError::NoSuchPosition { position, tokens: has });
        }
        self.on_some_device(&[sequence], |engine| engine.compute_at(sequence, tokens, positions, None))
    }

    /// The same on the device at hand, of positions that there are; with what arrives meanwhile, layer by layer.
    pub(crate) fn compute_at(
        &mut self,
        sequence: SequenceHandle,
        tokens: &[u32],
        positions: &[usize],
        arrival: Option<&Arrival>,
    ) -> Result<(), EngineError> {
        let acts = |position: usize| sequence.activation.is_some_and(|a| a.from <= position);
        let row = |&position: &usize| Row {
            token: tokens[position],
            position: u32::try_from(position).unwrap_or(u32::MAX),
            sequence: 0,
            adapter: if acts(position) { 0 } else { -1 },
            kind: RowKind::Prompt,
        };
        let all: Vec<Row> = positions.iter().map(row).collect();
        // Ascending: what a piece reads of an earlier one is there by then.
        for (piece, rows) in all.chunks(self.prefill_rows).enumerate() {
            let sequences = vec![Sequence { pages: self.cache.manager().page_table(sequence.id)?.clone() }];
            let loaded = |a: &Activation| self.adapters.id(a.adapter).ok_or(KvError::NotLoaded(sequence.id));
            let adapters = sequence.activation.iter().map(loaded).collect::<Result<_, _>>()?;
            let batch = Batch { rows: rows.to_vec(), sequences, adapters, ..Batch::default() };
            let mut step = Step::new(batch)?;
            // What the first one has waited for is there for the others.
            let arrival = arrival.filter(|_| piece == 0);
            forward::record(
                &mut step,
                &self.resident,
                &self.ropes,
                self.model.config(),
                Tap::Nothing,
                arrival,
            );
            self.run_to_end(step)?;
        }
        Ok(())
    }
}
