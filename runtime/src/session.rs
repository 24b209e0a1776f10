//! A session: a model's memory between steps. Numbers the rows of the cache, cuts what it is given into steps of the
//! size the plan was made for, and refuses what the model cannot take before anything runs. Knows no devices.

use crate::{
    Error,
    batch::{Batch, Feed, Limits, Token},
    devices::{Engine, Room},
    model::Model,
    pool,
    prepared::Prepared,
    trace::Trace,
};
use ir::{DType, Dim, Positions, Task, Type, artifact::Plan, feed};
use std::{sync::Arc, time::Duration};

/// How a session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads, the calling one included; by default one a core. Results do not depend on it.
    pub threads: Option<usize>,
    /// Sequences that a decoder keeps at once. Encoders keep none.
    pub sequences: usize,
    /// Tokens that a sequence may have; by default what the model allows. Memory is used as sequences grow.
    pub context: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: None,
            sequences: 1,
            context: None,
        }
    }
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Which, from 0.
    pub sequence: usize,
    /// Appended to what the sequence already has.
    pub tokens: &'a [u32],
    /// Position of each as the model counts; by default its index in the sequence.
    pub positions: Option<&'a [i32]>,
}

/// Whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The last token's of each chunk.
    Last,
    /// Every token's.
    All,
}

/// Logits of the selected tokens, one row each, chunk after chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logits<'a> {
    /// Row-major `[rows, vocabulary]`.
    pub data: &'a [f32],
    /// Elements of a row.
    pub vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + use<'a> {
        self.data.chunks_exact(self.vocabulary.max(1))
    }

    /// Row `i`.
    ///
    /// # Panics
    /// Beyond the selected tokens.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.vocabulary..][..self.vocabulary]
    }
}

/// What counts an output's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Per {
    Token,
    Selected,
    Sequence,
}

/// An output of the plan.
#[derive(Debug)]
pub(crate) struct Output {
    pub name: ir::Name,
    pub per: Per,
    /// Elements of a row.
    pub width: usize,
}

/// What [`Session::assume`] fills keys and values with: as f32, f16, bf16 or an integer with its scale a number near 1 or
/// below, so that sums of products stay finite.
const ASSUMED: u8 = 0x3c;

/// The symbols a session gives values to.
const SYMBOLS: [&str; 4] = [feed::T, feed::L, feed::B, feed::R];

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    pub(crate) model: Arc<Model>,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) batch: Batch,
    /// For each of the plan's inputs.
    feeds: Vec<Feed>,
    pub(crate) outputs: Vec<Output>,
    /// For each of the plan's symbols, its index in [`SYMBOLS`].
    symbols: Vec<usize>,
    /// Scratch for the symbols' values.
    dims: Vec<i64>,
    context: usize,
    /// Rows of the cache from one sequence to the next.
    stride: usize,
    /// Tokens of each sequence.
    lengths: Vec<usize>,
    /// Lengths after the step that is being prepared.
    staged: Vec<usize>,
    /// Logits of a step that took several runs.
    gathered: Vec<f32>,
    /// What the runs of the last step did, where that is traced.
    pub(crate) traces: Option<Vec<Trace>>,
    /// Runs that are prepared instead of run, where that is asked for.
    pub(crate) prepared: Option<Vec<Prepared>>,
}

impl Session {
    /// Memory and threads to run `model`.
    ///
    /// # Errors
    /// An option beyond what the model allows, no memory, or a plan that wants what no session gives.
    pub fn new(model: &Arc<Model>, options: Options) -> Result<Session, Error> {
        let (plan, description) = (&model.manifest().plan, model.description());
        let at_most = |option, found: usize, limit: usize| match found {
            1.. if found <= limit => Ok(found),
            _ => Err(Error::Options {
                option,
                found,
                limit,
            }),
        };
        let context = options.context.unwrap_or(description.context);
        let context = at_most("context", context, description.context)?;
        let max = |name| {
            plan.symbols
                .iter()
                .find(|s| &*s.name == name)
                .map(|s| s.max as usize)
        };
        // Rows of the cache are i32.
        let rows = max(feed::R).unwrap_or(usize::MAX).min(i32::MAX as usize);
        // A sequence begins where a block does, so that its results do not depend on its number.
        let stride = plan.states.iter().map(|s| s.rows(context)).max();
        let stride = stride.unwrap_or(context);
        let sequences = at_most("sequences", options.sequences, rows / stride)?;
        let threads = options.threads.unwrap_or_else(pool::default_threads);
        let threads = at_most("threads", threads, MAX_THREADS)?;

        let limits = Limits {
            tokens: max(feed::T).unwrap_or(context),
            selected: max(feed::L).unwrap_or(usize::MAX),
            sequences: max(feed::B).unwrap_or(usize::MAX),
        };
        let symbols = symbols(plan)?;
        let capacity = |i: &usize| match SYMBOLS[*i] {
            feed::R => (sequences * stride) as i64,
            name => max(name).unwrap_or(0) as i64,
        };
        let capacity: Vec<i64> = symbols.iter().map(capacity).collect();
        Ok(Session {
            feeds: feeds(plan)?,
            outputs: outputs(plan)?,
            engine: model.engine(Room {
                threads,
                capacity: &capacity,
            })?,
            model: Arc::clone(model),
            batch: Batch::new(limits),
            dims: vec![0; symbols.len()],
            symbols,
            context,
            stride,
            lengths: vec![0; sequences],
            staged: vec![0; sequences],
            gathered: vec![],
            traces: None,
            prepared: None,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Threads that run it: what was asked for, or what the system gave.
    pub fn threads(&self) -> usize {
        self.engine.threads()
    }

    /// Tokens that a sequence may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Sequences that a decoder keeps at once.
    pub fn sequences(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens that `sequence` has.
    ///
    /// # Errors
    /// No such sequence.
    pub fn length(&self, sequence: usize) -> Result<usize, Error> {
        let sequences = self.lengths.len();
        self.lengths.get(sequence).copied().ok_or(Error::Sequence {
            sequence,
            sequences,
        })
    }

    /// Measures each launch of the following steps, from zero, or stops.
    pub fn measure(&mut self, on: bool) {
        self.engine.measure(on);
    }

    /// Sums the time of the steps from now on by the device's own clock, from zero, where it has one.
    ///
    /// # Errors
    /// The device failed.
    pub fn clock(&mut self) -> Result<(), Error> {
        self.engine.clock()
    }

    /// What steps took since [`Session::clock`] by the device's own clock, copies in and out included; nothing where it has
    /// none, as processors.
    pub fn elapsed(&self) -> Option<Duration> {
        self.engine.elapsed()
    }

    /// The plan's launches in order and the wall time that each has taken since [`Session::measure`].
    pub fn times(&self) -> impl Iterator<Item = (&str, Duration)> {
        let launches = &self.model().manifest().plan.launches;
        launches
            .iter()
            .map(|l| &*l.name)
            .zip(self.engine.times().iter().copied())
    }

    /// Forgets all tokens of `sequence`.
    ///
    /// # Errors
    /// No such sequence.
    pub fn reset(&mut self, sequence: usize) -> Result<(), Error> {
        self.truncate(sequence, 0)
    }

    /// Forgets all but the first `len` tokens of `sequence`; nothing where it has no more.
    ///
    /// # Errors
    /// No such sequence.
    pub fn truncate(&mut self, sequence: usize, len: usize) -> Result<(), Error> {
        self.lengths[sequence] = self.length(sequence)?.min(len);
        Ok(())
    }

    /// Takes `tokens` tokens of every sequence for granted, in place of what it had: as if they had been run, with keys and
    /// values that are numbers, but not theirs. For measuring what steps in a long context take, without the time to get
    /// there.
    ///
    /// # Errors
    /// More tokens than the context, or the device failed.
    pub fn assume(&mut self, tokens: usize) -> Result<(), Error> {
        if tokens > self.context {
            return Err(Error::Context {
                sequence: 0,
                length: tokens,
                context: self.context,
            });
        }
        self.engine.fill(ASSUMED)?;
        self.lengths.fill(tokens);
        Ok(())
    }

    /// Runs new tokens of any number of sequences, a whole prompt or one token each, and appends them.
    ///
    /// # Errors
    /// A batch or chunk without tokens, an unknown sequence or token, a full context, a position out of range, or a
    /// model that is no decoder. Then nothing has been appended.
    pub fn step(&mut self, batch: &[Chunk<'_>], select: Select) -> Result<Logits<'_>, Error> {
        self.step_of(batch.iter().copied(), select)
    }

    /// [`Session::step`] of chunks that lie anywhere.
    pub(crate) fn step_of<'c>(
        &mut self,
        batch: impl Iterator<Item = Chunk<'c>> + Clone,
        select: Select,
    ) -> Result<Logits<'_>, Error> {
        let logits = self.decoder("a step of generation")?;
        self.check(batch.clone())?;
        self.staged.copy_from_slice(&self.lengths);
        self.gathered.clear();
        self.begin();
        for chunk in batch {
            let first = chunk.sequence * self.stride;
            let length = match chunk.positions.and_then(|p| p.iter().max()) {
                Some(last) => last + 1,
                None => (self.staged[chunk.sequence] + chunk.tokens.len()) as i32,
            };
            let mut begun = false;
            for (i, token) in chunk.tokens.iter().enumerate() {
                let selected = select == Select::All || i + 1 == chunk.tokens.len();
                if !self.batch.fits(1, selected.into(), (!begun).into()) {
                    self.run()?;
                    self.gathered.extend_from_slice(self.engine.output(logits));
                    self.batch.clear();
                    begun = false;
                }
                if !begun {
                    self.batch.begin();
                    begun = true;
                }
                let slot = self.staged[chunk.sequence];
                self.staged[chunk.sequence] = slot + 1;
                let row = (first + slot) as i32;
                self.batch.push(Token {
                    id: *token as i32,
                    position: chunk.positions.map_or(slot as i32, |p| p[i]),
                    token_type: 0,
                    lo: first as i32,
                    hi: row + 1,
                    row,
                    length,
                    selected,
                });
            }
        }
        self.run()?;
        self.lengths.copy_from_slice(&self.staged);
        let last = self.engine.output(logits);
        let data = if self.gathered.is_empty() {
            last
        } else {
            self.gathered.extend_from_slice(last);
            &self.gathered
        };
        Ok(Logits {
            data,
            vocabulary: self.outputs[logits].width,
        })
    }

    /// Index of the output `logits` of a decoder.
    fn decoder(&self, wanted: &'static str) -> Result<usize, Error> {
        let decodes = self.model().description().task == Task::CausalLm;
        let logits = self
            .outputs
            .iter()
            .position(|o| &*o.name == "logits" && o.per == Per::Selected);
        logits
            .filter(|_| decodes)
            .ok_or_else(|| self.refuse(wanted))
    }

    pub(crate) fn refuse(&self, wanted: &'static str) -> Error {
        let outputs = &self.model().manifest().plan.outputs;
        let gives: Vec<String> = outputs
            .iter()
            .map(|o| format!("{}: {}", o.name, o.ty))
            .collect();
        let architecture = self.model().description().architecture.clone();
        Error::Task {
            wanted,
            architecture,
            gives: gives.join(", "),
        }
    }

    /// Refuses a batch that cannot run, before any of it does.
    fn check<'c>(&mut self, batch: impl Iterator<Item = Chunk<'c>>) -> Result<(), Error> {
        let mut empty = true;
        self.staged.copy_from_slice(&self.lengths);
        for chunk in batch {
            let sequence = chunk.sequence;
            let (count, start) = (chunk.tokens.len(), self.length(sequence)?);
            let wrong = |why| Err(Error::Input { sequence, why });
            if count == 0 {
                return wrong("the prompt is empty; give at least one token".into());
            }
            self.staged[sequence] += count;
            if self.staged[sequence] > self.context {
                let length = self.staged[sequence];
                return Err(Error::Context {
                    sequence,
                    length,
                    context: self.context,
                });
            }
            if let Some(positions) = chunk.positions.filter(|p| p.len() != count) {
                return wrong(format!("{} positions for {count} tokens", positions.len()));
            }
            for (i, token) in chunk.tokens.iter().enumerate() {
                self.check_token(sequence, start + i, *token)?;
            }
            for position in chunk.positions.unwrap_or_default() {
                self.check_position(sequence, *position)?;
            }
            empty = false;
        }
        match empty {
            false => Ok(()),
            true => Err(Error::Input {
                sequence: 0,
                why: "the batch is empty".into(),
            }),
        }
    }

    pub(crate) fn check_token(
        &self,
        sequence: usize,
        position: usize,
        token: u32,
    ) -> Result<(), Error> {
        let vocabulary = self.model().description().vocabulary;
        match (token as usize) < vocabulary {
            true => Ok(()),
            false => Err(Error::Token {
                sequence,
                token,
                position,
                vocabulary,
            }),
        }
    }

    pub(crate) fn check_position(&self, sequence: usize, position: i32) -> Result<(), Error> {
        let description = self.model().description();
        let limit = match description.positions {
            Positions::Index | Positions::Unmasked => description.context as i64,
            Positions::NonPadding { pad } => description.context as i64 + i64::from(pad) + 1,
        };
        match (0..limit).contains(&position.into()) {
            true => Ok(()),
            false => {
                let why = format!(
                    "position {position} is out of range, the model has 0 to {}",
                    limit - 1
                );
                Err(Error::Input { sequence, why })
            }
        }
    }

    /// Begins a step, of one run or several.
    pub(crate) fn begin(&mut self) {
        self.batch.clear();
        if let Some(traces) = &mut self.traces {
            traces.clear();
        }
    }

    /// Runs the batch. The engine counts on what [`Session::check`] and the encoder's checks have established.
    pub(crate) fn run(&mut self) -> Result<(), Error> {
        for (value, symbol) in self.dims.iter_mut().zip(&self.symbols) {
            *value = match SYMBOLS[*symbol] {
                feed::T => self.batch.tokens(),
                feed::L => self.batch.selected(),
                feed::B => self.batch.sequences(),
                _ => self.lengths.len() * self.stride,
            } as i64;
        }
        let inputs = self.feeds.iter().map(|feed| self.batch.column(*feed));
        if let Some(prepared) = &mut self.prepared {
            let inputs = inputs.map(<[i32]>::to_vec).collect();
            let (dims, tokens) = (self.dims.clone(), self.batch.tokens());
            prepared.push(Prepared::new(inputs, dims, tokens));
            return Ok(());
        }
        for (i, values) in inputs.enumerate() {
            self.engine.input(i)[..values.len()].copy_from_slice(values);
        }
        match &mut self.traces {
            None => self.engine.run(&self.dims),
            Some(traces) => {
                let plan = &self.model.manifest().plan;
                traces.push(Trace::run(&mut *self.engine, plan, &self.dims)?);
                Ok(())
            }
        }
    }

    /// Output `i` of the last run.
    pub(crate) fn output(&self, i: usize) -> &[f32] {
        self.engine.output(i)
    }
}

/// More threads than any machine has cores.
const MAX_THREADS: usize = 1024;

/// Which of [`SYMBOLS`] each of the plan's is.
fn symbols(plan: &Plan) -> Result<Vec<usize>, Error> {
    let known = |name: &str| SYMBOLS.iter().position(|s| *s == name);
    let index = |s: &ir::Sym| {
        known(&s.name).ok_or_else(|| Error::Plan {
            what: "symbol",
            name: s.name.to_string(),
            known: SYMBOLS.join(", "),
        })
    };
    plan.symbols.iter().map(index).collect()
}

/// What to feed to each of the plan's inputs.
fn feeds(plan: &Plan) -> Result<Vec<Feed>, Error> {
    let known = |name: &str, ty: &Type| {
        let form = match name {
            feed::PATCHES => (DType::F32, 2),
            _ => (DType::I32, 1),
        };
        let symbol = leading(ty).filter(|_| (ty.dtype, ty.shape.len()) == form)?;
        Feed::named(name, symbol)
    };
    let feed = |port: &ir::artifact::Port| {
        known(&port.name, &port.ty).ok_or_else(|| Error::Plan {
            what: "input",
            name: format!("{}: {}", port.name, port.ty),
            known: Feed::known(),
        })
    };
    plan.inputs.iter().map(feed).collect()
}

/// What each of the plan's outputs has rows for.
fn outputs(plan: &Plan) -> Result<Vec<Output>, Error> {
    let output = |port: &ir::artifact::Port| {
        let per = match leading(&port.ty) {
            Some(feed::T) => Some(Per::Token),
            Some(feed::L) => Some(Per::Selected),
            Some(feed::B) => Some(Per::Sequence),
            _ => None,
        };
        let width = port
            .ty
            .shape
            .iter()
            .skip(1)
            .map(Dim::size)
            .product::<Option<usize>>();
        let known = per.zip(width).filter(|_| port.ty.dtype == DType::F32);
        let (per, width) = known.ok_or_else(|| Error::Plan {
            what: "output",
            name: format!("{}: {}", port.name, port.ty),
            known: "f32[T, n], f32[L, n], f32[B, n]".into(),
        })?;
        Ok(Output {
            name: port.name.clone(),
            per,
            width,
        })
    };
    plan.outputs.iter().map(output).collect()
}

/// The symbol that is the first axis.
fn leading(ty: &Type) -> Option<&str> {
    let first = ty.shape.first()?;
    let symbol = first.symbols().next()?;
    (Dim::from(symbol) == *first).then_some(&*symbol.name)
}
