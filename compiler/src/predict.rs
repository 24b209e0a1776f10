//! How long the steps of an artifact take, by the cost model it was compiled with: the same function that chose its
//! kernels, of what they do as they were scheduled. Measures nothing.

use crate::{
    Options,
    optimize::cost::{Binding, CostModel, CostTable, Roofline, TableError},
    schedule::{storage, weights_only},
};
use ir::{OpKind, Program, artifact::Manifest, feed};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// Heading under which an artifact's report has the measured costs it was compiled with: not for people.
pub const TABLE: &str = "cost table";

/// Heading under which it says which cost model that was.
const MODEL: &str = "cost model";

/// Measured costs as an artifact keeps them.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Bytes of weights that products read in a step.
    weights: u64,
    table: CostTable,
}

/// The cost model of an artifact.
#[derive(Debug)]
pub struct Costs {
    /// What kernels cost.
    pub model: Box<dyn CostModel>,
    /// Threads that it holds for, where it was measured.
    pub threads: Option<usize>,
    /// For people.
    pub about: String,
}

/// How large a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// New tokens of all sequences together.
    pub tokens: usize,
    /// Tokens whose outputs are wanted.
    pub selected: usize,
    /// Sequences.
    pub sequences: usize,
    /// Keys that a token attends to, on average.
    pub keys: usize,
}

impl Step {
    fn binding(self) -> Binding {
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Binding::new([
            (feed::T, size(self.tokens)),
            (feed::L, size(self.selected)),
            (feed::B, size(self.sequences)),
            (feed::R, size(self.keys * self.sequences)),
        ])
        .attending(self.keys as u64)
    }
}

impl Costs {
    /// Those that an artifact was compiled with.
    ///
    /// # Errors
    /// The table in it is damaged, or of other kernels.
    pub fn of(manifest: &Manifest) -> Result<Costs, TableError> {
        let kept = kept(manifest)?;
        let target = manifest.images.first().map(|i| &i.target);
        Ok(match kept {
            Some((table, weights)) => Costs {
                threads: Some(table.threads),
                about: table.about(),
                model: Box::new(table.of(weights)),
            },
            None => Costs {
                model: Box::new(target.map_or_else(Roofline::default, Roofline::of)),
                threads: None,
                about: ANALYTIC.into(),
            },
        })
    }

    /// Picoseconds of each launch of a step, in order.
    pub fn launches(&self, manifest: &Manifest, step: Step) -> Vec<u64> {
        let at = step.binding();
        let (plan, mut known) = (&manifest.plan, HashMap::new());
        let launches = plan.launches.iter().map(|launch| {
            *known.entry(launch.kernel).or_insert_with(|| {
                let work = plan.work.get(launch.kernel as usize);
                work.map_or(0, |work| self.model.kernel(&at.work(work)))
            })
        });
        launches.collect()
    }
}

/// What is said of costs that nobody measured.
const ANALYTIC: &str = "analytic (`satura tune` measures this machine's)";

/// The measured costs in an artifact, and the bytes of weights that its products read.
pub(crate) fn kept(manifest: &Manifest) -> Result<Option<(Arc<CostTable>, u64)>, TableError> {
    let text = manifest.report.iter().find(|(heading, _)| heading == TABLE);
    let Some((_, text)) = text else {
        return Ok(None);
    };
    let kept: Kept = serde_json::from_str(text).map_err(|e| TableError::Damaged(e.to_string()))?;
    kept.table.check()?;
    Ok(Some((Arc::new(kept.table), kept.weights)))
}

/// What an artifact says of its cost model.
pub(crate) fn report(options: &Options, built: &Program) -> Vec<(String, String)> {
    let about = |text: String| (MODEL.to_string(), text);
    let Some(table) = &options.costs else {
        return vec![about(ANALYTIC.into())];
    };
    let kept = Kept {
        weights: weights(built),
        table: (**table).clone(),
    };
    let json = serde_json::to_string(&kept).expect("numbers and names");
    vec![about(table.about()), (TABLE.into(), json)]
}

/// Bytes of weights that the products of a step read.
pub(crate) fn weights(program: &Program) -> u64 {
    let of_graph = |graph: &ir::Graph| {
        let (storage, known) = (storage(graph), weights_only(graph));
        let products = graph.values().filter(|v| {
            let kind = graph.op(*v).map(|op| op.kind());
            matches!(kind, Some(OpKind::Linear | OpKind::MatMul | OpKind::Gemm))
        });
        let read = products.flat_map(|v| graph.args(v).iter().skip(1));
        let read = read.filter(|w| known[w.index()]);
        let bytes = read.map(|w| {
            let elements = graph.ty(*w).numel().size().unwrap_or(0);
            storage[w.index()].bytes(elements as u64)
        });
        bytes.fold(0, u64::saturating_add)
    };
    let graphs: HashMap<&ir::Name, u64> = (program.graphs.iter())
        .map(|(name, graph)| (name, of_graph(graph)))
        .collect();
    let calls = program.calls.iter().map(|call| graphs[&call.graph]);
    calls.fold(0, u64::saturating_add)
}
