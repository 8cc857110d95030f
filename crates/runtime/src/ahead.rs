//! The next step, started before the last one's tokens have been read: its rows are chained to them on the device, which
//! goes on while the host reads and shows what there is.
//!
//! That changes no answer. A step is only started ahead where it would come whatever the tokens are; the row of an
//! answer that they end is thrown away.

use interleaf_contract::{Chained, RowKind};

use crate::active::Active;
use crate::step::UnderWay;
use crate::{Engine, EngineError, Fed, Feed, GpuGate, Want};

/// Who takes part in a step, by place, and with how many rows.
pub type Plan = Vec<(usize, usize)>;

/// A step that was started ahead.
pub struct Ahead {
    /// Who takes part, those included who have ended since.
    plan: Plan,
    /// The error of one that could not be started comes when its turn does.
    step: Result<UnderWay, EngineError>,
}

impl Ahead {
    /// Who of it goes on.
    pub fn plan(&self, active: &[Active]) -> Plan {
        self.plan.iter().filter(|(index, _)| !active[*index].is_over()).copied().collect()
    }
}

impl Engine {
    /// Takes the step under way, or else one by this plan, and starts the next one first where it can. Returns whose
    /// tokens these are.
    pub(crate) fn next_step(
        &mut self,
        plan: Plan,
        active: &[Active],
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
        let before = step.before().to_vec();
        let fed = match self.finish(step, |feed| !active[plan[feed].0].is_over()) {
            Ok(fed) => fed,
            Err(error) => {
                self.drop_ahead(ahead);
                return Err(error);
            }
        };
        let fails_all =
            |(&(index, _), fed): (&(usize, usize), &Fed)| fed.is_broken && !active[index].fails_alone;
        if plan.iter().zip(&fed).any(fails_all) {
            self.drop_ahead(ahead);
            self.take_back(&before);
            return Err(EngineError::NotANumber);
        }
        for (&(index, rows), fed) in plan.iter().zip(&fed) {
            // Of what is no number nobody is to go on.
            if !active[index].is_over() && !fed.is_broken {
                self.remember(&active[index].feed(rows))?;
            }
        }
        Ok((plan, fed))
    }

    /// Throws the step ahead away, if there is one.
    pub(crate) fn drop_ahead(&mut self, ahead: &mut Option<Ahead>) {
        if let Some(Ahead { step: Ok(step), .. }) = ahead.take() {
            self.throw_away(step);
        }
    }

    /// Starts the step after one that is under way, if the device runs it meanwhile and nothing but tokens is missing.
    fn start_ahead(&mut self, plan: &[(usize, usize)], active: &[Active]) -> Option<Ahead> {
        let rows = self.rows_ahead(plan, active)?;
        let feed = |&(_, index): &(u32, usize)| Feed {
            sequence: active[index].sequence,
            // The device knows which it is.
            tokens: &[0],
            kind: RowKind::Generated,
            want: Want::Token(active[index].sampler(1)),
        };
        let feeds: Vec<Feed<'_>> = rows.iter().map(feed).collect();
        let chained = rows.iter().zip(0..).map(|(&(output, _), row)| Chained { row, output });
        let step = self.start(&feeds, chained.collect());
        Some(Ahead { plan: rows.into_iter().map(|(_, index)| (index, 1)).collect(), step })
    }

    /// The rows of the step after one by this plan: for each the output that chooses its token, and whose it is. `None`
    /// unless everyone who is not over has a row there whatever is chosen, and room for it.
    fn rows_ahead(&self, plan: &[(usize, usize)], active: &[Active]) -> Option<Vec<(u32, usize)>> {
        if !self.gate.as_ref().is_some_and(GpuGate::leaves_steps_under_way) {
            return None;
        }
        let mut needed = 0;
        let mut going = Vec::with_capacity(plan.len());
        // Everyone in such a plan has a token chosen, so that outputs are numbered as it is.
        for (&(index, rows), output) in plan.iter().zip(0..).filter(|((i, _), _)| !active[*i].is_over()) {
            if !active[index].goes_on(rows, self.context) {
                return None;
            }
            needed += active[index].chunks(rows, 1);
            going.push((output, index));
        }
        let everyone = active.iter().filter(|a| !a.is_over()).count();
        let has_room = || self.cache.manager().available_chunks(needed) >= needed;
        (going.len() == everyone && has_room()).then_some(going)
    }
}
