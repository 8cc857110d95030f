//! `interleaf chat`, with its lines from a pipe.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Nothing is kept between tests.
fn interleaf() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.env("INTERLEAF_STORE", concat!(env!("CARGO_TARGET_TMPDIR"), "/chat"));
    command
}

fn chat(args: &[&str], lines: &str) -> Output {
    let mut child = interleaf()
        .arg("chat")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// What it printed and what it told on the side, of a chat that ended with a code.
fn ended(code: i32, args: &[&str], lines: &str) -> (String, String) {
    let output = chat(args, lines);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{err}");
    (out, err)
}

/// The same of one that ended well.
fn said(args: &[&str], lines: &str) -> (String, String) {
    ended(0, args, lines)
}

/// The rows of `/stats` that begin so.
fn rows<'a>(out: &'a str, name: &str) -> Vec<&'a str> {
    out.lines().filter(|line| line.starts_with(name)).collect()
}

const SHORT: [&str; 2] = ["--max-tokens", "12"];

#[test]
fn history_is_reused_and_the_stats_show_it() {
    let lines = "What is ownership?\n/stats\nAnd borrowing?\n/stats\n/adapter rust-code\nAgain?\n/stats\n";
    let (out, err) = said(&SHORT, lines);
    let prompts = rows(&out, "last prompt");
    assert_eq!(prompts.len(), 3, "{out}");
    assert!(prompts[0].contains(" 0 from the KV cache"), "{}", prompts[0]);
    let reused = |row: &str| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "from").expect("a count before it");
        words[at - 1].parse::<usize>().expect("a count")
    };
    assert!(reused(prompts[1]) > 11, "the first turn and its answer: {}", prompts[1]);
    assert_eq!(reused(prompts[2]), 0, "another adapter: {}", prompts[2]);
    assert!(err.contains("rust-code answers from now on"), "{err}");
    assert!(rows(&out, "last adapter")[2].contains("rust-code, on every token"), "{out}");
}

#[test]
fn the_stats_show_how_keys_of_encoded_pages_were_read() {
    for (keys, read) in
        [("in-place", "1 read in place, 0 materialised"), ("materialised", "0 read in place, 1 mat")]
    {
        let args = [&SHORT[..], &["--drift", "1e-2", "--backend", "cpu", "--keys", keys]].concat();
        let (out, _) = said(&args, "What is ownership?\n/stats\nAnd borrowing?\n/stats\n");
        let rows = rows(&out, "last keys");
        assert!(rows.len() == 1 && rows[0].contains(read) && rows[0].ends_with("as asked for"), "{out}");
    }
}

#[test]
fn a_chat_of_one_turn_is_a_generate() {
    let prompt = "What does the method do?";
    let args = ["--system", "Be brief.", "--max-tokens", "12"];
    let (out, _) = said(&args, &format!("{prompt}\n"));
    let generate =
        interleaf().args(["generate", "--prompt", prompt]).args(args).output().expect("the binary starts");
    assert_eq!(out.trim_end(), String::from_utf8(generate.stdout).expect("UTF-8").trim_end());
}

#[test]
fn a_reset_begins_anew_and_a_refusal_changes_nothing() {
    let ask = "What is a trait?\n";
    let (first, _) = said(&SHORT, ask);
    let lines = format!("/adapter nobody\n/nonsense\n{ask}/reset\n/stats\n{ask}");
    let (out, err) = ended(2, &SHORT, &lines);
    assert!(out.starts_with(&first) && out.ends_with(&first), "{out}");
    assert!(rows(&out, "KV cache")[0].contains(" 0 of this conversation's tokens; 0 B of "), "{out}");
    assert!(
        err.contains("no adapter named \"nobody\"") && err.contains("/nonsense: no such command"),
        "{err}"
    );
}

#[test]
fn a_full_context_is_told_and_the_chat_goes_on() {
    let long = "word ".repeat(200);
    let ask = "What is a trait?\n";
    let (out, err) = ended(2, &["--max-tokens", "4", "--context", "64"], &format!("{long}\n{ask}"));
    assert!(err.contains("the context is full") && err.contains("/reset"), "{err}");
    let (alone, _) = said(&["--max-tokens", "4", "--context", "64"], ask);
    assert_eq!(out, alone, "the refused words are not in the conversation");
}

#[test]
fn a_model_without_a_chat_template_is_refused_at_once() {
    let family = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/families/qwen2");
    let output = chat(&["--model", family], "never read\n");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("chat template"), "{message}");
}

#[test]
fn lines_that_are_no_text_or_far_too_long_are_told() {
    let (alone, _) = said(&SHORT, "What is a trait?\n");
    let long = "x".repeat(8 << 20);
    let (out, err) = ended(2, &SHORT, &format!("{long}\nWhat is a trait?\n"));
    assert!(err.contains("the context is full") && out == alone, "{err}");
    let mut command = interleaf();
    command.arg("chat").args(SHORT).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
    let bytes = b"ab\xff\nWhat is a trait?\n";
    child.stdin.take().expect("a pipe").write_all(bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout)), (Some(2), alone.into()));
}

#[test]
fn what_rests_between_answers_needs_a_drift_budget() {
    let widths = ["--widths", "0.5", "--drift", "exact"];
    for args in [&["--at-rest"][..], &["--at-rest", "--drift", "exact"], &widths[..2], &widths] {
        let (_, err) = ended(2, args, "");
        assert!(err.contains("--drift"), "{err}");
    }
    let args = [&SHORT[..], &["--at-rest", "--drift", "1e-2", "--backend", "cpu"]].concat();
    let (out, _) = said(&args, "What is ownership?\nAnd borrowing?\n/stats\n");
    assert!(!rows(&out, "last prompt")[0].contains(" 0 from the KV cache"), "{out}");
}
