//! The next step, started before the last one's tokens have been read: its rows are chained to them on the device, which
//! goes on while the host reads and shows what there is.
//!
//! That changes no answer. A step is only taken ahead where it would come in any case, but for what the tokens say; whom
//! they end, of him its row is thrown away.

use interleaf_contract::{CHUNK_TOKENS, Chained, RowKind};

use crate::active::Active;
use crate::{Engine, EngineError, Fed, Feed, GpuGate, Want};

/// Who takes part in a step, by place, and with how many rows.
pub type Plan = Vec<(usize, usize)>;

/// A step that was started ahead.
pub struct Ahead {
    /// Who takes part, those included who have ended since.
    plan: Plan,
    /// The error of one that could not be started comes when its turn does.
    step: Result<crate::step::UnderWay, EngineError>,
}

impl Ahead {
    /// Who of it goes on.
    pub fn plan(&self, active: &[Active<'_>]) -> Plan {
        self.plan.iter().filter(|(index, _)| !active[*index].is_over()).copied().collect()
    }
}

impl Engine {
    /// Takes the step under way, or else one by this plan, and starts the next one first where it can. Returns whose
    /// tokens these are.
    pub(crate) fn next_step(
        &mut self,
        plan: Plan,
        active: &[Active<'_>],
        ahead: &mut Option<Ahead>,
    ) -> Result<(Plan, Vec<Fed>), EngineError> {
        let (plan, step) = match ahead.take() {
            Some(Ahead { plan, step }) => (plan, step?),
            None => {
                let feeds: Vec<Feed<'_>> =
                    plan.iter().map(|&(index, rows)| active[index].feed(rows)).collect();
                let step = self.start(&feeds, Vec::new())?;
                (plan, step)
            }
        };
        *ahead = self.start_ahead(&plan, active);
        let fed = match self.finish(step, |feed| !active[plan[feed].0].is_over()) {
            Ok(fed) => fed,
            Err(error) => {
                self.drop_ahead(ahead);
                return Err(error);
            }
        };
        for &(index, rows) in plan.iter().filter(|(index, _)| !active[*index].is_over()) {
            self.remember(&active[index].feed(rows));
        }
        Ok((plan, fed))
    }

    /// Throws the step ahead away, if there is one.
    pub(crate) fn drop_ahead(&mut self, ahead: &mut Option<Ahead>) {
        if let Some(Ahead { step: Ok(step), .. }) = ahead.take() {
            self.throw_away(step);
        }
    }

    /// Starts the step after one that is under way, if the device runs it meanwhile and nothing but tokens is missing for
    /// it: everyone has its next row, and room for it.
    fn start_ahead(&mut self, plan: &[(usize, usize)], active: &[Active<'_>]) -> Option<Ahead> {
        if !self.gate.as_ref().is_some_and(GpuGate::leaves_steps_under_way) {
            return None;
        }
        let going: Vec<(usize, (usize, usize))> =
            plan.iter().copied().enumerate().filter(|(_, (index, _))| !active[*index].is_over()).collect();
        let everyone = going.len() == active.iter().filter(|a| !a.is_over()).count();
        let goes_on =
            |&(_, (index, rows)): &(usize, (usize, usize))| active[index].goes_on(rows, self.context);
        let chunks: usize = going.iter().map(|(_, (index, rows))| active[*index].chunks(*rows, 1)).sum();
        if !everyone || !going.iter().all(goes_on) || chunks > self.kv.free_tokens() / CHUNK_TOKENS {
            return None;
        }
        let feed = |&(_, (index, _)): &(usize, (usize, usize))| Feed {
            sequence: active[index].sequence,
            // The device knows it.
            tokens: &[0],
            kind: RowKind::Generated,
            want: Want::Token(active[index].sampler(1)),
        };
        let feeds: Vec<Feed<'_>> = going.iter().map(feed).collect();
        // Everyone in the plan had a token chosen, so outputs are numbered as the plan is.
        let chained = going
            .iter()
            .zip(0_u32..)
            .filter_map(|((output, _), row)| Some(Chained { row, output: u32::try_from(*output).ok()? }));
        let step = self.start(&feeds, chained.collect());
        Some(Ahead { plan: going.into_iter().map(|(_, (index, _))| (index, 1)).collect(), step })
    }
}
