//! A workload: a file's settings, checked, and the events that are drawn from them. Each kind has its settings and its
//! generator in the module of the paper that it is from.

mod edgelora;
mod elora;
mod llms;
mod mobilora;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;
use toml::Table;

use crate::adapters::{AdapterSet, AdapterShape};
use crate::error::SettingsError;
use crate::event::{Event, What};
use crate::file::File;
use crate::machine::ModelShape;
use crate::values::Positive;

/// The workloads that are built in: a name and a file.
const EMBEDDED: [(&str, &str); 4] = [
    ("llms", include_str!("../../../../benches/workloads/llms.toml")),
    ("edgelora", include_str!("../../../../benches/workloads/edgelora.toml")),
    ("elora", include_str!("../../../../benches/workloads/elora.toml")),
    ("mobilora", include_str!("../../../../benches/workloads/mobilora.toml")),
];

/// A workload.
#[derive(Debug, Clone)]
pub struct Workload {
    name: String,
    file: File,
    settings: Settings,
    requests: Requests,
}

/// What every workload's file has.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    kind: Kind,
    /// Seconds that the paper's run took.
    seconds: Positive,
    /// Tokens that a context may have, its answers among them.
    context_limit: NonZeroU32,
    /// Without any, the base model answers all.
    adapters: Option<AdapterSet>,
    /// The kind's own.
    requests: Table,
}

/// Which generator.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Llms,
    EdgeLora,
    Elora,
    MobiLora,
}

/// A kind's own settings.
#[derive(Debug, Clone)]
enum Requests {
    Llms(llms::Settings),
    EdgeLora(edgelora::Settings),
    Elora(elora::Settings),
    MobiLora(mobilora::Settings),
}

impl Workload {
    /// The names of the workloads that are built in, those of their variants among them: `llms`, `llms/markov`.
    #[must_use]
    pub fn names() -> Vec<String> {
        let mut names = Vec::new();
        for (name, text) in EMBEDDED {
            // What is built in is lawful, which a test holds it to.
            for (variant, _) in File::read(name, text).unwrap_or_default() {
                names.push(variant.map_or_else(|| name.to_owned(), |variant| format!("{name}/{variant}")));
            }
        }
        names
    }

    /// The workloads that names stand for ([`Workload::named`]), with commas between them; `all` is the four that are not
    /// variants.
    ///
    /// # Errors
    /// If none has one of these names.
    pub fn matching(names: &str) -> Result<Vec<Self>, SettingsError> {
        let all = EMBEDDED.iter().map(|(name, _)| *name);
        let names = names.split(',').flat_map(|name| match name {
            "all" => all.clone().collect(),
            name => vec![name],
        });
        names.map(Self::named).collect()
    }

    /// A workload that is built in, by its name or that of a variant ([`Workload::names`]).
    ///
    /// # Errors
    /// If none has this name.
    pub fn named(name: &str) -> Result<Self, SettingsError> {
        let (file, variant) = match name.split_once('/') {
            Some((file, variant)) => (file, Some(variant)),
            None => (name, None),
        };
        let found = EMBEDDED.iter().find(|(known, _)| *known == file);
        let (known, text) = found.ok_or_else(|| SettingsError::Unknown {
            what: "workload",
            name: name.to_owned(),
            known: Self::names().join(", "),
        })?;
        Ok(Self { name: name.to_owned(), ..Self::parse(&format!("{known}.toml"), text, variant)? })
    }

    /// A workload from a file, or a variant of it.
    ///
    /// # Errors
    /// If the file cannot be read, says what is refused, or has no such variant.
    pub fn load(path: &Path, variant: Option<&str>) -> Result<Self, SettingsError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Io { file: file.clone(), source })?;
        Self::parse(&file, &text, variant)
    }

    /// A workload from TOML, or a variant of it; `file` is what errors call it. All variants are checked, whichever is
    /// asked for.
    ///
    /// # Errors
    /// If it is no TOML, a field is missing, unknown, of another type or out of bounds, or there is no such variant.
    pub fn parse(file: &str, text: &str, variant: Option<&str>) -> Result<Self, SettingsError> {
        let mut wanted = None;
        let mut known = Vec::new();
        for (name, read) in File::read(file, text)? {
            let workload = Self::of(read)?;
            if name.as_deref() == variant {
                wanted = Some(workload);
            }
            known.extend(name);
        }
        wanted.ok_or_else(|| SettingsError::Unknown {
            what: "variant",
            name: variant.unwrap_or_default().to_owned(),
            known: known.join(", "),
        })
    }

    /// The same with some fields changed, which are given as TOML: `requests.rate = 2`.
    ///
    /// # Errors
    /// If the changes are no TOML, or make what is refused.
    pub fn with(&self, changes: &str) -> Result<Self, SettingsError> {
        Ok(Self { name: self.name.clone(), ..Self::of(self.file.with(changes)?)? })
    }

    fn of(file: File) -> Result<Self, SettingsError> {
        let settings: Settings = file.parse()?;
        let own = settings.requests.clone();
        let requests = match settings.kind {
            Kind::Llms => Requests::Llms(file.parse_part("requests", own)?),
            Kind::EdgeLora => Requests::EdgeLora(file.parse_part("requests", own)?),
            Kind::Elora => Requests::Elora(file.parse_part("requests", own)?),
            Kind::MobiLora => Requests::MobiLora(file.parse_part("requests", own)?),
        };
        let fault = settings.adapters.as_ref().and_then(AdapterSet::fault).or_else(|| match &requests {
            Requests::Llms(own) => own.fault(&settings),
            Requests::EdgeLora(own) => own.fault(&settings),
            Requests::Elora(own) => own.fault(&settings),
            Requests::MobiLora(own) => own.fault(&settings),
        });
        match fault {
            Some((place, reason)) => Err(file.refuse(place, reason)),
            None => Ok(Self { name: file.label.clone(), file, settings, requests }),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seconds that the paper's run took, or what stands for it where the paper does not say.
    #[must_use]
    pub const fn seconds(&self) -> f64 {
        self.settings.seconds.get()
    }

    /// Tokens that a context may have, its answers among them. No request goes beyond it.
    #[must_use]
    pub const fn context_limit(&self) -> u32 {
        self.settings.context_limit.get()
    }

    /// The adapters, over a model; none where the base model answers all.
    #[must_use]
    pub fn adapters(&self, model: &ModelShape) -> Vec<AdapterShape> {
        self.settings.adapters.as_ref().map(|set| set.shapes(model)).unwrap_or_default()
    }

    /// What happens, in the order of time and without end. The same seed gives the same events, on every platform.
    #[must_use]
    pub fn events(&self, seed: u64) -> Events {
        let source: Box<dyn Generator> = match &self.requests {
            Requests::Llms(own) => Box::new(own.generator(&self.settings, seed)),
            Requests::EdgeLora(own) => Box::new(own.generator(&self.settings, seed)),
            Requests::Elora(own) => Box::new(own.generator(&self.settings, seed)),
            Requests::MobiLora(own) => Box::new(own.generator(&self.settings, seed)),
        };
        Events { source, ready: VecDeque::new(), left: None, until: f64::INFINITY }
    }
}

impl Settings {
    /// How many adapters there are.
    fn adapter_count(&self) -> Option<u32> {
        self.adapters.as_ref().map(|set| set.count.get())
    }

    /// The fault of a request whose longest form does not fit into a context.
    fn too_long(&self, field: &'static str, tokens: u64) -> Option<(&'static str, String)> {
        let limit = u64::from(self.context_limit.get());
        (tokens > limit).then(|| {
            (field, format!("up to {tokens} tokens in one request, expected at most context_limit, {limit}"))
        })
    }

    /// The fault of a workload that needs adapters and has none.
    fn no_adapters(&self) -> Option<(&'static str, String)> {
        self.adapters.is_none().then(|| ("adapters", "missing, expected the adapters that answer".to_owned()))
    }
}

/// What draws events.
trait Generator: Send {
    /// Adds at least one request, and what happens before it, in the order of time.
    fn step(&mut self, events: &mut VecDeque<Event>);
}

/// What happens in a workload, in the order of time.
pub struct Events {
    source: Box<dyn Generator>,
    ready: VecDeque<Event>,
    /// Requests that are still to come, if there is an end.
    left: Option<u64>,
    until: f64,
}

impl Events {
    /// Ends with the request that is this many from here.
    #[must_use]
    pub fn requests(self, count: u64) -> Self {
        Self { left: Some(count), ..self }
    }

    /// Ends before the first event after a time, in seconds from the start.
    #[must_use]
    pub fn until(self, seconds: f64) -> Self {
        Self { until: seconds, ..self }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.left == Some(0) {
            return None;
        }
        while self.ready.is_empty() {
            self.source.step(&mut self.ready);
        }
        let event = self.ready.pop_front().filter(|event| event.at <= self.until);
        match (&event, &mut self.left) {
            (None, left) => *left = Some(0),
            (Some(Event { what: What::Request(_), .. }), Some(left)) => *left -= 1,
            _ => {}
        }
        event
    }
}
