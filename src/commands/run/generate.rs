//! Continuing texts: streams what a decoder says, and tells how fast it was.

use super::{Args, about, decode::InOrder, origin};
use crate::commands::{ms, note, print_json, template};
use runtime::{Session, sample::Sampler, tokenizer::Tokenizer};
use satura::{Opened, chat::Message, runtime};
use serde_json::{Value, json};
use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

/// Texts that share a step.
const BATCH: usize = 16;

/// What a text is continued with.
pub(super) struct Means<'a> {
    pub args: &'a Args,
    pub opened: &'a Opened,
    pub tokenizer: &'a Tokenizer,
    pub sampler: &'a Sampler,
}

pub(super) fn run(
    args: &Args,
    opened: &Opened,
    tokenizer: &Tokenizer,
    sampler: &Sampler,
    texts: &[String],
) -> anyhow::Result<()> {
    let means = Means {
        args,
        opened,
        tokenizer,
        sampler,
    };
    let ignored = &opened.model.description().generation.ignored;
    if !ignored.is_empty() {
        eprintln!(
            "warning: generation_config.json also asks for {}, which is not supported: tokens are chosen without",
            ignored.join(", ")
        );
    }
    if texts.is_empty() {
        return means.converse();
    }
    let prompts = texts.iter().map(|text| means.prompt(text));
    let prompts: Vec<Vec<u32>> = prompts.collect::<Result<_, _>>()?;
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let (mut session, sequences) = means.session(&prompts)?;
    // A prompt is shown with what follows it: not at all where the model refuses it, or where it is a question.
    let mut order = InOrder::default();
    let mut begun = 0;
    let mut show = |i: usize, part: &str, last: bool| -> io::Result<()> {
        if args.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        for (i, part, last) in order.push(i, part, last) {
            if begun == i {
                begun += 1;
                out.write_all(
                    if args.chat {
                        String::new()
                    } else {
                        echo(&texts[i])
                    }
                    .as_bytes(),
                )?;
            }
            out.write_all(part.as_bytes())?;
            out.write_all(if last { b"\n" } else { b"" })?;
        }
        out.flush()
    };
    let (found, speed) = means.continuations(&mut session, sequences, &prompts, 0, &mut show)?;
    let cut = found
        .iter()
        .filter(|found| found.finish() == "context")
        .count();
    if cut > 0 && !args.json {
        note(&format!(
            "the context of {} tokens is full{}",
            session.context(),
            if texts.len() > 1 {
                format!(", for {cut} of {} texts", texts.len())
            } else {
                String::new()
            }
        ));
    }
    if args.json {
        let results = texts
            .iter()
            .zip(&prompts)
            .zip(found)
            .map(|((text, prompt), found)| {
                json!({
                    "prompt": text,
                    "finish": found.finish(),
                    "text": found.text,
                    "tokens": found.tokens,
                    "prompt_tokens": prompt.len(),
                })
            });
        let results: Vec<Value> = results.collect();
        let mut object = about(opened, &session);
        object.insert("first_token_ms".into(), json!(ms(speed.prefill.1)));
        object.insert("prefill_tokens_per_s".into(), per_second(speed.prefill));
        object.insert("decode_tokens_per_s".into(), per_second(speed.decode));
        object.insert("results".into(), json!(results));
        return print_json(&Value::Object(object));
    }
    note(&format!(
        "{}; {}{}; {} threads",
        origin(opened),
        rate("prefill", speed.prefill),
        rate(", decode", speed.decode),
        session.threads()
    ));
    Ok(())
}

impl Means<'_> {
    /// The tokens of a text, or of a conversation that it begins.
    fn prompt(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        match self.args.chat {
            false => Ok(self.tokenizer.encode(text, true)?.ids),
            true => {
                let mut messages = self.system();
                messages.push(Message::new("user", text));
                self.conversation(&messages)
            }
        }
    }

    fn system(&self) -> Vec<Message> {
        let said = self.args.system.iter();
        said.map(|text| Message::new("system", text)).collect()
    }

    /// The tokens of a conversation. The template has the special tokens in it.
    fn conversation(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        let chat = self.opened.model.description().chat.as_ref();
        let chat = chat.ok_or_else(|| {
            anyhow::anyhow!(
                "the model has no chat template (chat_template.jinja, or in tokenizer_config.json); run it without \
                 --chat"
            )
        })?;
        Ok(self
            .tokenizer
            .encode(&template::render(chat, messages)?, false)?
            .ids)
    }

    /// A session for these prompts, and how many sequences it keeps: no more memory than they can use.
    fn session(&self, prompts: &[&[u32]]) -> anyhow::Result<(Session, usize)> {
        let sequences = prompts.len().clamp(1, BATCH);
        let needed = prompts.iter().map(|prompt| {
            let most = self.most(prompt.len());
            prompt.len().saturating_add(most).max(1)
        });
        let needed = needed.max();
        let allowed = self.opened.model.description().context;
        let options = runtime::Options {
            sequences,
            context: self
                .args
                .context
                .or(needed.map(|needed| needed.min(allowed))),
            ..self.args.options()
        };
        Ok((Session::new(&self.opened.model, options)?, sequences))
    }

    /// A conversation with the standard input, a line a turn.
    fn converse(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.args.json,
            "--json wants the texts with -p TEXT or --file FILE"
        );
        let (mut session, _) = self.session(&[])?;
        let mut messages = self.system();
        // What the session has seen: a turn goes on from there.
        let mut seen: Vec<u32> = vec![];
        for line in io::stdin().lines() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            messages.push(Message::new("user", line));
            let prompt = self.conversation(&messages)?;
            let same = seen.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
            let same = same.min(prompt.len().saturating_sub(1));
            let mut show = |_, part: &str, _| {
                let mut out = io::stdout().lock();
                out.write_all(part.as_bytes())?;
                out.flush()
            };
            let (found, _) = self.continuations(&mut session, 1, &[&prompt], same, &mut show)?;
            writeln!(io::stdout())?;
            let said = found.into_iter().next().unwrap_or_default();
            seen = prompt;
            seen.extend(&said.tokens);
            seen.truncate(session.length(0)?);
            messages.push(Message::new("assistant", said.text));
        }
        Ok(())
    }
}

/// The prompt as it is shown before what follows it: bold on a terminal, to tell the two apart.
fn echo(text: &str) -> String {
    match io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        true => format!("\x1b[1m{text}\x1b[0m"),
        false => text.to_string(),
    }
}

fn per_second((tokens, time): (usize, Duration)) -> Value {
    match tokens {
        0 => Value::Null,
        _ => json!((tokens as f64 / time.as_secs_f64() * 10.0).round() / 10.0),
    }
}

fn rate(name: &str, (tokens, time): (usize, Duration)) -> String {
    match tokens {
        0 => String::new(),
        _ => format!(
            "{name} {tokens} tokens at {:.0} tokens/s",
            tokens as f64 / time.as_secs_f64()
        ),
    }
}
