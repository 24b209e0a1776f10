//! Continuing prompts, several at once: each has a sequence of the session to itself, and the next takes its place when
//! it ends. Turns tokens into text that is shown in the order of the prompts. Knows neither where the prompts come from
//! nor where the text goes.

use super::generate::Means;
use runtime::{
    Continuation, Finish, Session,
    sample::SampleError,
    tokenizer::{Stops, Stream},
};
use satura::runtime;
use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

/// Tokens of the prompt that may have a say in how the first new token is spelled.
const OVERLAP: usize = 16;

/// Tokens to generate at most, where nobody says.
const TOKENS: usize = 64;

/// What follows a prompt.
#[derive(Default)]
pub(super) struct Found {
    pub text: String,
    pub tokens: Vec<u32>,
    finish: Option<Finish>,
    /// By a text that ends a generation.
    stopped: bool,
}

/// Tokens computed and the time that took: in steps with prompts in them those of prompts, else those that were chosen.
#[derive(Clone, Copy, Default)]
pub(super) struct Speed {
    pub prefill: (usize, Duration),
    pub decode: (usize, Duration),
}

/// Where text goes: which prompt it follows, and whether nothing comes after it.
pub(super) type Show<'a> = &'a mut dyn FnMut(usize, &str, bool) -> io::Result<()>;

/// A prompt that is being continued.
struct Slot<'a> {
    /// Which of the prompts.
    prompt: usize,
    stream: Stream<'a>,
    stops: Stops,
    found: Found,
}

impl Found {
    /// Why it ended, in a word.
    pub fn finish(&self) -> &'static str {
        match self.finish {
            _ if self.stopped => "stop",
            Some(Finish::Eos) => "eos",
            Some(Finish::Context) => "context",
            Some(Finish::Error) => "error",
            Some(Finish::Length) | None => "length",
        }
    }
}

impl Means<'_> {
    /// Tokens to generate at most after a prompt of so many. A length that the prompt alone exceeds says nothing.
    pub fn most(&self, prompt: usize) -> usize {
        let authors = &self.opened.model.description().generation;
        let left = |length: u32| (length as usize).checked_sub(prompt).filter(|n| *n > 0);
        let most = authors.max_tokens.map(|n| n as usize);
        let most = most.or(authors.max_length.and_then(left));
        self.args.max_tokens.or(most).unwrap_or(TOKENS)
    }

    /// What follows each of `prompts`, as many at once as the session keeps sequences; of the first ones, the sequences
    /// have seen `seen` tokens. What follows a prompt does not depend on the others.
    pub fn continuations(
        &self,
        session: &mut Session,
        sequences: usize,
        prompts: &[&[u32]],
        seen: usize,
        show: Show<'_>,
    ) -> anyhow::Result<(Vec<Found>, Speed)> {
        let mut waiting = prompts.iter().enumerate();
        let mut done: BTreeMap<usize, Found> = BTreeMap::new();
        let (mut slots, mut growing) = (vec![], vec![]);
        let mut speed = Speed::default();
        loop {
            let free = (0..sequences).filter(|s| growing.iter().all(|g| sequence(g) != *s));
            for (sequence, (prompt, ids)) in free.collect::<Vec<_>>().into_iter().zip(&mut waiting)
            {
                let seen = if prompt < sequences { seen } else { 0 };
                session.truncate(sequence, seen)?;
                let mut sampler = self.sampler.clone();
                sampler.see(ids);
                let sample =
                    move |logits: &[f32]| -> Result<u32, SampleError> { sampler.sample(logits) };
                growing.push(
                    Continuation::new(sequence, &ids[seen..], self.most(ids.len()), sample)
                        .ignore_eos(self.args.ignore_eos),
                );
                slots.push(self.slot(prompt, ids)?);
            }
            if growing.is_empty() {
                break;
            }
            let new = growing.iter().filter(|g| g.token().is_none());
            let new: usize = new.map(Continuation::pending).sum();
            let start = Instant::now();
            let count = session.advance(&mut growing)?;
            speed.add(new, count, start.elapsed());
            for (slot, growing) in slots.iter_mut().zip(&growing) {
                slot.found.finish = growing.finish();
                if let Some(token) = growing.token().filter(|_| growing.finish().is_none()) {
                    let part = slot.push(token)?;
                    show(slot.prompt, &part, false)?;
                }
            }
            for i in (0..slots.len()).rev() {
                if slots[i].found.finish.is_some() || slots[i].found.stopped {
                    growing.swap_remove(i);
                    let mut slot = slots.swap_remove(i);
                    let rest = slot.end()?;
                    show(slot.prompt, &rest, true)?;
                    done.insert(slot.prompt, slot.found);
                }
            }
        }
        Ok((done.into_values().collect(), speed))
    }

    fn slot(&self, prompt: usize, ids: &[u32]) -> anyhow::Result<Slot<'_>> {
        let mut stream = self.tokenizer.stream(true);
        for id in &ids[ids.len().saturating_sub(OVERLAP)..] {
            stream.push(*id)?;
        }
        let authors = &self.opened.model.description().generation;
        Ok(Slot {
            prompt,
            stream,
            stops: Stops::new(self.args.stop.iter().chain(&authors.stop).cloned()),
            found: Found::default(),
        })
    }
}

/// Which sequence it is; says of which type the list is, too.
fn sequence<S: FnMut(&[f32]) -> Result<u32, SampleError>>(growing: &Continuation<S>) -> usize {
    growing.sequence()
}

impl Slot<'_> {
    /// The text that a token makes certain.
    fn push(&mut self, token: u32) -> anyhow::Result<String> {
        self.found.tokens.push(token);
        let part = self.stops.push(&self.stream.push(token)?);
        self.found.text += &part;
        self.found.stopped = self.stops.found();
        Ok(part)
    }

    /// The text that the end makes certain.
    fn end(&mut self) -> anyhow::Result<String> {
        let rest = self.stops.push(&self.stream.finish()?) + &self.stops.finish();
        self.found.text += &rest;
        self.found.stopped = self.stops.found();
        Ok(rest)
    }
}

impl Speed {
    /// A step of `count` sequences, with `new` tokens of prompts in it. The end of a text took a step to be known; a
    /// limit did not.
    fn add(&mut self, new: usize, count: usize, took: Duration) {
        let (of, tokens) = match (new, count) {
            (_, 0) => return,
            (0, _) => (&mut self.decode, count),
            _ => (&mut self.prefill, new),
        };
        *of = (of.0 + tokens, of.1 + took);
    }
}

/// Texts of several prompts that come in turns, put in order: what follows a prompt is held until those before it are
/// complete.
#[derive(Default)]
pub(super) struct InOrder {
    turn: usize,
    /// Text that waits, and whether nothing comes after it.
    held: BTreeMap<usize, (String, bool)>,
}

impl InOrder {
    /// Takes text that follows prompt `i`; gives, for each prompt whose turn it is now, what may be shown of it and
    /// whether nothing comes after that.
    pub fn push(&mut self, i: usize, part: &str, last: bool) -> Vec<(usize, String, bool)> {
        let (text, ended) = self.held.entry(i).or_default();
        *text += part;
        *ended |= last;
        let mut shown = vec![];
        while let Some((text, ended)) = self.held.remove(&self.turn) {
            shown.push((self.turn, text, ended));
            if !ended {
                break;
            }
            self.turn += 1;
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shown_in_order() {
        let mut order = InOrder::default();
        let mut shown = String::new();
        for (i, part, last) in [
            (1, "b", false),
            (0, "a", false),
            (2, "e", true),
            (0, "a", false),
            (1, "c", true),
            (0, "", true),
            (3, "f", false),
            (3, "g", true),
        ] {
            for (_, text, last) in order.push(i, part, last) {
                shown += &text;
                shown += if last { "." } else { "" };
            }
            if i == 2 {
                assert_eq!(shown, "a");
            }
        }
        assert_eq!(shown, "aa.bc.e.fg.");
    }
}
