//! `interleaf service`, with its lines from scripts.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn service(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interleaf"));
    command.args(["service", "--backend", "cpu", "--context", "512"]).args(args).current_dir(folder);
    // What a test keeps it says itself.
    command.env_remove("INTERLEAF_STORE");
    command
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

/// What a script printed, and what it told on the side.
fn played(code: i32, folder: &Path, args: &[&str], script: &str) -> (String, String) {
    std::fs::write(folder.join("play.txt"), script).expect("a folder to write in");
    let output = service(folder, args).args(["--script", "play.txt"]).output().expect("the binary starts");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    (out, err)
}

fn done(script: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    played(0, folder.path(), &[], script).0
}

/// What a context answered, without the times of its ends.
fn said<'a>(out: &'a str, context: &str) -> Vec<&'a str> {
    let own = out.lines().filter_map(|line| line.strip_prefix(context)?.strip_prefix(' '));
    own.filter(|line| line.starts_with(['|', '=']))
        .map(|line| line.split("; first").next().unwrap_or(line))
        .collect()
}

/// Numbers of the end of each of a context's answers: its tokens, those of its prompt, and of these from the cache.
fn ends(out: &str, context: &str) -> Vec<[usize; 3]> {
    let ends = said(out, context).into_iter().filter(|line| line.starts_with('='));
    ends.map(|line| {
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
        let numbers: Vec<usize> = numbers.collect();
        [numbers[0], numbers[1], numbers[2]]
    })
    .collect()
}

#[test]
fn calls_of_many_apps_run_side_by_side_and_say_what_each_says_alone() {
    let calls = [
        "say a max 24 What is ownership?",
        "say b adapter rust-code max 24 What is borrowing?",
        "call c adapter api-docs max 24 temperature 0.8 seed 7 The method",
    ];
    let opened = "app mail\napp notes\nopen mail as a\nopen mail as b\nopen notes as c\n";
    let together = done(&format!("{opened}{}\n", calls.join("\n")));
    for (call, name) in calls.iter().zip(["a", "b", "c"]) {
        let alone = done(&format!("{opened}{call}\n"));
        assert_eq!(said(&together, name), said(&alone, name), "{call}");
        assert!((1..=24).contains(&ends(&together, name)[0][0]), "{together}");
    }
}

#[test]
fn a_killed_app_comes_back_to_its_contexts() {
    let out = done(
        "app mail\nopen mail as a\nsay a max 8 What is ownership?\nwait a\nsay a max 8 And borrowing?\nwait\n\
         state mail killed\nmemory\nrefused call a more\nrefused open mail\ncontexts\n\
         app mail\nsay a max 8 And lifetimes?\nwait\nsay a max 8 And traits?\nwait\nstats\n",
    );
    let ends = ends(&out, "a");
    assert_eq!(ends.len(), 4, "{out}");
    let [first, second, third, fourth] = [ends[0], ends[1], ends[2], ends[3]];
    assert_eq!(first[2], 0, "nothing was there: {out}");
    assert!(second[2] > first[1], "the first turn was: {out}");
    assert!(third[1] > second[1] && fourth[2] > third[1], "the conversation goes on: {out}");
    assert!(out.contains("  cached") && out.contains("  in use"), "{out}");
    let empty = |kind: &str| out.lines().any(|line| line.starts_with(kind) && line.ends_with("  0 B"));
    assert!(empty("  in use") && empty("  cached"), "a killed app leaves memory: {out}");
    assert_eq!(out.matches("refused: the app \"mail\" was killed").count(), 2, "{out}");
    assert!(out.contains("a        mail  killed"), "{out}");
    assert!(out.contains("4, 0 of them cancelled"), "{out}");
}

#[test]
fn the_script_of_the_readme_runs() {
    let readme = include_str!("../../../README.md");
    let (_, script) = readme.split_once("```text\napp mail\n").expect("it has one");
    let (script, _) = script.split_once("```").expect("it ends");
    let out = done(&format!("app mail\n{script}"));
    let letters = ends(&out, "letter");
    assert!(letters.len() == 3 && ends(&out, "list").len() == 1, "{out}");
    assert!(letters[1][2] > letters[0][1], "the first turn was in the cache: {out}");
    assert!(out.contains("(cancelled)"), "{out}");
}

#[test]
fn a_salt_turns_sharing_off() {
    let say = |app: &str, salt: &str| {
        format!("app {app}{salt}\nopen {app} as {app}\nsay {app} max 4 What is ownership?\nwait\n")
    };
    let salt = " salt 000102030405060708090a0b0c0d0e0f";
    let out = done(&[say("one", ""), say("two", ""), say("own", salt)].concat());
    assert!(ends(&out, "two")[0][2] > 0, "{out}");
    assert_eq!(ends(&out, "own")[0][2], 0, "{out}");
    assert_eq!(said(&out, "two")[0], said(&out, "own")[0]);
}

#[test]
fn calls_are_cancelled_and_memory_comes_back() {
    let out = done(
        "app mail\nopen mail as a\ncancel a\nsay a max 400 What is ownership?\nsleep 50\n\
         refused say a now\ncancel a\nwait a\nbudget 4MiB\ntrim warning\nmemory\nsuspend\nresume\n\
         say a max 400 Go on.\ndelete a\nrefused wait a\nrefused delete a\nopen mail as a\n\
         call a max 2 The\nwait\ncontexts\n",
    );
    let ends = ends(&out, "a");
    assert!(ends.len() == 3 && ends[0][0] < 400 && ends[1][0] < 400 && ends[2][0] == 2, "{out}");
    assert!(out.contains("(cancelled)") && out.contains("refused: context 1 is being called"), "{out}");
    assert!(out.contains("a: no answer is under way"), "{out}");
    assert_eq!(out.matches("refused: no context is called \"a\"").count(), 2, "{out}");
}

#[test]
fn what_fails_is_told_by_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    for (script, words) in [
        ("app mail\n\n# a remark\nsing\n", &["play.txt:4: sing: no such command"][..]),
        ("app mail salt 12\n", &["play.txt:1: app mail salt 12: expected a salt of 32", "\"12\""]),
        ("open mail\n", &["play.txt:1: open mail: no app \"mail\" has started", "`app mail`"]),
        ("app mail\nopen mail 9\n", &["play.txt:2: open mail 9: there is no context 9"]),
        ("app a\nopen a as x\nopen a as x\n", &["play.txt:3: open a as x: a context is called x already"]),
        (
            "app a\nopen a as x\ncall x temperature -1 y\n",
            &["play.txt:3: ", "temperature must be finite and at least 0"],
        ),
        // A call's failure is its line's, whenever it is seen.
        (
            "app a\nopen a as x\ncall x adapter nobody max 4 y\nwait\n",
            &["play.txt:3: call x adapter nobody max 4 y: no adapter named \"nobody\""],
        ),
        ("app a\nopen a as x\ncall x adapter nobody max 4 y", &["play.txt:3: ", "there are: api-docs, "]),
        ("app a\nrefused app b\n", &["play.txt:2: refused app b: expected it to be refused"]),
        ("app a\nopen a as x\nrefused call x max 2 y\n", &["play.txt:3: ", "expected it to be refused"]),
        ("register x no-such-folder\n", &["play.txt:1: register x no-such-folder: ", "adapter_config.json"]),
    ] {
        let (_, err) = played(2, folder.path(), &[], script);
        for word in words {
            assert!(err.contains(word), "{script:?}: {err:?} does not say {word:?}");
        }
    }
    let refused = "app a\nopen a as x\nrefused call x adapter nobody y\ncall x max 2 y\n";
    assert!(done(refused).contains("refused: no adapter named \"nobody\""));
    let output = service(folder.path(), &["--script", "none.txt"]).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(output.stderr).contains("none.txt: "), "a script that is not there");
}

#[test]
fn contexts_are_there_again_with_a_store_and_not_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ["--store", "kept"];
    let first = "app mail\nopen mail as a\ncall a max 8 The method\nwait\napp other\nopen other\n";
    played(0, folder.path(), &store, first);
    let again = "app mail\ncontexts\nopen mail 1 as b\nrefused say b What?\ncall b max 8  and\nwait\ndelete b\n\
                 refused open mail 2\n";
    let (out, err) = played(0, folder.path(), &store, again);
    assert!(err.contains("2 contexts are there again"), "{err}");
    let kept = out.lines().find_map(|line| line.strip_prefix("mail.1: ")).expect("it is listed");
    let tokens: usize = kept.split(' ').next().and_then(|tokens| tokens.parse().ok()).expect("a count");
    assert!(tokens > 8 && ends(&out, "b")[0][1] > tokens, "{out}");
    assert!(out.contains("refused: b has text that is not known turn by turn"), "{out}");
    assert!(out.contains("refused: there is no context 2"), "another app's: {out}");
    let (_, err) = played(0, folder.path(), &store, "app mail\n");
    assert!(err.contains("1 context is there again"), "{err}");
    let (_, err) = played(0, folder.path(), &[], "app mail\n");
    assert!(!err.contains("again"), "{err}");
}

#[test]
fn lines_come_from_a_pipe_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let piped = |lines: &[u8]| -> Output {
        let mut command = service(folder.path(), &["--use", "rust-code", "--max-tokens", "4"]);
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("the binary starts");
        child.stdin.take().expect("a pipe").write_all(lines).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    let output = piped(b"help\napp a\nopen a as x\ncall x let\nwait\nadapters\nquit\nsing\n");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("state APP STATE") && out.contains("release-notes"), "{out}");
    assert!(!out.contains('\u{1b}'), "no escape codes: {out:?}");
    assert_eq!(ends(&out, "x")[0][0], 4);
    let output = piped(b"app \xff\n");
    assert_eq!(output.status.code(), Some(2));
    let err = text(output.stderr);
    assert!(err.contains("standard input:1: ") && err.contains("UTF-8"), "{err}");
}

#[test]
fn what_a_terminal_would_obey_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, err) = played(2, folder.path(), &[], "app \u{1b}[31mred\n");
    assert!(err.contains("without control characters") && !err.contains('\u{1b}'), "{out}{err}");
}
