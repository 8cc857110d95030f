//! A machine that serves requests, in simulated time and from event to event, never step by step.
//!
//! A request waits for one of a number of slots, and starts. What it needs is then up to whoever drives this, who answers
//! with [`Needs`]. Its adapter is loaded and its K and V are read, from a storage that does one thing at a time; what is
//! recomputed is computed as soon as the adapter is there, while the rest is read. Then the new tokens are prefilled, which
//! ends with the first token of the answer; the others are generated together with those of all requests that are this far.
//!
//! Recomputing and prefilling have the device for themselves, one after the other and each to its end; generating pauses.
//! A step takes as long as its rows make it ([`DecodeCost`]), and rows advance evenly between events, also through parts of
//! steps: this is processor sharing, and what joins a step late is a fraction of one off.

mod decoding;
mod line;

use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use decoding::Decoding;
use line::{Job, Rank, Resource, Waiting, Work};

use crate::machine::{Calibration, DecodeCost, PrefillCost};

/// What the cache says that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Needs {
    /// Seconds of the storage until its adapter is loaded; 0 if it is there.
    pub load_seconds: f64,
    /// Seconds of the storage until its K and V are read.
    pub read_seconds: f64,
    /// Seconds of the device until what is recomputed of its K and V is there.
    pub recompute_seconds: f64,
    /// New tokens, which are prefilled then. The last token of a prompt always is one, since the answer begins with what
    /// comes out behind it.
    pub prefill_tokens: u32,
    /// Tokens before these.
    pub context_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Whether it is not prefilled when it is ready, but waits for [`Server::start`] again: for room, or for what is read
    /// for another request. Its tokens are of no account until then.
    pub asks_again: bool,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It has a slot, and waits for [`Server::start`].
    Start,
    /// What it was last started with is loaded, read and recomputed: the end of a switch, where it does not ask again.
    Ready,
    /// The first token of its answer is there.
    FirstToken,
    /// All of its answer is there, and its slot is free.
    Done,
    /// What was done in the background has ended; the number is not a request's but the one that [`Server::background`]
    /// was given.
    Background,
}

/// A request has got on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// When, in seconds.
    pub at: f64,
    /// Which request, by the number that it was admitted under.
    pub request: u64,
    /// How far.
    pub phase: Phase,
}

/// What was in use for how many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Busy {
    /// The device, recomputing and prefilling.
    pub prefill: f64,
    /// The device, generating.
    pub decode: f64,
    /// The storage.
    pub storage: f64,
}

/// A call that does not fit what the server is at.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A request is admitted at a time that [`Server::next`] was not taken to.
    #[error("a request at {at} s was admitted at {now} s, expected the same time")]
    NotNow {
        /// The request's time.
        at: f64,
        /// The server's.
        now: f64,
    },
    /// What is started has no slot, or was started before.
    #[error("request {0} does not wait to be started")]
    NotStarting(u64),
    /// Needs that are no times.
    #[error("{field} is {seconds}, expected a finite number of seconds of 0 or more")]
    NoTime {
        /// Which.
        field: &'static str,
        /// What was found.
        seconds: f64,
    },
}

/// A request that has a slot.
#[derive(Debug)]
struct Active {
    waiting: Waiting,
    /// `None` while it waits to be started.
    needs: Option<Needs>,
    /// What is still missing before it is ready: reading, recomputing.
    missing: u32,
}

/// The server.
///
/// ```
/// use interleaf_simulate::{Calibration, Needs, Phase, Server};
///
/// let mut server = Server::new(&Calibration::named("orin-nx")?, 1);
/// server.next(2.0);
/// server.admit(2.0, 7, 0, 0)?;
/// while let Some(moment) = server.next(f64::INFINITY) {
///     if moment.phase == Phase::Start {
///         // What a cache says of request 7.
///         let needs = Needs { prefill_tokens: 100, output_tokens: 10, ..Needs::default() };
///         server.start(moment.request, needs)?;
///     }
/// }
/// assert!((server.now() - (2.0 + 0.05 + 100.0 * 5.16644e-3 + 9.0 * 0.05)).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    prefill: PrefillCost,
    decode: DecodeCost,
    now: f64,
    slots: Vec<Option<Active>>,
    free: Vec<usize>,
    waiting: BinaryHeap<Waiting>,
    /// By context that has a request admitted and not done: its later ones.
    held: HashMap<u32, VecDeque<Waiting>>,
    storage: Resource,
    device: Resource,
    decoding: Decoding,
    moments: VecDeque<Moment>,
    /// Requests admitted and writes begun so far.
    arrivals: u64,
    busy: Busy,
}

/// What ends next.
#[derive(Clone, Copy)]
enum Ending {
    Storage,
    Device,
    Decoding,
}

impl Server {
    /// An idle server at 0 s, which serves so many requests at a time, at least one.
    #[must_use]
    pub fn new(machine: &Calibration, slots: usize) -> Self {
        let slots = slots.max(1);
        Self {
            prefill: machine.prefill,
            decode: machine.decode,
            now: 0.0,
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            waiting: BinaryHeap::new(),
            held: HashMap::new(),
            storage: Resource::default(),
            device: Resource::default(),
            decoding: Decoding::default(),
            moments: VecDeque::new(),
            arrivals: 0,
            busy: Busy::default(),
        }
    }

    /// The time, in seconds: of the last moment, or else that to which [`Server::next`] found no more.
    #[must_use]
    pub const fn now(&self) -> f64 {
        self.now
    }

    /// What was in use so far.
    #[must_use]
    pub const fn busy(&self) -> Busy {
        self.busy
    }

    /// Requests that were admitted and have no slot yet, those among them that wait for their context.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.waiting.len() + self.held.values().map(VecDeque::len).sum::<usize>()
    }

    /// Admits a request at a time to which [`Server::next`] was taken until it returned `None`. Of those that wait for a
    /// slot, for the storage or for the device, the least `urgency` is next, and of equals the first admitted: the same for
    /// all is first come, first served, and 0 for apps in the foreground and 1 for others puts the foreground first, for
    /// whatever time the others then wait. A request waits, too, until the one before it of the same context is done.
    ///
    /// # Errors
    /// If it is another time.
    pub fn admit(&mut self, at: f64, request: u64, context: u32, urgency: u8) -> Result<(), ServerError> {
        if at != self.now {
            return Err(ServerError::NotNow { at, now: self.now });
        }
        let rank = self.rank(urgency);
        let waiting = Waiting { rank, request, context };
        match self.held.entry(context) {
            Entry::Occupied(mut behind) => behind.get_mut().push_back(waiting),
            Entry::Vacant(first) => {
                first.insert(VecDeque::new());
                self.waiting.push(waiting);
            }
        }
        Ok(())
    }

    /// Says what a request needs whose [`Phase::Start`] has come, or that is ready and asks again. It may be said later than
    /// at once, as when another must release memory first; until then the request holds its slot.
    ///
    /// # Errors
    /// If it does not wait for this, or the needs are no times.
    pub fn start(&mut self, request: u64, needs: Needs) -> Result<(), ServerError> {
        for (field, seconds) in [
            ("load_seconds", needs.load_seconds),
            ("read_seconds", needs.read_seconds),
            ("recompute_seconds", needs.recompute_seconds),
        ] {
            check_time(field, seconds)?;
        }
        let starting = |active: &Active| active.waiting.request == request && active.needs.is_none();
        let slot = self.slots.iter().position(|slot| slot.as_ref().is_some_and(starting));
        let slot = slot.ok_or(ServerError::NotStarting(request))?;
        if let Some(active) = &mut self.slots[slot] {
            active.needs = Some(needs);
        }
        match needs.load_seconds > 0.0 {
            true => self.queue(slot, Work::Load, needs.load_seconds),
            false => self.loaded(slot),
        }
        Ok(())
    }

    /// Keeps the storage busy for so many seconds, when no request wants it: writing, and reading ahead. Its end is told as
    /// [`Phase::Background`] under the number given.
    ///
    /// # Errors
    /// If the seconds are no time.
    pub fn background(&mut self, number: u64, seconds: f64) -> Result<(), ServerError> {
        check_time("background", seconds)?;
        let rank = self.rank(u8::MAX);
        self.storage.line.push(Job { rank, slot: 0, seconds, work: Work::Background(number) });
        Ok(())
    }

    /// The next moment up to a time. If there is none, time goes on to it, where new requests can be admitted;
    /// `f64::INFINITY` goes on until all is done.
    pub fn next(&mut self, limit: f64) -> Option<Moment> {
        loop {
            if let Some(moment) = self.moments.pop_front() {
                return Some(moment);
            }
            if let Some(moment) = self.give_slot() {
                return Some(moment);
            }
            self.storage.begin(self.now);
            self.device.begin(self.now);
            match self.next_ending() {
                Some((end, what)) if end <= limit => {
                    self.pass(end);
                    self.end(what);
                }
                _ => {
                    if limit.is_finite() && limit > self.now {
                        self.pass(limit);
                    }
                    return None;
                }
            }
        }
    }

    fn rank(&mut self, urgency: u8) -> Rank {
        self.arrivals += 1;
        Rank { urgency, arrival: self.arrivals }
    }

    fn give_slot(&mut self) -> Option<Moment> {
        let slot = *self.free.last()?;
        let waiting = self.waiting.pop()?;
        self.free.pop();
        self.slots[slot] = Some(Active { waiting, needs: None, missing: 0 });
        Some(Moment { at: self.now, request: waiting.request, phase: Phase::Start })
    }

    /// What ends first, and when.
    fn next_ending(&self) -> Option<(f64, Ending)> {
        // Rows advance only while nothing has the device for itself.
        let rows = match self.device.end() {
            Some(_) => None,
            None => self.decoding.end(self.now, self.decode),
        };
        let ends = [
            (self.storage.end(), Ending::Storage),
            (self.device.end(), Ending::Device),
            (rows, Ending::Decoding),
        ];
        ends.into_iter().filter_map(|(end, what)| Some((end?, what))).min_by(|(a, _), (b, _)| a.total_cmp(b))
    }

    /// Lets time go on, within which nothing ends.
    fn pass(&mut self, until: f64) {
        let seconds = until - self.now;
        if self.storage.end().is_some() {
            self.busy.storage += seconds;
        }
        if self.device.end().is_some() {
            self.busy.prefill += seconds;
        } else if self.decoding.rows() > 0 {
            self.busy.decode += seconds;
            self.decoding.advance(seconds, self.decode);
        }
        self.now = until;
    }

    fn end(&mut self, what: Ending) {
        match what {
            Ending::Storage => {
                if let Some(job) = self.storage.finish() {
                    self.finished(job);
                }
            }
            Ending::Device => {
                if let Some(job) = self.device.finish() {
                    self.finished(job);
                }
            }
            Ending::Decoding => {
                if let Some(slot) = self.decoding.finish() {
                    self.done(slot);
                }
            }
        }
    }

    fn finished(&mut self, job: Job) {
        match job.work {
            Work::Background(number) => {
                self.moments.push_back(Moment { at: self.now, request: number, phase: Phase::Background });
            }
            Work::Load => self.loaded(job.slot),
            Work::Read | Work::Recompute => {
                let missing = self.slots[job.slot].as_mut().map_or(0, |active| {
                    active.missing -= 1;
                    active.missing
                });
                if missing == 0 {
                    self.ready(job.slot);
                }
            }
            Work::Prefill => self.first_token(job.slot),
        }
    }

    /// Needs and rank of what is in a slot.
    fn needs(&self, slot: usize) -> (Needs, Rank) {
        let active = self.slots[slot].as_ref();
        active.map_or_else(Default::default, |active| (active.needs.unwrap_or_default(), active.waiting.rank))
    }

    fn queue(&mut self, slot: usize, work: Work, seconds: f64) {
        let (_, rank) = self.needs(slot);
        let resource = match work {
            Work::Load | Work::Read | Work::Background(_) => &mut self.storage,
            Work::Recompute | Work::Prefill => &mut self.device,
        };
        resource.line.push(Job { rank, slot, seconds, work });
    }

    fn loaded(&mut self, slot: usize) {
        let (needs, _) = self.needs(slot);
        let parts = [(Work::Read, needs.read_seconds), (Work::Recompute, needs.recompute_seconds)];
        let mut missing = 0;
        for (work, seconds) in parts.into_iter().filter(|(_, seconds)| *seconds > 0.0) {
            missing += 1;
            self.queue(slot, work, seconds);
        }
        if let Some(active) = &mut self.slots[slot] {
            active.missing = missing;
        }
        if missing == 0 {
            self.ready(slot);
        }
    }

    fn ready(&mut self, slot: usize) {
        self.tell(slot, Phase::Ready);
        let (needs, _) = self.needs(slot);
        if needs.asks_again {
            if let Some(active) = &mut self.slots[slot] {
                active.needs = None;
            }
            return;
        }
        match self.prefill.seconds(needs.prefill_tokens, needs.context_tokens) {
            seconds if seconds > 0.0 => self.queue(slot, Work::Prefill, seconds),
            _ => self.first_token(slot),
        }
    }

    fn first_token(&mut self, slot: usize) {
        self.tell(slot, Phase::FirstToken);
        let (needs, rank) = self.needs(slot);
        match needs.output_tokens {
            0 | 1 => self.done(slot),
            tokens => self.decoding.join(tokens - 1, rank, slot),
        }
    }

    fn done(&mut self, slot: usize) {
        self.tell(slot, Phase::Done);
        self.free.push(slot);
        let Some(Active { waiting: Waiting { context, .. }, .. }) = self.slots[slot].take() else { return };
        if let Entry::Occupied(mut behind) = self.held.entry(context) {
            match behind.get_mut().pop_front() {
                Some(next) => self.waiting.push(next),
                None => drop(behind.remove()),
            }
        }
    }

    fn tell(&mut self, slot: usize, phase: Phase) {
        if let Some(active) = &self.slots[slot] {
            self.moments.push_back(Moment { at: self.now, request: active.waiting.request, phase });
        }
    }
}

/// Refuses what is no time.
fn check_time(field: &'static str, seconds: f64) -> Result<(), ServerError> {
    match seconds.is_finite() && seconds >= 0.0 {
        true => Ok(()),
        false => Err(ServerError::NoTime { field, seconds }),
    }
}
