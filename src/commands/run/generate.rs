//! Continuing texts: streams what a decoder says, and tells how fast it was.

use super::{Args, about, origin};
use crate::commands::{ms, note, print_json};
use runtime::{
    Finish, Session,
    sample::Sampler,
    tokenizer::{Encoding, Tokenizer},
};
use satura::{Opened, runtime};
use serde_json::{Value, json};
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Tokens of the prompt that may have a say in how the first new token is spelled.
const OVERLAP: usize = 16;

/// What follows a prompt.
struct Continuation {
    text: String,
    tokens: Vec<u32>,
    finish: Option<Finish>,
    speed: Speed,
}

/// Tokens computed and the time that took.
#[derive(Clone, Copy, Default)]
struct Speed {
    prefill: (usize, Duration),
    decode: (usize, Duration),
}

pub(super) fn run(
    args: &Args,
    opened: &Opened,
    session: &mut Session,
    tokenizer: &Tokenizer,
    sampler: &Sampler,
    texts: &[String],
) -> anyhow::Result<()> {
    let prompts = texts.iter().map(|text| tokenizer.encode(text, true));
    let prompts: Vec<Encoding> = prompts.collect::<Result<_, _>>()?;
    let mut results = vec![];
    let mut total = Speed::default();
    for (text, prompt) in texts.iter().zip(&prompts) {
        session.reset(0)?;
        // The prompt is shown with what follows it: not at all where the model refuses it.
        let mut prefix = Some(echo(text));
        let mut show = |part: &str| -> io::Result<()> {
            if args.json {
                return Ok(());
            }
            let mut out = io::stdout().lock();
            out.write_all(prefix.take().unwrap_or_default().as_bytes())?;
            out.write_all(part.as_bytes())?;
            out.flush()
        };
        let found = continuation(args, session, tokenizer, sampler.clone(), prompt, &mut show)?;
        show("\n")?;
        total.add(&found.speed);
        results.push(json!({
            "prompt": text,
            "text": found.text,
            "tokens": found.tokens,
            "prompt_tokens": prompt.len(),
            "finish": finish(found.finish),
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

/// The prompt as it is shown before what follows it: bold on a terminal, to tell the two apart.
fn echo(text: &str) -> String {
    match io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        true => format!("\x1b[1m{text}\x1b[0m"),
        false => text.to_string(),
    }
}

fn continuation(
    args: &Args,
    session: &mut Session,
    tokenizer: &Tokenizer,
    mut sampler: Sampler,
    prompt: &Encoding,
    show: &mut dyn FnMut(&str) -> io::Result<()>,
) -> anyhow::Result<Continuation> {
    let mut stream = tokenizer.stream(true);
    for id in &prompt.ids[prompt.len().saturating_sub(OVERLAP)..] {
        stream.push(*id)?;
    }
    let mut generation = session
        .generate(0, &prompt.ids, args.max_tokens, |logits| {
            sampler.sample(logits)
        })
        .ignore_eos(args.ignore_eos);
    let mut found = Continuation {
        text: String::new(),
        tokens: vec![],
        finish: None,
        speed: Speed::default(),
    };
    let mut steps = 0;
    loop {
        let start = Instant::now();
        let token = generation.next().transpose()?;
        let took = start.elapsed();
        // The end of the text took a step to be known; a limit did not.
        if token.is_some() || generation.finish() == Some(Finish::Eos) {
            match steps {
                0 => found.speed.prefill = (prompt.len(), took),
                _ => found.speed.decode = (steps, found.speed.decode.1 + took),
            }
            steps += 1;
        }
        let Some(token) = token else { break };
        found.tokens.push(token);
        let part = stream.push(token)?;
        show(&part)?;
        found.text += &part;
    }
    let rest = stream.finish()?;
    show(&rest)?;
    found.text += &rest;
    found.finish = generation.finish();
    Ok(found)
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

fn finish(finish: Option<Finish>) -> &'static str {
    match finish {
        Some(Finish::Eos) => "eos",
        Some(Finish::Context) => "context",
        Some(Finish::Error) => "error",
        Some(Finish::Length) | None => "length",
    }
}
