//! Steps that are prepared and run a layer at a time, in any order of steps: layer 3 of every step, then layer 4 of every
//! step. What a layer reads of earlier ones comes from the caller, who kept it. For statistics of one layer over much
//! text without holding those of all layers; not for speed.

use crate::{Chunk, EncoderInput, Error, Select, Session, devices::Part};
use ir::{Task, artifact::LayerResult};

/// The inputs of a step that has not run.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    inputs: Vec<Vec<i32>>,
    dims: Vec<i64>,
    tokens: usize,
}

impl Prepared {
    pub(crate) fn new(inputs: Vec<Vec<i32>>, dims: Vec<i64>, tokens: usize) -> Prepared {
        Prepared {
            inputs,
            dims,
            tokens,
        }
    }

    /// Tokens that it runs, packed without padding.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

impl Session {
    /// Steps that run whole sequences from their beginning, as many together as the session has room for; nothing runs
    /// yet. Of a decoder `select` says whose logits are computed.
    ///
    /// # Errors
    /// As [`Session::step`] and [`Session::encode`].
    pub fn prepare(
        &mut self,
        sequences: &[&[u32]],
        select: Select,
    ) -> Result<Vec<Prepared>, Error> {
        self.prepared = Some(vec![]);
        let done = self.feed(sequences, select);
        let prepared = self.prepared.take().unwrap_or_default();
        done.map(|()| prepared)
    }

    fn feed(&mut self, sequences: &[&[u32]], select: Select) -> Result<(), Error> {
        if self.model().description().task != Task::CausalLm {
            let inputs: Vec<EncoderInput<'_>> = sequences
                .iter()
                .map(|ids| EncoderInput {
                    ids,
                    ..EncoderInput::default()
                })
                .collect();
            self.encode(&inputs)?;
            return Ok(());
        }
        for group in sequences.chunks(self.sequences()) {
            let mut chunks = vec![];
            for (sequence, tokens) in group.iter().enumerate() {
                self.reset(sequence)?;
                chunks.push(Chunk {
                    sequence,
                    tokens,
                    positions: None,
                });
            }
            self.step(&chunks, select)?;
            for sequence in 0..group.len() {
                self.reset(sequence)?;
            }
        }
        Ok(())
    }

    /// Runs layer `layer` of the plan of a step, and gives its results in the plan's order. `given` are results of
    /// earlier layers that it reads, directly or as a residual: all others may have been overwritten meanwhile. A
    /// decoder's keys and values are in the session's memory only until another step runs the same layer.
    ///
    /// # Errors
    /// The device fails, or cannot stop between layers.
    ///
    /// # Panics
    /// Where the plan has no such layer, or a value is longer than its memory.
    pub fn run_layer(
        &mut self,
        step: &Prepared,
        layer: usize,
        given: &[(&LayerResult, &[f32])],
    ) -> Result<Vec<Vec<f32>>, Error> {
        for (i, values) in step.inputs.iter().enumerate() {
            self.engine.input(i)[..values.len()].copy_from_slice(values);
        }
        let plan = &self.model.manifest().plan;
        let begin = match layer {
            0 => 0,
            _ => plan.layers[layer - 1].end as usize,
        };
        let given: Vec<_> = given.iter().map(|(r, values)| (r.place, *values)).collect();
        let at = |s: &ir::Sym| {
            let known = plan.symbols.iter().position(|known| known == s);
            known.map_or(0, |i| step.dims[i])
        };
        let this = &plan.layers[layer];
        let values = this.results.iter();
        let values: Vec<_> = values
            .map(|r| (r.place, r.ty.at(&at).iter().product()))
            .collect();
        self.engine.part(
            &step.dims,
            Part {
                given: &given,
                launches: begin..this.end as usize,
                values: &values,
            },
        )
    }
}
