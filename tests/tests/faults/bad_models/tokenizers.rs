//! Tokenizers and chat templates that do not fit, or are none.

use interleaf_runtime::WeightFormat;
use serde_json::json;

use super::{are_refused, open, sound};

#[test]
fn tokenizers_that_do_not_fit() {
    // Every token of the vocabulary, and one more than the embedding has rows.
    let vocab =
        |tokens: usize| (0..tokens).map(|i| (format!("t{i}"), json!(i))).collect::<serde_json::Map<_, _>>();
    let tokenizer = |tokens| {
        let model = json!({"type": "WordLevel", "vocab": vocab(tokens), "unk_token": "t0"});
        sound().write().file("tokenizer.json", json!({"version": "1.0", "model": model}).to_string())
    };
    drop(open(tokenizer(512).source(), WeightFormat::Stored).expect("as many tokens as rows"));
    are_refused(|| {
        vec![
            (
                "a token too many",
                tokenizer(513),
                vec!["tokenizer.json", "\"t512\" is number 512", "512 rows"],
            ),
            (
                "no tokenizer",
                sound().write().file("tokenizer.json", "[]"),
                vec!["tokenizer.json", "tokenizer: "],
            ),
            ("an empty file", sound().write().file("tokenizer.json", ""), vec!["tokenizer.json", "not JSON"]),
            (
                "a tokenizer cut short",
                sound().write().file("tokenizer.json", "{\"version\": \"1.0\""),
                vec!["tokenizer.json", "not JSON"],
            ),
            (
                "a template that is none",
                sound().write().file("chat_template.jinja", "{% if %}"),
                vec!["chat_template.jinja", "chat template: "],
            ),
        ]
    });
}
