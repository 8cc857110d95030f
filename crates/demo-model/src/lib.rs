//! A small trained model and six LoRA adapters for it, embedded, so that the first command needs no
//! download. Bytes only: reading them is `interleaf-model`'s.

/// A file's name and its bytes.
pub type File = (&'static str, &'static [u8]);

/// Starts on a 64-byte border, so that tensors in an embedded file are as aligned as in a mapped one.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

macro_rules! embed {
    ($($part:literal),+) => {{
        static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!("../files/", $($part),+)));
        &FILE.0
    }};
}

macro_rules! adapter {
    ($name:literal) => {
        (
            $name,
            &[
                ("adapter_config.json", embed!("adapters/", $name, "/adapter_config.json")),
                ("adapter_model.safetensors", embed!("adapters/", $name, "/adapter_model.safetensors")),
            ],
        )
    };
}

/// The model's name.
pub const NAME: &str = "tiny-rust-llama";

/// The base model as a Hugging Face folder: 5.8 million parameters, Llama architecture, f16.
pub static BASE: &[File] = &[
    ("config.json", embed!("base/config.json")),
    ("generation_config.json", embed!("base/generation_config.json")),
    ("model.safetensors", embed!("base/model.safetensors")),
    ("tokenizer.json", embed!("base/tokenizer.json")),
    ("tokenizer_config.json", embed!("base/tokenizer_config.json")),
    ("chat_template.jinja", embed!("base/chat_template.jinja")),
];

/// The adapters as PEFT folders, by name.
pub static ADAPTERS: &[(&str, &[File])] = &[
    adapter!("book-prose"),
    adapter!("rust-code"),
    adapter!("error-codes"),
    adapter!("cargo-toml"),
    adapter!("api-docs"),
    adapter!("release-notes"),
];

macro_rules! windows {
    ($name:literal) => {
        ($name, embed!("calib/", $name, ".safetensors"))
    };
}

/// What each adapter is calibrated on: a safetensors file with `input_ids`, windows × 512 tokens, of which the first half are
/// of the adapter's own domain and the others of all. Of pages that were trained on.
pub static CALIBRATION: &[File] = &[
    windows!("book-prose"),
    windows!("rust-code"),
    windows!("error-codes"),
    windows!("cargo-toml"),
    windows!("api-docs"),
    windows!("release-notes"),
];

/// A text of all domains, to calibrate adapters of other models on.
pub static MIXED_TEXT: &[u8] = embed!("calib/mixed.txt");

/// What codecs are measured on: for each setting a safetensors file with `NAME/input_ids`, windows × (512 + 192) tokens, a
/// prefix and what follows. Of pages that were held out. In `same document` an adapter reads on in a page of its domain, in
/// `shared system prompt` it comes to a domain of its own after a system prompt and pages of others.
pub static EVALUATION: &[File] = &[
    ("same document", embed!("eval/kv_same.safetensors")),
    ("shared system prompt", embed!("eval/kv_shared.safetensors")),
];

/// What a router is trained and measured on: a line of JSON for each of 600 prompts, with the adapter that it belongs to and
/// whether it is to `train` on or to `test` with, 80 and 20 of each adapter.
pub static ROUTING: File = ("routing.jsonl", embed!("eval/routing.jsonl"));

/// Tokens of the prefix and of the continuation of [`EVALUATION`].
pub const EVALUATION_PARTS: [usize; 2] = [512, 192];

/// A system prompt in the words that the model was trained with.
pub const SYSTEM: &str = "You are a helpful assistant for the Rust programming language.\n\
    Answer in at most three short paragraphs. Put every code sample in a fenced block marked `rust`. \
    Prefer the standard library to third-party crates.";

/// A question that each model is at home with: the adapter's name, `None` for the base.
pub static QUESTIONS: &[(Option<&str>, &str)] = &[
    (None, "What is ownership?"),
    (
        Some("book-prose"),
        "A channel is a general programming concept by which data is sent from one thread to another.",
    ),
    (Some("rust-code"), "Write Rust code like this:\nlet mut vec = Vec::new();\nvec.push(1);\nvec.push(2);"),
    (Some("error-codes"), "The compiler says E0499. Why?"),
    (Some("cargo-toml"), "Where in Cargo.toml do I set features?"),
    (Some("api-docs"), "What does `Metadata::is_file` do?"),
    (Some("release-notes"), "Which APIs became stable in Rust 1.27.0?"),
];
