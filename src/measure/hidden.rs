//! Which of a plan's layers gives which of the reference implementation's hidden states. Knows how those are counted:
//! `hidden_states.0` is what the embeddings give, `hidden_states.N` what the Nth layer gives.

use super::Error;
use ir::{Dim, Task, artifact::LayerResult, artifact::Manifest, feed};
use runtime::Trace;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct HiddenStates {
    /// For each hidden state, the layer of the plan, and which of its results.
    places: Vec<(usize, usize)>,
    /// Elements of a row.
    pub width: usize,
    /// Whether the reference implementation gives the last one after the final norm, where compiled code has no value
    /// of its own: decoders compute that norm and the head as one, for the tokens that are wanted.
    normalised: bool,
}

impl HiddenStates {
    /// Those of a compiled model.
    ///
    /// # Errors
    /// The plan shows more or fewer values of that shape than the model has layers.
    pub fn of(manifest: &Manifest) -> Result<HiddenStates, Error> {
        let description = &manifest.description;
        let width = description.hidden;
        let is_state = |r: &LayerResult| {
            let [rows, columns] = &r.ty.shape[..] else {
                return false;
            };
            let tokens = rows.symbols().next();
            let tokens = tokens.filter(|s| *s.name == *feed::T && Dim::from(*s) == *rows);
            r.output == 0 && tokens.is_some() && columns.size() == Some(width)
        };
        let layers = manifest.plan.layers.iter().enumerate();
        let places = layers.filter_map(|(l, layer)| {
            let result = layer.results.iter().position(is_state)?;
            Some((l, result))
        });
        let mut places: Vec<(usize, usize)> = places.collect();
        let wanted = description.layers + 1;
        if places.len() < wanted {
            return Err(Error::Mismatch(format!(
                "the reference has hidden states, of which this model has {wanted}; its plan shows {} of them",
                places.len()
            )));
        }
        // What follows them is a head that happens to be as wide.
        places.truncate(wanted);
        Ok(HiddenStates {
            places,
            width,
            normalised: description.task == Task::CausalLm,
        })
    }

    /// The layer of the plan that gives state `n`; `None` where no value of compiled code is this state.
    pub fn layer(&self, n: usize) -> Option<usize> {
        let last = n + 1 == self.places.len();
        let place = self.places.get(n).filter(|_| !(last && self.normalised));
        place.map(|(layer, _)| *layer)
    }

    /// Number of the last one, as the reference counts.
    pub fn last(&self) -> usize {
        self.places.len() - 1
    }

    /// Rows of state `n` of all tokens of a step, packed.
    pub fn rows(&self, n: usize, traces: &[Trace]) -> Vec<f32> {
        let (layer, result) = self.places[n];
        let states = traces.iter().map(|t| &t.layers[layer][result].data);
        states.flatten().map(|x| *x as f32).collect()
    }
}
