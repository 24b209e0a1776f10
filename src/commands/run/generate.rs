//! Continuing texts: streams what a decoder says, and tells how fast it was.

use super::{Args, about, origin};
use crate::commands::{ms, note, print_json};
use runtime::{
    Finish, Session,
    sample::Sampler,
    tokenizer::{Encoding, Stops, Tokenizer},
};
use satura::{
    Opened,
    chat::{self, Message},
    runtime,
};
use serde_json::{Value, json};
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Tokens of the prompt that may have a say in how the first new token is spelled.
const OVERLAP: usize = 16;

/// Tokens to generate at most, where nobody says.
const TOKENS: usize = 64;

/// What follows a prompt.
#[derive(Default)]
struct Continuation {
    text: String,
    tokens: Vec<u32>,
    finish: Option<Finish>,
    /// By a text that ends a generation.
    stopped: bool,
    speed: Speed,
}

/// Tokens computed and the time that took.
#[derive(Clone, Copy, Default)]
struct Speed {
    prefill: (usize, Duration),
    decode: (usize, Duration),
}

/// What a text is continued with.
struct Means<'a> {
    args: &'a Args,
    opened: &'a Opened,
    tokenizer: &'a Tokenizer,
    sampler: &'a Sampler,
}

pub(super) fn run(
    args: &Args,
    opened: &Opened,
    session: &mut Session,
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
    if texts.is_empty() {
        return means.converse(session);
    }
    let prompts = texts.iter().map(|text| means.prompt(text));
    let prompts: Vec<Encoding> = prompts.collect::<Result<_, _>>()?;
    let mut results = vec![];
    let mut total = Speed::default();
    for (text, prompt) in texts.iter().zip(&prompts) {
        session.reset(0)?;
        // The prompt is shown with what follows it: not at all where the model refuses it, or where it is a question.
        let mut prefix = (!args.chat).then(|| echo(text));
        let mut show = |part: &str| -> io::Result<()> {
            if args.json {
                return Ok(());
            }
            let mut out = io::stdout().lock();
            out.write_all(prefix.take().unwrap_or_default().as_bytes())?;
            out.write_all(part.as_bytes())?;
            out.flush()
        };
        let found = means.continuation(session, &prompt.ids, 0, &mut show)?;
        show("\n")?;
        total.add(&found.speed);
        results.push(json!({
            "prompt": text,
            "text": found.text,
            "tokens": found.tokens,
            "prompt_tokens": prompt.len(),
            "finish": found.finish(),
        }));
        if found.finish == Some(Finish::Context) && !args.json {
            note(&format!(
                "the context of {} tokens is full",
                session.context()
            ));
        }
    }
    if args.json {
        let mut object = about(opened, session);
        object.insert("first_token_ms".into(), json!(ms(total.prefill.1)));
        object.insert("prefill_tokens_per_s".into(), per_second(total.prefill));
        object.insert("decode_tokens_per_s".into(), per_second(total.decode));
        object.insert("results".into(), json!(results));
        return print_json(&Value::Object(object));
    }
    note(&format!(
        "{}; {}{}; {} threads",
        origin(opened),
        rate("prefill", total.prefill),
        rate(", decode", total.decode),
        session.threads()
    ));
    Ok(())
}

impl Means<'_> {
    /// The tokens of a text, or of a conversation that it begins.
    fn prompt(&self, text: &str) -> anyhow::Result<Encoding> {
        match self.args.chat {
            false => Ok(self.tokenizer.encode(text, true)?),
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
    fn conversation(&self, messages: &[Message]) -> anyhow::Result<Encoding> {
        let chat = self.opened.model.description().chat.as_ref();
        let chat = chat.ok_or_else(|| {
            anyhow::anyhow!(
                "the model has no chat template (chat_template.jinja, or in tokenizer_config.json); run it without \
                 --chat"
            )
        })?;
        Ok(self
            .tokenizer
            .encode(&chat::render(chat, messages)?, false)?)
    }

    /// A conversation with the standard input, a line a turn.
    fn converse(&self, session: &mut Session) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.args.json,
            "--json wants the texts with -p TEXT or --file FILE"
        );
        let mut messages = self.system();
        // What the session has seen: a turn goes on from there.
        let mut seen: Vec<u32> = vec![];
        for line in io::stdin().lines() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            messages.push(Message::new("user", line));
            let prompt = self.conversation(&messages)?.ids;
            let same = seen.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
            let same = same.min(prompt.len().saturating_sub(1));
            session.truncate(0, same)?;
            let found = self.continuation(session, &prompt, same, &mut |part| {
                let mut out = io::stdout().lock();
                out.write_all(part.as_bytes())?;
                out.flush()
            })?;
            writeln!(io::stdout())?;
            seen = prompt;
            seen.extend(&found.tokens);
            seen.truncate(session.length(0)?);
            messages.push(Message::new("assistant", found.text));
        }
        Ok(())
    }

    /// What follows `prompt`, of which the session has seen the first `seen` tokens.
    fn continuation(
        &self,
        session: &mut Session,
        prompt: &[u32],
        seen: usize,
        show: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> anyhow::Result<Continuation> {
        let mut stream = self.tokenizer.stream(true);
        for id in &prompt[prompt.len().saturating_sub(OVERLAP)..] {
            stream.push(*id)?;
        }
        let authors = &self.opened.model.description().generation;
        let mut stops = Stops::new(self.args.stop.iter().chain(&authors.stop).cloned());
        let most = authors.max_tokens.map_or(TOKENS, |n| n as usize);
        let most = self.args.max_tokens.unwrap_or(most);
        let mut sampler = self.sampler.clone();
        let mut generation = session
            .generate(0, &prompt[seen..], most, |logits| sampler.sample(logits))
            .ignore_eos(self.args.ignore_eos);
        let mut found = Continuation::default();
        let mut steps = 0;
        while !stops.found() {
            let start = Instant::now();
            let token = generation.next().transpose()?;
            let took = start.elapsed();
            // The end of the text took a step to be known; a limit did not.
            if token.is_some() || generation.finish() == Some(Finish::Eos) {
                match steps {
                    0 => found.speed.prefill = (prompt.len() - seen, took),
                    _ => found.speed.decode = (steps, found.speed.decode.1 + took),
                }
                steps += 1;
            }
            let Some(token) = token else { break };
            found.tokens.push(token);
            let part = stops.push(&stream.push(token)?);
            show(&part)?;
            found.text += &part;
        }
        let rest = stops.push(&stream.finish()?) + &stops.finish();
        show(&rest)?;
        found.text += &rest;
        found.stopped = stops.found();
        found.finish = generation.finish();
        Ok(found)
    }
}

/// The prompt as it is shown before what follows it: bold on a terminal, to tell the two apart.
fn echo(text: &str) -> String {
    match io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        true => format!("\x1b[1m{text}\x1b[0m"),
        false => text.to_string(),
    }
}

impl Speed {
    fn add(&mut self, other: &Speed) {
        let sum = |a: &mut (usize, Duration), b: (usize, Duration)| *a = (a.0 + b.0, a.1 + b.1);
        sum(&mut self.prefill, other.prefill);
        sum(&mut self.decode, other.decode);
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

impl Continuation {
    fn finish(&self) -> &'static str {
        match self.finish {
            _ if self.stopped => "stop",
            Some(Finish::Eos) => "eos",
            Some(Finish::Context) => "context",
            Some(Finish::Error) => "error",
            Some(Finish::Length) | None => "length",
        }
    }
}
