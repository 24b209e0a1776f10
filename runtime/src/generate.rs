//! Generation: step, choose, repeat, for one sequence or several at once. Knows neither how logits come about nor how a
//! token is chosen from them.

use crate::{
    Error,
    sample::SampleError,
    session::{Chunk, Select, Session},
};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so, by a token of [`eos`](ir::Description::eos).
    Eos,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// A step failed.
    Error,
}

/// A sequence that is being continued: what the session has not seen of it, and how much may follow. See
/// [`Session::advance`].
#[derive(Clone, Debug)]
pub struct Continuation<S> {
    sequence: usize,
    sampler: S,
    /// Tokens that the session has not seen yet: the prompt, then the token chosen last.
    pending: Vec<u32>,
    prompt: bool,
    left: usize,
    ignore_eos: bool,
    finish: Option<Finish>,
}

impl<S> Continuation<S> {
    /// Continues `sequence` by `prompt` and then by at most `max_tokens` tokens, each chosen by `sampler` from the
    /// logits, e.g. `|logits| sampler.sample(logits)` with a [`Sampler`](crate::sample::Sampler).
    pub fn new(sequence: usize, prompt: &[u32], max_tokens: usize, sampler: S) -> Self {
        Continuation {
            sequence,
            sampler,
            pending: prompt.to_vec(),
            prompt: true,
            left: max_tokens,
            ignore_eos: false,
            finish: None,
        }
    }

    /// Treats tokens that end a generation like any other.
    pub fn ignore_eos(mut self, ignore: bool) -> Self {
        self.ignore_eos = ignore;
        self
    }

    /// Which sequence of the session it is.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The token chosen last, which is not one that ended the generation; none before the first.
    pub fn token(&self) -> Option<u32> {
        let chosen = !self.prompt && self.finish != Some(Finish::Eos);
        self.pending.last().copied().filter(|_| chosen)
    }

    /// Tokens that its next step computes.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn grows(&self) -> bool {
        self.finish.is_none()
    }
}

/// The tokens that follow a prompt, computed as they are asked for. See [`Session::generate`].
pub struct Generation<'a, S> {
    session: &'a mut Session,
    continuation: Continuation<S>,
}

impl Session {
    /// Lets each of `continuations` that has not ended grow by a token, all in one step; tells how many took part, none
    /// where all have ended. One whose [`Continuation::finish`] is none afterwards has chosen its
    /// [`Continuation::token`]. What a sequence becomes does not depend on the others.
    ///
    /// # Errors
    /// As [`Session::step`], or a sampler refuses its logits; all that would have grown end by [`Finish::Error`].
    pub fn advance<S: FnMut(&[f32]) -> Result<u32, SampleError>>(
        &mut self,
        continuations: &mut [Continuation<S>],
    ) -> Result<usize, Error> {
        let grown = self.grow(continuations);
        if grown.is_err() {
            let growing = continuations.iter_mut().filter(|c| c.grows());
            growing.for_each(|c| c.finish = Some(Finish::Error));
        }
        grown
    }

    fn grow<S: FnMut(&[f32]) -> Result<u32, SampleError>>(
        &mut self,
        continuations: &mut [Continuation<S>],
    ) -> Result<usize, Error> {
        for c in continuations.iter_mut().filter(|c| c.grows()) {
            let full = self.length(c.sequence)? + c.pending.len() > self.context();
            c.finish = match c.left {
                0 => Some(Finish::Length),
                _ if full && !c.prompt => Some(Finish::Context),
                _ => None,
            };
        }
        let growing = || continuations.iter().filter(|c| c.grows());
        let count = growing().count();
        if count == 0 {
            return Ok(0);
        }
        let chunks = growing().map(|c| Chunk {
            sequence: c.sequence,
            tokens: &c.pending,
            positions: None,
        });
        let logits = self.step_of(chunks, Select::Last)?;
        let growing = continuations.iter_mut().filter(|c| c.grows());
        for (c, logits) in growing.zip(logits.rows()) {
            let token = (c.sampler)(logits)?;
            (c.prompt, c.left) = (false, c.left - 1);
            c.pending.clear();
            c.pending.push(token);
        }
        let ends = &self.model().description().eos;
        for c in continuations.iter_mut().filter(|c| c.grows()) {
            if ends.contains(&c.pending[0]) && !c.ignore_eos {
                c.finish = Some(Finish::Eos);
            }
        }
        Ok(count)
    }

    /// Continues `sequence` by `prompt` and then by at most `max_tokens` tokens: a [`Continuation`] alone.
    ///
    /// A token that ends the generation is not given out. The session has seen all tokens given out but the last: a
    /// following prompt starts with that one.
    pub fn generate<S: FnMut(&[f32]) -> Result<u32, SampleError>>(
        &mut self,
        sequence: usize,
        prompt: &[u32],
        max_tokens: usize,
        sampler: S,
    ) -> Generation<'_, S> {
        Generation {
            session: self,
            continuation: Continuation::new(sequence, prompt, max_tokens, sampler),
        }
    }
}

impl<S> Generation<'_, S> {
    /// As [`Continuation::ignore_eos`].
    pub fn ignore_eos(mut self, ignore: bool) -> Self {
        self.continuation = self.continuation.ignore_eos(ignore);
        self
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.continuation.finish
    }
}

impl<S: FnMut(&[f32]) -> Result<u32, SampleError>> Iterator for Generation<'_, S> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Result<u32, Error>> {
        if !self.continuation.grows() {
            return None;
        }
        match self
            .session
            .advance(std::slice::from_mut(&mut self.continuation))
        {
            Err(error) => Some(Err(error)),
            Ok(_) if self.continuation.grows() => self.continuation.token().map(Ok),
            Ok(_) => None,
        }
    }
}
