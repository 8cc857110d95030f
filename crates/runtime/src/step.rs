//! One step of the engine: rows of several sequences are given to the device, and what it chose is fetched. Between the
//! two the host may do other things, even start the next step; who does that and when is in `generate` and `ahead`.

use std::time::Instant;

use interleaf_contract::{
    AdapterId, Batch, Chained, Op, Output, Row, RowKind, Sampler, Sequence, Step, StepOutput, Ticket,
};
use interleaf_kv::{KvError, SequenceId};

use crate::adapters::Activation;
use crate::forward::{self, Tap};
use crate::traced::wants_kernels;
use crate::{Engine, EngineError, Fed, Feed, Want};

/// A step that the device was given. The cache has room for what it appends; the tokens before it are known.
#[derive(Debug)]
pub struct UnderWay {
    submitted: Submitted,
    /// The sequences of its feeds, and how many tokens each had.
    before: Vec<(SequenceId, usize)>,
    /// How many tokens each gets.
    rows: Vec<usize>,
}

impl UnderWay {
    /// Its sequences, and how many tokens each had before it.
    pub fn before(&self) -> &[(SequenceId, usize)] {
        &self.before
    }
}

/// What to fetch, and for whom.
#[derive(Debug)]
struct Submitted {
    /// `None` where there were no rows.
    ticket: Option<Ticket>,
    feeds: usize,
    /// The feed behind each output.
    wanted: Vec<Wanted>,
    /// When it was given to the device, where somebody wants the times of its kernels.
    began: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    feed: usize,
    logits: bool,
}

impl Engine {
    /// Takes a step on the device at hand, of sequences whose pages it has.
    pub(crate) fn step(&mut self, feeds: &[Feed<'_>]) -> Result<Vec<Fed>, EngineError> {
        for (i, feed) in feeds.iter().enumerate() {
            if feeds[..i].iter().any(|other| other.sequence.id == feed.sequence.id) {
                return Err(EngineError::DuplicateSequence { feed: i });
            }
        }
        let step = self.start(feeds, Vec::new())?;
        let before = step.before().to_vec();
        let fed = self.finish(step, |_| true)?;
        if fed.iter().any(|fed| fed.is_broken) {
            self.take_back(&before);
            return Err(EngineError::NotANumber);
        }
        feeds.iter().try_for_each(|feed| self.remember(feed))?;
        Ok(fed)
    }

    /// Starts a step. Rows that are chained have the tokens that the step started before chooses.
    pub(crate) fn start(
        &mut self,
        feeds: &[Feed<'_>],
        chained: Vec<Chained>,
    ) -> Result<UnderWay, EngineError> {
        let before =
            feeds.iter().map(|feed| Ok((feed.sequence.id, self.cache.manager().room(feed.sequence.id)?)));
        let before: Vec<(SequenceId, usize)> = before.collect::<Result<_, EngineError>>()?;
        let starts: Vec<usize> = before.iter().map(|(_, tokens)| *tokens).collect();
        let room = self.make_room_for(feeds, &starts);
        match room.and_then(|()| self.submit(feeds, &starts, chained)) {
            Ok(submitted) => {
                let rows = feeds.iter().map(|feed| feed.tokens.len()).collect();
                Ok(UnderWay { submitted, before, rows })
            }
            Err(error) => {
                self.take_back(&before);
                Err(error)
            }
        }
    }

    /// Waits for a step. Where it fails the sequences have the tokens that they had before it. Feeds that nobody wants
    /// any more come back empty.
    pub(crate) fn finish(
        &mut self,
        step: UnderWay,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Vec<Fed>, EngineError> {
        let fetched = match self.fetch(&step.submitted, &wanted) {
            Ok(fetched) => fetched,
            Err(error) => {
                self.take_back(&step.before);
                return Err(error);
            }
        };
        let sees = self.mass.and_then(|sampling| sampling.window(self.model.config()));
        let all = step.before.iter().zip(&step.rows).zip(&fetched).enumerate();
        for (_, ((&(id, first), &rows), fed)) in all.filter(|(feed, _)| wanted(*feed)) {
            self.cache.attended(id, &fed.mass, first, rows, sees);
        }
        Ok(fetched)
    }

    /// Waits for a step of which nothing is wanted any more.
    pub(crate) fn throw_away(&mut self, step: UnderWay) {
        // Of a device that failed, whoever wants something of it hears.
        let _ = self.fetch(&step.submitted, |_| false);
        self.take_back(&step.before);
    }

    /// A feed's step has run: its tokens can be found, and are kept where they may have to be computed again.
    pub(crate) fn remember(&mut self, feed: &Feed<'_>) -> Result<(), EngineError> {
        if self.fallback.is_some() {
            self.histories.grow(feed.sequence.id, feed.tokens);
        }
        Ok(self.cache.commit(feed.sequence.id, feed.tokens)?)
    }

    /// Takes a step of one feed, of which nothing is wanted but normed hidden states: rows × hidden, by layer
    /// ([`Tap::Hidden`]).
    pub(crate) fn tapped_step(
        &mut self,
        feed: &Feed<'_>,
        layers: &[usize],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let start = self.cache.manager().room(feed.sequence.id)?;
        let room = self.make_room_for(std::slice::from_ref(feed), &[start]);
        match room.and_then(|()| self.tapped(feed, start, layers)) {
            Ok(inputs) => {
                self.remember(feed)?;
                Ok(inputs)
            }
            Err(error) => {
                self.take_back(&[(feed.sequence.id, start)]);
                Err(error)
            }
        }
    }

    fn tapped(
        &mut self,
        feed: &Feed<'_>,
        start: usize,
        layers: &[usize],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let config = self.model.config();
        let (batch, _) = self.batch(std::slice::from_ref(feed), &[start], Vec::new())?;
        if batch.rows.is_empty() {
            return Ok(vec![Vec::new(); layers.len()]);
        }
        let mut step = Step::new(batch)?;
        forward::record(&mut step, &self.resident, &self.ropes, config, Tap::Hidden(layers), None);
        Ok(self.run_to_end(step)?.probes)
    }

    /// Computes tokens behind those that there are pages for, and remembers nothing.
    pub(crate) fn compute_new(&mut self, feed: &Feed<'_>) -> Result<(), EngineError> {
        let step = self.start(std::slice::from_ref(feed), Vec::new())?;
        self.finish(step, |_| true)?;
        Ok(self.cache.commit(feed.sequence.id, feed.tokens)?)
    }

    /// Computes tokens that there are pages for, those of a feed from a position on.
    pub(crate) fn compute(&mut self, feed: &Feed<'_>, start: usize) -> Result<(), EngineError> {
        let submitted = self.submit(std::slice::from_ref(feed), &[start], Vec::new())?;
        self.fetch(&submitted, |_| true).map(|_| ())
    }

    /// Sequences have the tokens again that they had before a step. Those that were closed since have none.
    pub(crate) fn take_back(&mut self, before: &[(SequenceId, usize)]) {
        for &(id, tokens) in before {
            let _ = self.cache.truncate(id, tokens);
        }
    }

    /// Runs a step that nothing else is done beside.
    pub(crate) fn run_to_end(&mut self, step: Step) -> Result<StepOutput, EngineError> {
        let _span = span(step.batch()).entered();
        let began = wants_kernels().then(Instant::now);
        let ticket = self.backend.submit(step)?;
        let output = self.backend.wait(ticket)?;
        began.into_iter().for_each(|began| self.tell_of_kernels(began));
        Ok(output)
    }

    fn make_room_for(&mut self, feeds: &[Feed<'_>], starts: &[usize]) -> Result<(), EngineError> {
        for (feed, &start) in feeds.iter().zip(starts) {
            self.check(feed, start)?;
            loop {
                match self.cache.append(feed.sequence.id, feed.tokens.len()) {
                    // What is being written cannot go, and soon can.
                    Err(KvError::Full { .. }) if self.await_write()? => {}
                    appended => break appended?,
                }
            }
        }
        Ok(())
    }

    fn check(&self, feed: &Feed<'_>, start: usize) -> Result<(), EngineError> {
        let vocabulary = self.model.config().vocab_size;
        if let Some(&token) = feed.tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(EngineError::UnknownToken { token, vocabulary });
        }
        let needed = start + feed.tokens.len();
        if needed > self.context {
            return Err(EngineError::ContextFull { needed, limit: self.context });
        }
        Ok(())
    }

    fn submit(
        &mut self,
        feeds: &[Feed<'_>],
        starts: &[usize],
        chained: Vec<Chained>,
    ) -> Result<Submitted, EngineError> {
        let (batch, wanted) = self.batch(feeds, starts, chained)?;
        if batch.rows.is_empty() {
            return Ok(Submitted { ticket: None, feeds: feeds.len(), wanted, began: None });
        }
        // On the host it runs to its end in here; on a device it is begun, and `wait` has the rest.
        let _span = span(&batch).entered();
        let began = wants_kernels().then(Instant::now);
        let probe = wanted.iter().any(|wanted| wanted.logits);
        let sample = batch.outputs.iter().any(|o| o.sampler.is_some());
        let mut step = Step::new(batch)?;
        let config = self.model.config();
        if let Some(sampling) = self.mass {
            step.measure_mass(sampling.of(config));
        }
        let logits = forward::record(&mut step, &self.resident, &self.ropes, config, Tap::Nothing, None);
        if let Some(logits) = logits {
            if sample {
                step.push(Op::Sample { logits });
            }
            if probe {
                step.probe(logits);
            }
        }
        let ticket = Some(self.backend.submit(step)?);
        Ok(Submitted { ticket, feeds: feeds.len(), wanted, began })
    }

    fn batch(
        &self,
        feeds: &[Feed<'_>],
        starts: &[usize],
        chained: Vec<Chained>,
    ) -> Result<(Batch, Vec<Wanted>), EngineError> {
        let mut batch = Batch { chained, ..Batch::default() };
        let mut wanted = Vec::new();
        for (index, (feed, &start)) in feeds.iter().zip(starts).enumerate() {
            let sequence = u32::try_from(index).unwrap_or(u32::MAX);
            let activation = feed.sequence.activation;
            let end = start + feed.tokens.len();
            // An adapter that acts on none of these rows is not in the batch.
            let acting = activation.filter(|a| a.from < end);
            let slot = match acting {
                Some(Activation { adapter, .. }) => {
                    let id = self.adapters.id(adapter).ok_or(KvError::NotLoaded(feed.sequence.id))?;
                    slot(&mut batch.adapters, id)
                }
                None => -1,
            };
            for (i, &token) in feed.tokens.iter().enumerate() {
                let row = u32::try_from(batch.rows.len()).unwrap_or(u32::MAX);
                let position = u32::try_from(start + i).unwrap_or(u32::MAX);
                let adapter = if activation.is_some_and(|a| a.from <= start + i) { slot } else { -1 };
                batch.rows.push(Row { token, position, sequence, adapter, kind: feed.kind });
                let last = i + 1 == feed.tokens.len();
                let sampler: Option<Sampler> = match &feed.want {
                    Want::Token(sampler) if last => Some(sampler.clone()),
                    Want::Logits => None,
                    Want::Nothing | Want::Token(_) => continue,
                };
                wanted.push(Wanted { feed: index, logits: sampler.is_none() });
                batch.outputs.push(Output { row, sampler });
            }
        }
        for feed in feeds {
            batch
                .sequences
                .push(Sequence { pages: self.cache.manager().page_table(feed.sequence.id)?.clone() });
        }
        Ok((batch, wanted))
    }

    fn fetch(
        &mut self,
        submitted: &Submitted,
        of_feeds: impl Fn(usize) -> bool,
    ) -> Result<Vec<Fed>, EngineError> {
        let mut fed = vec![Fed::default(); submitted.feeds];
        let Some(ticket) = submitted.ticket else { return Ok(fed) };
        let output = tracing::debug_span!("wait").in_scope(|| self.backend.wait(ticket))?;
        submitted.began.into_iter().for_each(|began| self.tell_of_kernels(began));
        for (feed, mass) in output.mass.into_iter().enumerate() {
            fed[feed].mass = mass;
        }
        for sampled in output.tokens {
            let Wanted { feed, .. } = submitted.wanted[sampled.output as usize];
            if of_feeds(feed) {
                fed[feed].token = sampled.token;
                fed[feed].is_broken = sampled.token.is_none();
            }
        }
        if let Some(logits) = output.probes.first() {
            let rows = logits.chunks_exact(self.model.config().vocab_size);
            for (row, wanted) in
                rows.zip(&submitted.wanted).filter(|(_, wanted)| wanted.logits && of_feeds(wanted.feed))
            {
                fed[wanted.feed].logits.extend_from_slice(row);
            }
        }
        Ok(fed)
    }
}

/// A span of a step.
fn span(batch: &Batch) -> tracing::Span {
    let prompt = || batch.rows.iter().filter(|row| row.kind == RowKind::Prompt).count();
    tracing::debug_span!(
        "step",
        kind = match (prompt(), batch.rows.len()) {
            (0, _) => "generated",
            (prompt, all) if prompt == all => "prompt",
            _ => "mixed",
        },
        prompt_rows = prompt(),
        generated_rows = batch.rows.len() - prompt(),
        sequences = batch.sequences.len(),
        adapters = batch.adapters.len()
    )
}

/// The adapter's index in the batch, added if it is new there.
fn slot(adapters: &mut Vec<AdapterId>, id: AdapterId) -> i32 {
    let at = adapters.iter().position(|a| *a == id).unwrap_or_else(|| {
        adapters.push(id);
        adapters.len() - 1
    });
    i32::try_from(at).unwrap_or(i32::MAX)
}
