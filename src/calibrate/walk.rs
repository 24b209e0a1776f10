//! Runs an observed program layer by layer over many steps. Keeps between layers what later layers read, and no more.

use super::Error;
use compiler::plan::Observed;
use ir::{Operand, artifact::LayerResult};
use runtime::{Options, Prepared, Select, Session};
use std::{collections::BTreeMap, sync::Arc};

/// Results of calls that are kept, by call and output.
pub(super) type Kept = BTreeMap<(usize, usize), Vec<f32>>;

/// See the module's text.
pub(super) struct Walk<'a> {
    observed: &'a Observed,
    session: Session,
    pub steps: Vec<Prepared>,
}

impl<'a> Walk<'a> {
    /// Of sequences that `model`, compiled from `observed`, is to run. `select` says whose logits a decoder gives.
    pub fn new(
        observed: &'a Observed,
        model: &Arc<runtime::Model>,
        sequences: &[Vec<u32>],
        select: Select,
    ) -> Result<Walk<'a>, Error> {
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(1);
        let decodes = model.description().task == ir::Task::CausalLm;
        let options = Options {
            context: decodes.then_some(longest),
            ..Options::default()
        };
        let mut session = Session::new(model, options)?;
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let steps = session.prepare(&sequences, select)?;
        Ok(Walk {
            observed,
            session,
            steps,
        })
    }

    /// Runs a call of step `step`, of whose earlier results `kept` has those that it reads: its results by output.
    pub fn run(
        &mut self,
        step: usize,
        call: usize,
        kept: &Kept,
    ) -> Result<BTreeMap<usize, Vec<f32>>, Error> {
        let model = Arc::clone(self.session.model());
        let layers = &model.manifest().plan.layers;
        let mut given: Vec<(&LayerResult, &[f32])> = vec![];
        for arg in &self.observed.program.calls[call].args {
            let Operand::Result { call, output } = arg else {
                continue;
            };
            let mut results = layers[*call].results.iter();
            let place = results.find(|r| r.output as usize == *output);
            let value = kept.get(&(*call, *output));
            let (Some(place), Some(value)) = (place, value) else {
                let (call, output) = (*call, *output);
                return Err(Error::Layer {
                    layer: layers[call].name.to_string(),
                    output,
                });
            };
            given.push((place, value));
        }
        let values = self.session.run_layer(&self.steps[step], call, &given)?;
        let outputs = layers[call].results.iter().map(|r| r.output as usize);
        Ok(outputs.zip(values).collect())
    }

    /// Keeps those of the results of `call` that calls after it read.
    pub fn keep(&self, kept: &mut Kept, call: usize, results: BTreeMap<usize, Vec<f32>>) {
        for (output, value) in results {
            if self.observed.readers(call).any(|(o, _)| o == output) {
                kept.insert((call, output), value);
            }
        }
    }

    /// Forgets what no call from `call` on reads.
    pub fn forget(&self, kept: &mut Kept, call: usize) {
        kept.retain(|(of, output), _| {
            self.observed
                .readers(*of)
                .any(|(o, reader)| o == *output && reader >= call)
        });
    }
}
