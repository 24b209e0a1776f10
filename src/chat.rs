//! Conversations as the text that a model was trained to continue: its chat template, rendered. Knows templates; neither
//! tokens nor models. A template is a program from the model's files: it gets bounded work, bounded output, and nothing
//! of this machine but the date.

use ir::Chat;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, value::Kwargs};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// Instructions that a template may take: some hundred times what long conversations need.
const FUEL: u64 = 5_000_000;

/// Longest text that a template may give, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What `role` said.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is no template, or fails.
    #[error(
        "the model's chat template fails: {0}; its tokenizer_config.json or chat_template.jinja is at fault"
    )]
    Template(String),
    /// The template says itself that it does not take this conversation.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template does not end.
    #[error("the model's chat template takes more than {FUEL} instructions; it may never end")]
    Endless,
    /// The template gives too much.
    #[error("the model's chat template gives more than {MAX_BYTES} bytes")]
    Long,
}

/// The text of a conversation, up to where the model is to answer. Instructions and output are bounded, but a template
/// may ask for a long list or a deep value, and those take this process's memory and stack: what comes from anywhere is
/// rendered in a process with limits, as the command line does.
///
/// # Errors
/// The template is broken, refuses the conversation, or goes on for ever.
pub fn render(chat: &Chat, messages: &[Message]) -> Result<String, ChatError> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(100);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> Result<Value, _> {
        Err(minijinja::Error::new(REFUSAL, message))
    });
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", tojson);
    let source = without_generation(&chat.template);
    let template = env
        .template_from_str(&source)
        .map_err(|e| ChatError::Template(e.to_string()))?;
    let tokens = chat.tokens.iter();
    let mut context: Vec<(String, Value)> = tokens
        .map(|(name, token)| (name.clone(), Value::from(token)))
        .collect();
    context.push(("messages".into(), Value::from_serialize(messages)));
    context.push(("add_generation_prompt".into(), true.into()));
    let mut out = Bounded(vec![]);
    let rendered = template.render_captured_to(Value::from_iter(context), &mut out);
    if let Err(error) = rendered {
        return Err(match error.kind() {
            _ if out.0.len() > MAX_BYTES => ChatError::Long,
            ErrorKind::OutOfFuel => ChatError::Endless,
            REFUSAL => ChatError::Refused(error.detail().unwrap_or_default().into()),
            _ => ChatError::Template(error.to_string()),
        });
    }
    String::from_utf8(out.0).map_err(|e| ChatError::Template(e.to_string()))
}

/// The kind of error that `raise_exception` makes: one that nothing else in a template does.
const REFUSAL: ErrorKind = ErrorKind::EvalBlock;

/// Text up to a limit.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        match self.0.len() > MAX_BYTES {
            true => Err(io::Error::other("too much text")),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The date and time here and now.
fn strftime_now(format: String) -> Result<String, minijinja::Error> {
    let now = jiff::Zoned::now();
    jiff::fmt::strtime::format(&format, &now)
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// JSON as Python writes it: spaces after commas and colons, where no other separators are given; characters as they are.
fn tojson(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    // Of what Python takes, these change nothing that templates rely on.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let failed =
        |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = vec![];
    match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, pretty);
            value.serialize(&mut serializer).map_err(failed)?;
        }
        None => {
            let separators = separators.as_deref().unwrap_or_default();
            let [item, key] =
                [(0, ", "), (1, ": ")].map(|(i, default)| separators.get(i).map_or(default, |s| s));
            let separated = Separated { item, key };
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, separated);
            value.serialize(&mut serializer).map_err(failed)?;
        }
    }
    String::from_utf8(out)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// `[1, 2]` and `{"a": 1}`, with what stands between items and after keys.
struct Separated<'a> {
    item: &'a str,
    key: &'a str,
}

impl Separated<'_> {
    fn begin<W: ?Sized + Write>(&self, w: &mut W, first: bool) -> io::Result<()> {
        w.write_all(if first { "" } else { self.item }.as_bytes())
    }
}

impl serde_json::ser::Formatter for Separated<'_> {
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.begin(w, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.begin(w, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(self.key.as_bytes())
    }
}

/// The template without `{% generation %}` and `{% endgeneration %}`, which mark what the model said, for training: as
/// blocks that always are.
fn without_generation(template: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(template.len()), template);
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start + 2..].find("%}").map(|len| 2 + len) else {
            break;
        };
        let tag = &rest[start + 2..start + len];
        let word = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replaced = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out += &rest[..start];
        match replaced {
            Some(by) => out += &format!("{{%{}%}}", tag.replacen(word, by, 1)),
            None => out += &rest[start..start + len + 2],
        }
        rest = &rest[start + len + 2..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(template: &str) -> Chat {
        Chat {
            template: template.into(),
            tokens: vec![
                ("bos_token".into(), "<s>".into()),
                ("eos_token".into(), "</s>".into()),
            ],
        }
    }

    fn hello() -> [Message; 2] {
        [
            Message::new("system", "Be brief."),
            Message::new("user", "Say \"é\""),
        ]
    }

    #[test]
    fn templates_give_what_jinja_gives() {
        let check = |template: &str, expected: &str| {
            let found = render(&chat(template), &hello()).unwrap();
            assert_eq!(found, expected, "{template}");
        };
        check(
            "{{ bos_token }}{% for m in messages %}\n<|{{ m['role'] }}|>{{ m.content | trim }}{{ eos_token }}\n{% endfor %}\n{% if add_generation_prompt %}<|assistant|>{% endif %}",
            "<s><|system|>Be brief.</s>\n<|user|>Say \"é\"</s>\n<|assistant|>",
        );
        check(
            "{{ messages[1] | tojson }}",
            r#"{"role": "user", "content": "Say \"é\""}"#,
        );
        check(
            "{{ {'a': [1, 2]} | tojson(indent=2) }}",
            "{\n  \"a\": [\n    1,\n    2\n  ]\n}",
        );
        check(
            "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}",
            r#"{"a":[1,2]}"#,
        );
        check("{{ messages[0].content.split(' ')[0].upper() }}", "BE");
        check(
            "{{ messages[0].content.replace('brief', 'long') }}",
            "Be long.",
        );
        check(
            "{%- generation -%} {{ messages | length }} {%- endgeneration -%}",
            "2",
        );
        check(
            "{% for m in messages %}{% if loop.last %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
            "system",
        );
        check(
            "{% if tools is defined and tools %}x{% endif %}{{ nothing }}",
            "",
        );
        check(
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        );
        let year = render(&chat("{{ strftime_now('%Y') }}"), &[]).unwrap();
        assert!(year.parse::<i32>().is_ok_and(|y| y > 2000), "{year}");
    }

    #[test]
    fn templates_that_cannot_be_rendered_say_why() {
        let check = |template: &str, expected: &str| {
            let error = render(&chat(template), &hello()).unwrap_err().to_string();
            assert!(error.contains(expected), "{template}: {error}");
        };
        check(
            "{{ raise_exception('only user and assistant') }}",
            "refuses this conversation: only user",
        );
        check("{% for m in messages %}", "fails");
        check("{{ messages | nofilter }}", "nofilter");
        check("{%}", "fails");
        check("{{ strftime_now('%Q%') }}", "fails");
        check("{% for i in range(10**9) %}{% endfor %}", "");
        check(
            "{% for i in range(9999) %}{% for j in range(9999) %}{{ i }}{% endfor %}{% endfor %}",
            "may never end",
        );
        check("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails");
        check(
            "{% set x = 'a' * 1000000 %}{% for i in range(100) %}{{ x }}{% endfor %}",
            "more than 16777216 bytes",
        );
    }
}
