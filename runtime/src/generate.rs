//! Generation: step, choose, repeat. Knows neither how logits come about nor how a token is chosen from them.

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

/// The tokens that follow a prompt, computed as they are asked for. See [`Session::generate`].
pub struct Generation<'a, S> {
    session: &'a mut Session,
    sequence: usize,
    sampler: S,
    /// Tokens that the session has not seen yet.
    pending: Vec<u32>,
    prompt: bool,
    left: usize,
    ignore_eos: bool,
    finish: Option<Finish>,
}

impl Session {
    /// Continues `sequence` by `prompt` and then by at most `max_tokens` tokens, each chosen by `sampler` from the
    /// logits, e.g. `|logits| sampler.sample(logits)` with a [`Sampler`](crate::sample::Sampler).
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
            sequence,
            sampler,
            pending: prompt.to_vec(),
            prompt: true,
            left: max_tokens,
            ignore_eos: false,
            finish: None,
        }
    }
}

impl<S> Generation<'_, S> {
    /// Treats tokens that end a generation like any other.
    pub fn ignore_eos(mut self, ignore: bool) -> Self {
        self.ignore_eos = ignore;
        self
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }
}

impl<S: FnMut(&[f32]) -> Result<u32, SampleError>> Generation<'_, S> {
    /// Lets the session see what it has not, and chooses what follows. `None` where the context is full.
    fn step(&mut self) -> Result<Option<u32>, Error> {
        let full =
            self.session.length(self.sequence)? + self.pending.len() > self.session.context();
        if full && !self.prompt {
            return Ok(None);
        }
        let chunk = Chunk {
            sequence: self.sequence,
            tokens: &self.pending,
            positions: None,
        };
        let logits = self.session.step(&[chunk], Select::Last)?;
        let token = (self.sampler)(logits.row(0))?;
        self.prompt = false;
        self.pending.clear();
        self.pending.push(token);
        Ok(Some(token))
    }
}

impl<S: FnMut(&[f32]) -> Result<u32, SampleError>> Iterator for Generation<'_, S> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Result<u32, Error>> {
        if self.finish.is_some() {
            return None;
        }
        if self.left == 0 {
            self.finish = Some(Finish::Length);
            return None;
        }
        self.left -= 1;
        match self.step() {
            Ok(Some(token)) => {
                let ends = self.session.model().description().eos.contains(&token);
                if ends && !self.ignore_eos {
                    self.finish = Some(Finish::Eos);
                    return None;
                }
                Some(Ok(token))
            }
            Ok(None) => {
                self.finish = Some(Finish::Context);
                None
            }
            Err(error) => {
                self.finish = Some(Finish::Error);
                Some(Err(error))
            }
        }
    }
}
