//! `interleaf router eval`.

use std::process::ExitCode;

use interleaf_calibrate::{Evaluated, TOPS, Times, evaluate_router, tokens};
use serde::Serialize;

use super::percent;
use crate::args::RouterEvalArgs;
use crate::{CliError, load, output, table};

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    data: String,
    /// That were tested with.
    prompts: usize,
    ways: Vec<Way>,
    /// What best single always takes.
    single: String,
    /// What the bag of tokens counts.
    bag: String,
    labels: Vec<Label>,
    residents: Vec<Residents>,
    cost: Cost,
}

#[derive(Debug, Serialize)]
struct Way {
    way: &'static str,
    top: [f64; TOPS],
    loss: f64,
}

#[derive(Debug, Serialize)]
struct Label {
    label: String,
    prompts: usize,
    /// By label, in their order.
    chosen: Vec<usize>,
}

/// Means over all sets of so many resident adapters.
#[derive(Debug, Serialize)]
struct Residents {
    residents: usize,
    k: usize,
    right: f64,
    loaded: f64,
}

#[derive(Debug, Serialize)]
struct Cost {
    prompt_tokens: usize,
    scored_tokens: usize,
    prefill_ms: f64,
    route_ms: f64,
    /// The base's pass behind that.
    rest_ms: f64,
    head_ms: f64,
    /// What routing takes, of the base's own pass over the same prompts.
    share_of_prefill: f64,
    /// What both take together, where that pass goes on from the scored pages, of it alone.
    share_of_both: f64,
}

/// Measures a router.
pub fn run(args: &RouterEvalArgs) -> Result<ExitCode, CliError> {
    let (mut engine, prompts) = super::open(&args.data)?;
    let head = super::open_head(&mut engine, args.router.as_deref())?.clone();
    let longest = tokens(&engine, &prompts.test, head.origin.is_chat)?.iter().map(Vec::len).max();
    engine.reserve_kv(2, longest.unwrap_or(0).max(1).min(engine.context()))?;
    let found = evaluate_router(&mut engine, &head, &prompts)?;
    let report = report(load::model_name(args.data.model.as_deref()), prompts.data, found);
    match args.data.json {
        true => output::json(&report)?,
        false => report.lines().into_iter().try_for_each(output::line)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn report(model: String, data: String, found: Evaluated) -> Report {
    let Times { tokens, scored, prefill, route, rest, head } = found.times;
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let of_prefill =
        |time: std::time::Duration| time.as_secs_f64() / prefill.as_secs_f64().max(f64::MIN_POSITIVE);
    let way = |row: interleaf_calibrate::Row| Way { way: row.way, top: row.top, loss: row.loss };
    Report {
        model,
        data,
        prompts: found.prompts,
        ways: found.rows.into_iter().map(way).collect(),
        single: found.single,
        bag: found.bag.options,
        labels: found
            .labels
            .into_iter()
            .map(|row| Label { label: row.label, prompts: row.prompts, chosen: row.chosen })
            .collect(),
        residents: found
            .preferences
            .into_iter()
            .map(|row| Residents { residents: row.residents, k: row.k, right: row.right, loaded: row.loaded })
            .collect(),
        cost: Cost {
            prompt_tokens: tokens,
            scored_tokens: scored,
            prefill_ms: milliseconds(prefill),
            route_ms: milliseconds(route),
            rest_ms: milliseconds(rest),
            head_ms: milliseconds(head),
            share_of_prefill: of_prefill(route),
            share_of_both: of_prefill(route + rest),
        },
    }
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let mut lines =
            vec![format!("{}: {} prompts to test with, of {}", self.model, self.prompts, self.data)];
        lines.extend(self.ways());
        lines.push(format!("best single: {}; bag of tokens: {}", self.single, self.bag));
        lines.extend(["", "Of an adapter's prompts, those given to each:"].map(String::from));
        lines.extend(self.confusion());
        let of = "Of the k likeliest the first resident one is taken, else the likeliest is loaded; means over all sets of residents.";
        lines.extend(["", of, "Right, and loaded:"].map(String::from));
        lines.extend(self.preferences());
        let cost = &self.cost;
        lines.push(String::new());
        lines.push(format!(
            "Routing looks at {} of {} tokens and takes {:.1} ms, the head {:.2} ms of it: {} of the base's pass over them ({:.1} ms). \
             Both together take {} of that pass, which goes on from the pages.",
            cost.scored_tokens,
            cost.prompt_tokens,
            cost.route_ms,
            cost.head_ms,
            percent(cost.share_of_prefill),
            cost.prefill_ms,
            percent(cost.share_of_both)
        ));
        lines
    }

    fn ways(&self) -> Vec<String> {
        let columns = [
            ("chosen by", table::Align::Left),
            ("top 1", table::Align::Right),
            ("top 2", table::Align::Right),
            ("top 3", table::Align::Right),
            ("loss, nats", table::Align::Right),
        ];
        let row = |way: &Way| {
            let tops = way.top.iter().map(|share| percent(*share));
            [way.way.into()].into_iter().chain(tops).chain([format!("{:.4}", way.loss)]).collect()
        };
        table::render(&columns, &self.ways.iter().map(row).collect::<Vec<_>>())
    }

    fn confusion(&self) -> Vec<String> {
        let mut columns = vec![("adapter", table::Align::Left), ("right", table::Align::Right)];
        columns.extend(self.labels.iter().map(|label| (label.label.as_str(), table::Align::Right)));
        let row = |(place, label): (usize, &Label)| {
            let right = label.chosen[place] as f64 / label.prompts.max(1) as f64;
            let counts = label.chosen.iter().map(ToString::to_string);
            [label.label.clone(), percent(right)].into_iter().chain(counts).collect()
        };
        table::render(&columns, &self.labels.iter().enumerate().map(row).collect::<Vec<_>>())
    }

    fn preferences(&self) -> Vec<String> {
        let most = self.labels.len();
        let headings: Vec<String> = (1..=most).map(|k| format!("k = {k}")).collect();
        let mut columns = vec![("resident", table::Align::Right)];
        columns.extend(headings.iter().map(|heading| (heading.as_str(), table::Align::Right)));
        let row = |row: &[Residents]| {
            let cells = row.iter().map(|cell| format!("{}, {}", percent(cell.right), percent(cell.loaded)));
            [format!("{} of {most}", row[0].residents)].into_iter().chain(cells).collect()
        };
        table::render(&columns, &self.residents.chunks_exact(most.max(1)).map(row).collect::<Vec<_>>())
    }
}
