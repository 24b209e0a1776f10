//! Running layer by layer: what a step was given and what each layer made of it. The same launches as always, stopped
//! after each layer to look; for comparing and debugging, not for speed.

use crate::{
    Error, Session,
    devices::{Engine, Stop},
};
use ir::{
    Name, Sym, Tensor,
    artifact::{Base, Layer, LayerResult, Plan},
};

/// One run of the plan; a step of more tokens than the plan takes at once is several. Tokens are packed: rows of all
/// sequences one after another, without padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The plan's symbols and their values.
    pub symbols: Vec<(Sym, i64)>,
    /// The plan's inputs as they were fed.
    pub inputs: Vec<(Name, Tensor)>,
    /// For each of the plan's [layers](Plan::layers), what it gave: its results in order.
    pub layers: Vec<Vec<Tensor>>,
}

impl Trace {
    /// Value of the symbol of that name, whatever its bound; 0 where the plan has no such.
    pub fn at(&self, symbol: &Sym) -> i64 {
        let known = self.symbols.iter().find(|(s, _)| s.name == symbol.name);
        known.map_or(0, |(_, value)| *value)
    }

    /// Runs one step of `engine`, whose inputs are fed, with symbol `i` of the plan at `dims[i]`.
    pub(crate) fn run(engine: &mut dyn Engine, plan: &Plan, dims: &[i64]) -> Result<Trace, Error> {
        let mut trace = Trace {
            symbols: plan.symbols.iter().cloned().zip(dims.to_vec()).collect(),
            inputs: vec![],
            layers: vec![],
        };
        for (i, port) in plan.inputs.iter().enumerate() {
            let shape = port.ty.at(&|s| trace.at(s));
            let fed = &engine.input(i)[..shape.iter().product()];
            let data = fed.iter().map(|x| f64::from(*x)).collect();
            trace
                .inputs
                .push((port.name.clone(), Tensor::new(shape, data)));
        }
        for layer in &plan.layers {
            let written = |r: &LayerResult| matches!(r.place.base, Base::Arena | Base::Output(_));
            if let Some(result) = layer.results.iter().find(|r| !written(r)) {
                return Err(Error::Plan {
                    what: "a layer's result in",
                    name: format!("{:?} (layer {})", result.place.base, layer.name),
                    known: "arena and outputs, which launches write".into(),
                });
            }
        }
        let shape = |result: &LayerResult| result.ty.at(&|s| trace.at(s));
        let stop = |layer: &Layer| {
            let values = layer.results.iter();
            Stop {
                launches: layer.end as usize,
                values: values
                    .map(|r| (r.place, shape(r).iter().product()))
                    .collect(),
            }
        };
        let stops: Vec<Stop> = plan.layers.iter().map(stop).collect();
        let seen = engine.trace(dims, &stops)?;
        let layers = plan.layers.iter().zip(seen).map(|(layer, values)| {
            let values = layer.results.iter().zip(values);
            let tensor = |(result, value): (&LayerResult, Vec<f32>)| {
                let data = value.into_iter().map(f64::from).collect();
                Tensor::new(shape(result), data)
            };
            values.map(tensor).collect()
        });
        trace.layers = layers.collect();
        Ok(trace)
    }
}

impl Session {
    /// Runs the following steps layer by layer and keeps what each layer gives, or stops to. What a step computes does
    /// not change, to the bit.
    pub fn trace(&mut self, on: bool) {
        self.traces = on.then(Vec::new);
    }

    /// What the runs of the last [`step`](Session::step) or [`encode`](Session::encode) did; nothing where that was not
    /// traced.
    pub fn traces(&self) -> &[Trace] {
        self.traces.as_deref().unwrap_or_default()
    }
}
