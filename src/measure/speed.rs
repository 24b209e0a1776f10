//! The work that a model is timed at, and the times it takes. Knows neither where the model came from nor what the
//! times are compared with.

use super::{Error, Step, argmax, latency::Latency};
use runtime::{Chunk, EncoderInput, Model, Options, Select, Session};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A decoder continues prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Tokens that each sequence has beforehand; they are taken for granted, not run.
    pub depth: usize,
    /// Tokens of each prompt, run in one go.
    pub prompt: usize,
    /// Tokens that each sequence then gets, one a step; the first comes of the prompt.
    pub generate: usize,
    /// Sequences side by side.
    pub sequences: usize,
}

/// An encoder encodes sequences, all in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Tokens of each.
    pub lengths: Vec<usize>,
}

/// What a model is asked to do, over and over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    /// See there.
    Generation(Generation),
    /// See there.
    Encoding(Encoding),
}

/// The times it takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Speed {
    /// Of a decoder.
    Generation {
        /// The work.
        of: Generation,
        /// The prompts, all sequences together.
        prefill: Latency,
        /// Steps of one token a sequence; none where none were asked for.
        step: Option<Latency>,
        /// The prompts and the steps by the device's own clock, where it has one.
        device: [Option<Latency>; 2],
    },
    /// Of an encoder.
    Encoding {
        /// The work.
        of: Encoding,
        /// All sequences together.
        latency: Latency,
        /// The same by the device's own clock, where it has one.
        device: Option<Latency>,
    },
}

impl Workload {
    /// A session to do it with, of `threads` threads, by default one a core. It has room for what the work needs, and
    /// the tokens that have to be there beforehand.
    ///
    /// # Errors
    /// A context beyond the model's, or generation by an encoder.
    pub fn session(&self, model: &Arc<Model>, threads: Option<usize>) -> Result<Session, Error> {
        let mut options = Options {
            threads,
            ..Options::default()
        };
        let Workload::Generation(work) = self else {
            return Ok(Session::new(model, options)?);
        };
        let tokens_each = work.depth + work.prompt + work.generate.saturating_sub(1);
        let most = model.description().context;
        if tokens_each > most {
            let (depth, prompt, generate) = (work.depth, work.prompt, work.generate);
            return Err(Error::Mismatch(format!(
                "a depth of {depth}, a prompt of {prompt} and {generate} tokens to generate need a context of \
                 {tokens_each}; the model has {most}"
            )));
        }
        options.sequences = work.sequences;
        options.context = Some(tokens_each);
        let mut session = Session::new(model, options)?;
        if work.depth > 0 {
            session.assume(work.depth)?;
        }
        Ok(session)
    }

    /// Does the work again and again until `budget` is used up, a few times at least and after once that does not
    /// count, since it touches memory for the first time. `session` is one made for it.
    ///
    /// # Errors
    /// A prompt or sequence without tokens, or sequences longer than the model takes.
    pub fn measure(&self, session: &mut Session, budget: Duration) -> Result<Speed, Error> {
        match self {
            Workload::Generation(work) => work.measure(session, budget),
            Workload::Encoding(work) => work.measure(session, budget),
        }
    }
}

impl Workload {
    /// The step that is held against the machine's ceilings; of a decoder that generates, one of one token a sequence.
    pub fn typical(&self) -> Step {
        match self {
            Workload::Generation(of) => {
                // The middle one of the steps sees the prompt and half of what was generated.
                let (tokens, keys) = match of.generate {
                    0 | 1 => (of.prompt, (of.prompt + 1) as f64 / 2.0),
                    n => (1, (of.prompt + n / 2) as f64),
                };
                Step {
                    tokens: tokens * of.sequences,
                    selected: of.sequences,
                    sequences: of.sequences,
                    keys: of.depth as f64 + keys,
                }
            }
            Workload::Encoding(of) => {
                let tokens: usize = of.lengths.iter().sum();
                let pairs: usize = of.lengths.iter().map(|l| l * l).sum();
                Step {
                    tokens,
                    selected: tokens,
                    sequences: of.lengths.len(),
                    keys: pairs as f64 / tokens as f64,
                }
            }
        }
    }

    /// The same of so many times as many sequences.
    pub fn repeat(&mut self, times: usize) {
        match self {
            Workload::Generation(of) => of.sequences *= times,
            Workload::Encoding(of) => of.lengths = of.lengths.repeat(times),
        }
    }

    /// The launches of a step, in order, and the time of each by itself, for each kind of step: of a decoder that generates,
    /// the prompt's and that of one token a sequence. `session` is one made for it.
    ///
    /// # Errors
    /// As [`Workload::measure`].
    pub fn launches(&self, session: &mut Session) -> Result<Vec<(&'static str, Launches)>, Error> {
        let timed = |session: &Session| {
            let times = session.times().map(|(name, time)| (name.to_string(), time));
            times.collect::<Launches>()
        };
        let mut steps = vec![];
        // The first round touches memory for the first time.
        for _ in 0..2 {
            steps.clear();
            session.measure(true);
            match self {
                Workload::Generation(work) => {
                    let ids = tokens(work.prompt * work.sequences, session);
                    for sequence in 0..work.sequences {
                        session.truncate(sequence, work.depth)?;
                    }
                    let last = next(session, ids.chunks(work.prompt.max(1)))?;
                    steps.push(("prompt", timed(session)));
                    if work.generate > 1 {
                        session.measure(true);
                        next(session, last.chunks(1))?;
                        steps.push(("decode", timed(session)));
                    }
                }
                Workload::Encoding(work) => {
                    let ids = tokens(work.lengths.iter().sum(), session);
                    session.encode(&work.inputs(&ids))?;
                    steps.push(("encode", timed(session)));
                }
            }
        }
        session.measure(false);
        Ok(steps)
    }
}

/// Names of launches, and the time of each.
pub type Launches = Vec<(String, Duration)>;

impl Generation {
    fn measure(self, session: &mut Session, budget: Duration) -> Result<Speed, Error> {
        let ids = tokens(self.prompt * self.sequences, session);
        let (mut prefill, mut steps) = (vec![], vec![]);
        let (mut device_prefill, mut device_steps) = (vec![], vec![]);
        let start = Instant::now();
        for round in 0.. {
            if round > 3 && start.elapsed() > budget {
                break;
            }
            for sequence in 0..self.sequences {
                session.truncate(sequence, self.depth)?;
            }
            session.clock()?;
            let once = Instant::now();
            let mut last = next(session, ids.chunks(self.prompt.max(1)))?;
            if round > 0 {
                prefill.push(once.elapsed());
                device_prefill.extend(session.elapsed());
            }
            for _ in 1..self.generate {
                let before = session.elapsed();
                let once = Instant::now();
                last = next(session, last.chunks(1))?;
                if round > 0 {
                    steps.push(once.elapsed());
                    device_steps.extend(between(before, session.elapsed()));
                }
            }
        }
        Ok(Speed::Generation {
            of: self,
            prefill: Latency::new(prefill).expect("three rounds were timed"),
            step: Latency::new(steps),
            device: [Latency::new(device_prefill), Latency::new(device_steps)],
        })
    }
}

impl Encoding {
    /// The sequences, of `ids` one after another.
    fn inputs<'a>(&self, ids: &'a [u32]) -> Vec<EncoderInput<'a>> {
        let mut rest = ids;
        let input = |length: &usize| EncoderInput {
            ids: rest.split_off(..*length).unwrap_or_default(),
            ..EncoderInput::default()
        };
        self.lengths.iter().map(input).collect()
    }

    fn measure(&self, session: &mut Session, budget: Duration) -> Result<Speed, Error> {
        let ids = tokens(self.lengths.iter().sum(), session);
        let inputs = self.inputs(&ids);
        let mut device = vec![];
        session.clock()?;
        let latency = Latency::measure(budget, 5, || {
            let before = session.elapsed();
            session.encode(&inputs)?;
            device.extend(between(before, session.elapsed()));
            Ok::<_, runtime::Error>(())
        })?;
        Ok(Speed::Encoding {
            of: self.clone(),
            latency,
            device: Latency::new(device),
        })
    }
}

impl Speed {
    /// The median seconds of that step by the device's own clock, where it has one.
    pub fn on_device(&self) -> Option<f64> {
        let latency = match self {
            Speed::Generation {
                step: Some(_),
                device: [_, on_step],
                ..
            } => on_step,
            Speed::Generation {
                device: [on_prefill, _],
                ..
            } => on_prefill,
            Speed::Encoding { device, .. } => device,
        };
        latency.as_ref().map(Latency::median)
    }

    /// The step that is held against the machine's ceilings, and its median time in seconds. Of a decoder that
    /// generates, a step of one token a sequence.
    pub fn step(&self) -> (Step, f64) {
        match self {
            Speed::Generation {
                of, prefill, step, ..
            } => {
                let latency = step.as_ref().unwrap_or(prefill);
                (Workload::Generation(*of).typical(), latency.median())
            }
            Speed::Encoding { of, latency, .. } => {
                (Workload::Encoding(of.clone()).typical(), latency.median())
            }
        }
    }
}

/// What passed on a clock, if there is one.
fn between(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    Some(after?.saturating_sub(before?))
}

/// Appends tokens to each sequence; gives the likeliest token after them.
fn next<'a>(
    session: &mut Session,
    tokens: impl Iterator<Item = &'a [u32]>,
) -> Result<Vec<u32>, Error> {
    let chunk = |(sequence, tokens)| Chunk {
        sequence,
        tokens,
        positions: None,
    };
    let chunks: Vec<Chunk<'_>> = tokens.enumerate().map(chunk).collect();
    let logits = session.step(&chunks, Select::Last)?;
    Ok(logits.rows().map(|row| argmax(row) as u32).collect())
}

/// Ids that spread over the vocabulary: neither one row of the embeddings nor special tokens only.
fn tokens(count: usize, session: &Session) -> Vec<u32> {
    let vocabulary = session.model().description().vocabulary;
    (0..count)
        .map(|i| ((i * 7919 + 997) % vocabulary) as u32)
        .collect()
}
