//! Contexts at rest take less: each chunk gets the width that its density is worth under a ratio of all. Which width that is
//! [`choose_widths`] says; who measures densities, and when it is time, is not known here.

use super::Manager;
use crate::form::{Form, Over};
use crate::node::{NONE, Node};
use crate::op::Op;
use crate::tolerance::{Graded, Tolerance, Width, choose_widths};
use crate::{KvError, Open};

impl Manager {
    /// Puts the whole chunks of a context that nobody uses now into the widths that their densities are worth: 8, 4 or 2
    /// bits, so that all together take a share of what they take at 8 (LLMS, arXiv 2403.11805, §3.2). What was lost does
    /// not come back: no chunk gets wider, and none narrower than those who used it allow. The moves are returned.
    ///
    /// `densities` are the chunks', the oldest first; chunks beyond them, and those that are gone from memory, stay as they
    /// are.
    ///
    /// # Errors
    /// If the app or the adapter is unknown, there is no form of one of these widths that stands alone, or
    /// [`choose_widths`] refuses. Nothing has changed then.
    pub fn narrow(
        &mut self,
        context: &Open<'_>,
        densities: &[f64],
        tolerance: &Tolerance,
    ) -> Result<Vec<Op>, KvError> {
        let forms = self.forms_by_width()?;
        let Some((root, variant, from)) = self.start(context)? else { return Ok(Vec::new()) };
        let path = self.find(root, variant, from, context.tokens, context.budget).path;
        let graded: Vec<Graded> = path
            .iter()
            .zip(densities)
            .map(|(&node, &density)| Graded { density, bytes: forms.map(|form| self.bytes_in(node, form)) })
            .collect();
        let widths = choose_widths(&graded, tolerance)?.widths;
        let mut moves = Vec::new();
        for (&node, width) in path.iter().zip(widths) {
            let form = width.and_then(|width| self.narrowest_lawful(node, &forms[..=width as usize]));
            let is_less =
                |form: &u8| self.bytes_in(node, *form) < self.bytes_in(node, self.nodes[node as usize].form);
            if let Some(form) = form.filter(is_less).filter(|_| self.may_change(node)) {
                moves.extend(self.encode(node, form, NONE, false));
            }
        }
        Ok(moves)
    }

    /// The forms of 8, 4 and 2 bits.
    fn forms_by_width(&self) -> Result<[u8; 3], KvError> {
        let mut found = [0; 3];
        for width in Width::ALL {
            let is_it =
                |form: &Form| form.by_density && form.over == Over::Nothing && form.bits == width.bits();
            let Some(place) = self.config.forms.iter().position(is_it) else {
                let (field, expected) = ("forms", "one each of 8, 4 and 2 bits by density that stands alone");
                return Err(KvError::Config {
                    field,
                    expected,
                    found: format!("none of {} bits", width.bits()),
                });
            };
            found[width as usize] = place as u8 + 1;
        }
        Ok(found)
    }

    /// The last of some forms, the widest first, that those who used a chunk allow.
    fn narrowest_lawful(&self, node: u32, forms: &[u8]) -> Option<u8> {
        let least_budget = self.nodes[node as usize].least_budget;
        let is_lawful =
            |form: u8| self.drift_in(node, form) <= least_budget && !self.is_refused(node, form, false);
        forms.iter().copied().rfind(|&form| is_lawful(form))
    }

    /// Bytes that a chunk's own layers take in a form.
    pub(super) fn bytes_in(&self, node: u32, form: u8) -> u64 {
        let Node { first, variant, .. } = self.nodes[node as usize];
        let layers = usize::from(first)..self.config.layers;
        self.tiers[0].chunk_bytes(layers, self.layers_in(variant, form))
    }
}
