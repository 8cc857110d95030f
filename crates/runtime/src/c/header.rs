//! Whether the header and what is here agree: functions, structs and numbers, by their names and types, in their order.

use std::collections::BTreeMap;

use super::choices::{
    APP_STATES, BACKENDS, Bits, CALL_FLAGS, Choices, OPEN_FLAGS, TRIM_LEVELS, WEIGHTS, finish,
};
use super::generation::Kind;
use super::status::Status;
use crate::FinishReason;

const HEADER: &str = include_str!("../../include/interleaf.h");

const SOURCES: [&str; 6] = [
    include_str!("failure.rs"),
    include_str!("service.rs"),
    include_str!("app.rs"),
    include_str!("call.rs"),
    include_str!("generation.rs"),
    include_str!("records.rs"),
];

/// What the header's structs and handles are called here.
const NAMES: [(&str, &str); 14] = [
    ("interleaf_open_options", "OpenOptions"),
    ("interleaf_restored", "RestoredContexts"),
    ("interleaf_adapter", "AdapterFacts"),
    ("interleaf_memory", "MemoryBytes"),
    ("interleaf_stats", "Stats"),
    ("interleaf_logit_bias", "LogitBias"),
    ("interleaf_call_options", "CallSettings"),
    ("interleaf_message", "Message"),
    ("interleaf_event", "Event"),
    ("interleaf_answer", "AnswerFacts"),
    ("interleaf_service", "Service"),
    ("interleaf_app", "App"),
    ("interleaf_context", "Context"),
    ("interleaf_generation", "Answering"),
];

const NUMBERS: [(&str, &str); 9] = [
    ("interleaf_status", "i32"),
    ("uint8_t", "u8"),
    ("int32_t", "i32"),
    ("uint32_t", "u32"),
    ("int64_t", "i64"),
    ("uint64_t", "u64"),
    ("size_t", "usize"),
    ("float", "f32"),
    ("double", "f64"),
];

/// The header without comments, preprocessor lines and line breaks.
fn declarations() -> String {
    let mut text = String::new();
    let mut rest = HEADER;
    while let Some((before, after)) = rest.split_once("/*") {
        text.push_str(before);
        rest = after.split_once("*/").expect("a comment ends").1;
    }
    text.push_str(rest);
    let mut is_continued = false;
    let is_c = |line: &&str| {
        let is_preprocessors = is_continued || line.starts_with('#');
        is_continued = is_preprocessors && line.ends_with('\\');
        !is_preprocessors
    };
    text.lines().filter(is_c).collect::<Vec<_>>().join(" ").replace("extern \"C\" {", "")
}

/// A name and its type, of `uint32_t size` as of `size: u32`.
type Named = (String, String);

/// C's `const char *const *stops` as its name and the type that it has here in a struct, where pointers come in.
fn member(declaration: &str) -> Named {
    let (kind, name) = declaration.rsplit_once([' ', '*']).expect("a type and a name");
    let stars = &declaration[kind.len()..declaration.len() - name.len()];
    (name.into(), format!("{kind}{stars}").split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The header's type as those types of `raw` that may stand for it.
fn rust(c: &str) -> Vec<String> {
    let here = |name: &str| {
        let known = NUMBERS.iter().chain(&NAMES).find(|(c, _)| *c == name);
        known.map(|(_, rust)| (*rust).to_owned())
    };
    if let Some(number) = here(c) {
        return vec![number];
    }
    match c {
        "void" => return vec![String::new()],
        "const char *" => return ["Text", "Many<u8>", "*const c_char"].map(Into::into).into(),
        "const char *const *" => return vec!["Many<Text>".into()],
        _ => {}
    }
    let (target, is_const) = c.strip_prefix("const ").map_or((c, false), |target| (target, true));
    let levels = target.chars().filter(|at| *at == '*').count();
    let target = here(target.trim_end_matches(['*', ' '])).expect("a type that is known");
    match (levels, is_const) {
        (1, true) => ["Handle<T>", "In<T>", "Many<T>", "*const T"].map(|of| of.replace('T', &target)).into(),
        (1, false) => {
            ["Option<Box<T>>", "Fill<T>", "Row<T>", "Out<T>"].map(|of| of.replace('T', &target)).into()
        }
        (2, false) => vec![format!("Out<Option<Box<{target}>>>"), "Answer".into()],
        _ => panic!("no type here is for {c:?}"),
    }
}

fn assert_same(what: &str, c: &[Named], rust_members: &[Named]) {
    assert_eq!(c.len(), rust_members.len(), "{what}: {c:?} {rust_members:?}");
    for ((c_name, c_type), (rust_name, rust_type)) in c.iter().zip(rust_members) {
        assert_eq!(c_name, rust_name, "{what}");
        let may = rust(c_type);
        assert!(
            may.contains(rust_type),
            "{what}: {c_name} is {c_type}, and here {rust_type}, not of {may:?}"
        );
    }
}

/// `a: u32, b: Text,`.
fn rust_list(list: &str) -> Vec<Named> {
    let list = list.replace("pub ", "");
    let members = list.split(",").map(str::trim).filter(|member| !member.is_empty());
    let named = members.map(|member| member.split_once(": ").expect("a name and a type"));
    named.map(|(name, of)| (name.into(), of.into())).collect()
}

/// The functions: their parameters and, last, what they return.
fn c_functions() -> BTreeMap<String, Vec<Named>> {
    let text = declarations();
    let functions = text.split(';').filter(|at| at.contains('(') && !at.contains('{'));
    functions
        .map(|at| {
            let (head, parameters) = at.trim().trim_end_matches(')').split_once('(').expect("parameters");
            let (name, of) = member(head.trim().trim_start_matches('}').trim());
            let parameters = parameters.split(',').map(str::trim).filter(|at| *at != "void");
            (name, parameters.map(member).chain([("returned".into(), of)]).collect())
        })
        .collect()
}

fn rust_functions() -> BTreeMap<String, Vec<Named>> {
    let exported = SOURCES.iter().flat_map(|source| source.split("#[unsafe(no_mangle)]\n").skip(1));
    exported
        .map(|source| {
            let (_, source) = source.split_once("extern \"C\" fn ").expect("a function for C");
            let (name, source) = source.split_once('(').expect("parameters");
            let (parameters, source) = source.split_once(')').expect("they end");
            let (returned, _) = source.split_once('{').expect("a body");
            let of = returned.trim().trim_start_matches("-> ").to_owned();
            let parameters = rust_list(&parameters.replace('\n', " "));
            (name.into(), parameters.into_iter().chain([("returned".into(), of)]).collect())
        })
        .collect()
}

#[test]
fn functions_take_and_return_the_same() {
    let (c, here) = (c_functions(), rust_functions());
    assert_eq!(c.keys().collect::<Vec<_>>(), here.keys().collect::<Vec<_>>());
    assert!(c.len() > 30, "they were found: {}", c.len());
    for (name, parameters) in &c {
        assert_same(name, parameters, &here[name]);
    }
}

#[test]
fn structs_have_the_same_members() {
    let text = declarations();
    let structs = text.split("typedef struct ").skip(1).filter_map(|at| at.split_once(" {"));
    let mut found = 0;
    for (name, rest) in structs.filter(|(name, _)| !name.contains(';')) {
        let (body, _) = rest.split_once('}').expect("it ends");
        let members: Vec<Named> =
            body.split(';').map(str::trim).filter(|at| !at.is_empty()).map(member).collect();
        let (_, here) = NAMES.iter().find(|(c, _)| *c == name).expect("a struct that is known");
        let source = SOURCES[5].split_once(&format!("pub struct {here} {{")).expect("it is here").1;
        let own = rust_list(source.split_once('}').expect("it ends").0);
        assert_same(name, &members, &own);
        found += 1;
    }
    assert_eq!(found, 10);
}

/// All names of the header that have a number.
fn c_numbers() -> BTreeMap<String, i64> {
    let text = declarations();
    let bodies = text.split("enum {").skip(1).filter_map(|at| at.split_once('}'));
    let entries = bodies.flat_map(|(body, _)| body.split(','));
    let numbers = entries.filter_map(|entry| {
        let (name, number) = entry.split_once('=')?;
        Some((name.trim().to_owned(), number.trim().parse().expect("a number")))
    });
    numbers.collect()
}

#[test]
fn numbers_are_the_same() {
    fn chosen<T>(choices: &Choices<T>) -> impl Iterator<Item = (String, i64)> {
        choices.all.iter().zip(0..).map(|((name, _), number)| ((*name).to_owned(), number))
    }
    fn set(bits: &Bits) -> impl Iterator<Item = (String, i64)> {
        bits.0.iter().map(|(name, bit)| ((*name).to_owned(), (*bit).into()))
    }
    let statuses = Status::ALL.iter().map(|(status, name)| {
        let name = name.to_str().expect("ASCII").to_uppercase();
        (format!("INTERLEAF_{name}"), (*status as i32).into())
    });
    let reasons = [
        FinishReason::EndToken,
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::ContextFull,
        FinishReason::Cancelled,
        FinishReason::NotANumber,
        FinishReason::DeviceLost,
        FinishReason::OutOfMemory,
        FinishReason::DeviceFailed,
    ];
    let reasons = reasons.into_iter().map(|reason| {
        let name =
            if reason == FinishReason::EndToken { "END_TOKEN".into() } else { reason.name().to_uppercase() };
        (format!("INTERLEAF_FINISH_{name}"), finish(reason).into())
    });
    let events = [Kind::Pending, Kind::Prefill, Kind::Forgotten, Kind::Text, Kind::End, Kind::Adapter];
    let events = events.map(|kind| {
        (format!("INTERLEAF_EVENT_{}", format!("{kind:?}").to_uppercase()), (kind as i32).into())
    });
    let here: BTreeMap<String, i64> = statuses
        .chain(reasons)
        .chain(events)
        .chain(chosen(&BACKENDS))
        .chain(chosen(&WEIGHTS))
        .chain(chosen(&TRIM_LEVELS))
        .chain(chosen(&APP_STATES))
        .chain(set(&OPEN_FLAGS))
        .chain(set(&CALL_FLAGS))
        .collect();
    assert_eq!(c_numbers(), here);
    let abi = HEADER.lines().find_map(|line| line.strip_prefix("#define INTERLEAF_ABI "));
    assert_eq!(abi, Some(super::ABI.to_string().as_str()));
}
