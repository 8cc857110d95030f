//! Spans and events of `tracing` as those of a trace.

use std::fmt::Debug;
use std::sync::Arc;

use interleaf_runtime::KERNELS;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::trace::Trace;

/// Writes them down.
pub struct Spans(pub Arc<Trace>);

/// Fields by name.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            self.0.begin(span.name());
        }
    }

    fn on_exit(&self, id: &Id, ctx: Context<'_, S>) {
        // By now all fields have what they will have.
        if let Some(span) = ctx.span(id) {
            let fields = span.extensions().get::<Fields>().map(|fields| fields.0.clone());
            self.0.end(span.name(), fields.unwrap_or_default());
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if event.metadata().target() != KERNELS {
            let message = fields.0.get("message").and_then(Value::as_str).unwrap_or("event").to_owned();
            return self.0.instant(&message, fields.0);
        }
        let kernel = fields.0.get("kernel").and_then(Value::as_str).map(str::to_owned);
        if let (Some(kernel), Some(ago), Some(took)) =
            (kernel, fields.number("ago_us"), fields.number("took_us"))
        {
            let dispatches = fields.0.remove("dispatches").into_iter();
            let arguments = dispatches.map(|count| ("dispatches".to_owned(), count)).collect();
            self.0.kernel(&kernel, ago, took, arguments);
        }
    }
}
