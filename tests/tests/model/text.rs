//! The tokenizer and chat-template cases of the golden set, all of them.

use interleaf_runtime::{BackendChoice, ChatMessage};
use serde_json::Value;

use crate::support::{data, demo, options};

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

#[test]
fn every_golden_case_is_equal() {
    let text =
        std::fs::read_to_string(data("tiny-rust-llama-golden/tokenizer.json")).expect("the golden is here");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let engine = demo(&options(BackendChoice::Cpu));
    let tokenizer = engine.tokenizer("a test").expect("the demo model has one");
    let encode = golden["encode"].as_array().expect("cases");
    assert!(encode.len() >= 8);
    for case in encode {
        let text = case["text"].as_str().expect("text");
        assert_eq!(tokenizer.encode(text, true).expect("encodes"), ids(&case["ids"]), "{text:?}");
        let plain = ids(&case["ids_without_special"]);
        assert_eq!(tokenizer.encode(text, false).expect("encodes"), plain, "{text:?}");
        let decoded = case["decoded"].as_str().expect("text");
        assert_eq!(tokenizer.decode(&plain, false).expect("decodes"), decoded);
        let mut stream = tokenizer.stream(false);
        let mut streamed: String = plain.iter().map(|&id| stream.push(id).expect("streams")).collect();
        streamed.push_str(&stream.finish().expect("ends"));
        assert_eq!(streamed, decoded);
    }
    let chat = golden["chat"].as_array().expect("cases");
    assert!(!chat.is_empty());
    let template = engine.chat_template().expect("the demo model has one");
    for case in chat {
        let messages: Vec<ChatMessage> = case["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|m| {
                ChatMessage::new(m["role"].as_str().expect("a role"), m["content"].as_str().expect("content"))
            })
            .collect();
        let prompt = case["add_generation_prompt"].as_bool().expect("a flag");
        let rendered = template.render(&messages, prompt).expect("renders");
        assert_eq!(rendered, case["text"].as_str().expect("text"));
    }
}
