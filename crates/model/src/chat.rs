//! The chat template: a conversation to the text that the model was trained to continue.
//!
//! Renders Jinja as Hugging Face's `apply_chat_template` does. Turns no text into tokens.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::Local;
use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::json::Object;
use crate::{ModelError, Source};

const JINJA: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
/// The template's name in its environment; without an extension, so that nothing is escaped.
const NAME: &str = "chat";
/// The widest indentation that `tojson` is given.
const MAX_INDENT: usize = 64;

/// The special tokens that `tokenizer_config.json` names and templates use.
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl ChatMessage {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's chat template, compiled.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    file: String,
    environment: Environment<'static>,
    special_tokens: Value,
}

impl ChatTemplate {
    pub(crate) fn open(source: &Source) -> Result<Option<Self>, ModelError> {
        let config = if source.exists(CONFIG) { Some(Object::read(source, CONFIG)?) } else { None };
        let (file, text) = if source.exists(JINJA) {
            (source.describe(JINJA), source.read_text(JINJA)?)
        } else {
            match config.as_ref().map(template_in).transpose()?.flatten() {
                Some(text) => (source.describe(CONFIG), text),
                None => return Ok(None),
            }
        };
        let special_tokens = match &config {
            Some(config) => special_tokens(config)?,
            None => Value::from(()),
        };
        let environment = compile(&text)
            .map_err(|error| ModelError::Template { file: file.clone(), reason: error.to_string() })?;
        Ok(Some(Self { file, environment, special_tokens }))
    }

    /// Renders a conversation, with the opening of the assistant's next turn if
    /// `add_generation_prompt`. The text carries the template's own special tokens: encode it without
    /// adding any.
    ///
    /// # Errors
    /// If the template refuses the conversation by `raise_exception`, or fails.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let context = context! {
            messages => Serde(messages),
            add_generation_prompt,
            tools => (),
            documents => (),
            ..self.special_tokens.clone()
        };
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(context));
        rendered.map_err(|error| ModelError::Template { file: self.file.clone(), reason: error.to_string() })
    }
}

/// The template in `tokenizer_config.json`: one, or the one named `default` of a list.
fn template_in(config: &Object) -> Result<Option<String>, ModelError> {
    let field = "chat_template";
    let templates = match config.get(field) {
        None => return Ok(None),
        Some(serde_json::Value::String(text)) => return Ok(Some(text.clone())),
        Some(serde_json::Value::Array(templates)) => templates,
        Some(_) => return Err(config.error(field, "a template or a list of named templates")),
    };
    let default = templates.iter().find(|template| template["name"] == "default");
    match default.and_then(|template| template["template"].as_str()) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(config.error(field, "a list with a template named default")),
    }
}

/// The special tokens by their names; those that are not set are left undefined.
fn special_tokens(config: &Object) -> Result<Value, ModelError> {
    let mut tokens = BTreeMap::new();
    for field in SPECIAL_TOKENS {
        let Some(value) = config.get(field) else { continue };
        // Either the text itself or an added token with its options.
        match value.as_str().or_else(|| value["content"].as_str()) {
            Some(text) => tokens.insert(field, Value::from(text)),
            None => return Err(config.error(field, "a string, or an object with content")),
        };
    }
    Ok(tokens.into())
}

/// The environment that Hugging Face renders templates in.
fn compile(template: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    environment.add_template_owned(NAME, without_generation_tags(template)?)?;
    Ok(environment)
}

/// `{% generation %}` marks what the assistant said, for training; here it renders what it encloses.
fn without_generation_tags(template: &str) -> Result<String, Error> {
    let mut text = template.to_owned();
    for (tag, plain) in [("generation", "if true"), ("endgeneration", "endif")] {
        let failed = |e| Error::new(ErrorKind::SyntaxError, tag).with_source(e);
        let regex = Regex::new(&format!(r"\{{%([-+]?)\s*{tag}\s*([-+]?)%\}}")).map_err(failed)?;
        let replacement = format!("{{%${{1}} {plain} ${{2}}%}}");
        text = regex.try_replacen(&text, 0, replacement.as_str()).map_err(failed)?.into_owned();
    }
    Ok(text)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time, as Python's `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    // Fails on directives it does not know, where `to_string` would panic.
    match write!(text, "{}", Local::now().format(format)) {
        Ok(()) => Ok(text),
        Err(_) => Err(Error::new(ErrorKind::InvalidOperation, format!("no time format: {format}"))),
    }
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes it. The filter that
/// minijinja brings escapes for HTML, which templates do not expect.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: ensure_ascii is not supported"));
    }
    options.assert_all_used()?;
    match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(MAX_INDENT));
            write_json(value, PrettyFormatter::with_indent(spaces.as_bytes()))
        }
        None => write_json(value, Spaced),
    }
}

fn write_json(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let failed = |reason: String| Error::new(ErrorKind::BadSerialization, reason);
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, formatter);
    value.serialize(&mut serializer).map_err(|e| failed(e.to_string()))?;
    String::from_utf8(json).map_err(|e| failed(e.to_string()))
}

/// One line with Python's separators, `, ` and `: `.
struct Spaced;

impl Spaced {
    fn separate<W: ?Sized + std::io::Write>(writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }
}

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Folder;
    use serde_json::json;

    fn from_jinja(template: &str) -> Result<ChatTemplate, ModelError> {
        let folder = Folder::new();
        folder.write(JINJA, template);
        folder.write(CONFIG, r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null}"#);
        ChatTemplate::open(&folder.source()).map(Option::unwrap)
    }

    fn render(template: &str) -> String {
        let messages = [ChatMessage::new("user", "Hi & <you>"), ChatMessage::new("assistant", " yes ")];
        from_jinja(template).unwrap().render(&messages, true).unwrap()
    }

    #[test]
    fn renders_as_hugging_face_does() {
        // Blocks leave neither their indentation nor their line end; expressions keep both.
        let template = [
            "{{ bos_token }}",
            "{% for m in messages %}",
            "    {% if m.role == 'user' %}",
            "[{{ m['content'] }}]",
            "    {% else %}",
            "{{ m.content.strip() + eos_token }}",
            "    {% endif %}",
            "{% endfor %}",
            "{% if add_generation_prompt %}A:{% endif %}",
            "",
        ];
        assert_eq!(render(&template.join("\n")), "<s>\n[Hi & <you>]\nyes</s>\nA:");
        assert_eq!(
            render("{{ tools is none }} {{ tools is defined }} {{ pad_token is defined }}"),
            "True True False"
        );
        assert_eq!(
            render("{{ messages[0].content.split('&')[0] }}|{{ messages[-1].role.upper() }}"),
            "Hi |ASSISTANT"
        );
        assert_eq!(
            render("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}x{% endfor %}"),
            "x"
        );
    }

    #[test]
    fn writes_json_as_python_does() {
        assert_eq!(render("{{ messages[0] | tojson }}"), r#"{"role": "user", "content": "Hi & <you>"}"#);
        assert_eq!(render("{{ [1, 'é', none] | tojson }}"), r#"[1, "é", null]"#);
        assert_eq!(render("{{ {'a': [1]} | tojson(indent=2) }}"), "{\n  \"a\": [\n    1\n  ]\n}");
        assert_eq!(render("{{ [] | tojson(ensure_ascii=false) }}"), "[]");
    }

    #[test]
    fn generation_tags_render_what_they_enclose() {
        assert_eq!(render("a {%- generation %} b {% endgeneration -%} c"), "a b c");
    }

    #[test]
    fn tells_the_time_or_why_not() {
        let year = render("{{ strftime_now('%Y') }}");
        assert!(year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()), "{year}");
        let broken = from_jinja("{{ strftime_now('%!') }}").unwrap();
        assert!(broken.render(&[], false).is_err());
    }

    #[test]
    fn refusals_carry_the_reason_and_the_file() {
        let template = from_jinja("{{ raise_exception('roles must alternate') }}").unwrap();
        let text = template.render(&[], false).unwrap_err().to_string();
        assert!(text.contains(JINJA) && text.contains("roles must alternate"), "{text}");
        let text = from_jinja("{% if %}").unwrap_err().to_string();
        assert!(text.contains(JINJA), "{text}");
    }

    fn from_config(config: &serde_json::Value) -> Result<Option<ChatTemplate>, ModelError> {
        let folder = Folder::new();
        folder.write(CONFIG, config.to_string());
        ChatTemplate::open(&folder.source())
    }

    #[test]
    fn the_file_comes_before_the_config_and_the_config_may_hold_a_list() {
        let text = |config| from_config(&config).unwrap().map(|t| t.render(&[], false).unwrap());
        assert_eq!(text(json!({"chat_template": "one"})).as_deref(), Some("one"));
        let list = json!([{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]);
        assert_eq!(text(json!({"chat_template": list})).as_deref(), Some("three"));
        assert_eq!(text(json!({"chat_template": null})), None);
        for wrong in [json!([]), json!(3), json!([{"name": "default"}])] {
            let error = from_config(&json!({"chat_template": wrong})).unwrap_err();
            assert!(error.to_string().contains("tokenizer_config.json: chat_template must be"), "{error}");
        }
        let folder = Folder::new();
        folder.write(CONFIG, r#"{"chat_template": "config"}"#);
        folder.write(JINJA, "file");
        let template = ChatTemplate::open(&folder.source()).unwrap().unwrap();
        assert_eq!(template.render(&[], false).unwrap(), "file");
        assert!(ChatTemplate::open(&Folder::new().source()).unwrap().is_none());
    }
}
