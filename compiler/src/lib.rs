//! Program to artifact: checkpoints, model families, equality saturation, scheduling, code generation. Pure: the same
//! checkpoint and options give the same bytes. Opens no device.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub mod backends;
pub mod checkpoint;
pub mod compress;
pub mod explain;
pub mod fold;
pub mod models;
pub mod optimize;
pub mod plan;
mod precision;
pub mod predict;
mod reread;
pub mod schedule;
pub mod storage;

pub use precision::{Precision, Weights};

use backends::{EmitError, Unit, cuda::Nvrtc};
use checkpoint::{Checkpoint, CheckpointError};
use compress::{CacheError, CacheType, Overlay};
use fold::{Array, Expression, Fold, FoldError};
use indexmap::IndexMap;
use ir::{
    DType, Description, Dim, Float, Name, Operand, Program, Target, Task,
    artifact::{ArtifactError, Image, Manifest, Plan, Work, Writer},
    feed,
};
use models::ModelError;
use optimize::{
    OptimizeError, Reports,
    ablation::Ablation,
    cost::{CostModel, CostTable, Roofline},
};
use schedule::{Schedule, ScheduleError};
use std::{
    collections::HashMap,
    io::{BufWriter, Read, Seek, Write},
    sync::Arc,
};

/// What to compile for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the code may use.
    pub target: Target,
    /// How the model's numbers are stored and rounded.
    pub precision: Precision,
    /// NVIDIA's compiler, which targets that are GPUs need.
    pub nvrtc: Option<Nvrtc>,
    /// Rewrite rules to go without.
    pub without: Ablation,
    /// What kernels cost where the code is to run, measured; without it what is known of such machines counts.
    pub costs: Option<Arc<CostTable>>,
}

impl Options {
    /// For a target, weights as they are stored.
    pub fn new(target: Target) -> Options {
        Options {
            target,
            precision: Precision::default(),
            nvrtc: None,
            without: Ablation::default(),
            costs: None,
        }
    }
}

/// Where each term of each call was written, in bytes from the weights' first, by call and term.
pub(crate) type Offsets = HashMap<(usize, usize), u64>;

/// A stage of the compiler, for progress bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading and checking the checkpoint.
    Check,
    /// Rewriting the unique blocks.
    Optimize,
    /// Generating code.
    Emit,
    /// Computing and writing weights.
    Pack,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "each variant is the error of the stage it names"
)]
pub enum CompileError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("optimizing: {0}")]
    Optimize(#[from] OptimizeError),
    #[error("scheduling {graph}: {error}")]
    Schedule { graph: Name, error: ScheduleError },
    #[error(transparent)]
    Emit(#[from] EmitError),
    #[error("weights of {graph}: {error}")]
    Fold { graph: Name, error: FoldError },
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(
        "{weight}: the artifact that was written holds {found:?} at {at:?}, where {meant} was meant; this is a bug in the \
         compiler, and the artifact is not to be used"
    )]
    Reread {
        weight: String,
        at: [usize; 2],
        found: Option<f32>,
        meant: f32,
    },
    #[error("the program is malformed, which is a bug in the model's builder: {}", .0.join("; "))]
    Malformed(Vec<String>),
}

/// A program on its way to an artifact: what `satura inspect` shows of each stage.
pub struct Compilation {
    /// What it is compiled for.
    pub options: Options,
    /// What the model is.
    pub description: Description,
    /// As the family built it.
    pub built: Program,
    /// After rewriting.
    pub optimized: Program,
    /// What the optimizer did.
    pub reports: Reports,
    /// Kernels of each unique graph.
    pub schedules: IndexMap<Name, Schedule>,
    /// What the artifact's report says before what the compiler does: `(heading, text)`.
    pub report: Vec<(String, String)>,
}

impl Compilation {
    /// Everything up to code generation of a checkpoint. Reads headers, no weights.
    ///
    /// # Errors
    /// A model that is not covered, or that some stage cannot handle.
    pub fn new(
        checkpoint: &Checkpoint,
        options: &Options,
        progress: &dyn Fn(Stage, u64, u64),
    ) -> Result<Compilation, CompileError> {
        // A GPU wants many rows at once, each weight once for all of a prompt.
        let times = if options.target.is_gpu() { 4 } else { 1 };
        let config = checkpoint.config();
        let (mut built, description) = models::build_wide(config, checkpoint, times)?;
        if options.precision.cache == CacheType::Int8 && options.target.is_gpu() {
            return Err(CacheError::Device.into());
        }
        options
            .precision
            .apply(&mut built, description.vocabulary)?;
        let sizes = sizes(&description, options, &built);
        Compilation::of(built, description, &sizes, options, progress)
    }

    /// Everything up to code generation of a program, wherever it comes from.
    ///
    /// # Errors
    /// A malformed program, or one that some stage cannot handle.
    pub fn of(
        built: Program,
        description: Description,
        sizes: &optimize::Options,
        options: &Options,
        progress: &dyn Fn(Stage, u64, u64),
    ) -> Result<Compilation, CompileError> {
        let violations = built.verify();
        if !violations.is_empty() {
            return Err(CompileError::Malformed(
                violations.iter().map(ToString::to_string).collect(),
            ));
        }
        progress(Stage::Optimize, 0, 1);
        let (optimized, reports) = optimize::program(&built, sizes)?;
        progress(Stage::Optimize, 1, 1);
        let mut schedules = IndexMap::new();
        let order = backends::order(&options.target);
        for (name, graph) in &optimized.graphs {
            let schedule =
                schedule::graph(graph, order).map_err(|error| CompileError::Schedule {
                    graph: name.clone(),
                    error,
                })?;
            schedules.insert(name.clone(), schedule);
        }
        Ok(Compilation {
            options: options.clone(),
            description,
            built,
            optimized,
            reports,
            schedules,
            report: vec![],
        })
    }

    /// Generates code, computes weights and writes the artifact. `weight` gives a checkpoint tensor by name.
    ///
    /// # Errors
    /// See [`CompileError`]; `out` then holds no valid artifact.
    pub fn write<'a, W: Write + Seek>(
        mut self,
        weight: &dyn Fn(&Name) -> Result<Array<'a>, CompileError>,
        tokenizer: &[u8],
        out: W,
        progress: &dyn Fn(Stage, u64, u64),
    ) -> Result<W, CompileError> {
        Ok(self.put(weight, tokenizer, out, progress)?.0)
    }

    /// The same; also tells where each term of each call was written.
    fn put<'a, W: Write + Seek>(
        &mut self,
        weight: &dyn Fn(&Name) -> Result<Array<'a>, CompileError>,
        tokenizer: &[u8],
        out: W,
        progress: &dyn Fn(Stage, u64, u64),
    ) -> Result<(W, Offsets), CompileError> {
        let backend = backends::of(&self.options)?;
        if self.options.precision.weights == Weights::F32 {
            for schedule in self.schedules.values_mut() {
                schedule.widen();
            }
        }
        progress(Stage::Emit, 0, 1);
        let symbols = self.symbols();
        let (kernels, index) = self.kernels();
        let code = backend.emit(&kernels, &symbols)?;
        progress(Stage::Emit, 1, 1);
        let mut writer = Writer::new(out)?;
        let offsets = pack(self, weight, &mut writer, progress)?;
        let plan = schedule::link(
            &self.optimized,
            &self.schedules,
            &|call, term| offsets[&(call, term)],
            &|graph, kernel| index[&(graph.clone(), kernel)],
        )
        .map_err(|error| CompileError::Schedule {
            graph: "program".into(),
            error,
        })?;
        let plan = Plan {
            work: self.work(kernels.len(), &index),
            ..plan
        };
        let mut said = self.report.clone();
        said.extend(explain::report(self));
        let manifest = Manifest {
            compiler: env!("CARGO_PKG_VERSION").into(),
            images: vec![Image {
                target: self.options.target.clone(),
                toolkit: code.toolkit,
                offset: 0,
                len: code.bytes.len() as u64,
                kernels: code.kernels,
            }],
            description: self.description.clone(),
            plan,
            report: said,
        };
        Ok((writer.finish(&code.bytes, tokenizer, &manifest)?, offsets))
    }

    /// Names of the program's symbols, in the order in which kernels read their values.
    pub fn symbols(&self) -> Vec<Name> {
        let symbols = schedule::symbols(&self.optimized);
        symbols.into_iter().map(|s| s.name).collect()
    }

    /// What each of the unique kernels does.
    fn work(&self, kernels: usize, index: &HashMap<(Name, usize), u32>) -> Vec<Work<Dim>> {
        let mut all = vec![Work::default(); kernels];
        for (name, schedule) in &self.schedules {
            for (i, work) in schedule.work().into_iter().enumerate() {
                all[index[&(name.clone(), i)] as usize] = work;
            }
        }
        all
    }

    /// Every unique kernel, and the number in that list of each graph's kernels.
    pub fn kernels(&self) -> (Vec<Unit<'_>>, HashMap<(Name, usize), u32>) {
        let mut unique: Vec<Unit<'_>> = vec![];
        let mut index = HashMap::new();
        for (name, schedule) in &self.schedules {
            for (i, kernel) in schedule.kernels.iter().enumerate() {
                let known = unique.iter().position(|u| u.kernel == kernel);
                let at = known.unwrap_or_else(|| {
                    let step = schedule.steps.iter().find(|s| s.kernel == i);
                    let label = step.map_or("unused", |s| &s.label);
                    unique.push(Unit {
                        name: format!("{name}: {label}"),
                        kernel,
                    });
                    unique.len() - 1
                });
                index.insert((name.clone(), i), at as u32);
            }
        }
        (unique, index)
    }
}

/// Sizes at which alternatives are compared: a decoder is judged by little more than a token, whose logits alone are
/// wanted; an encoder by a sentence. Costs are the target's.
fn sizes(description: &Description, options: &Options, built: &Program) -> optimize::Options {
    let costs = options.costs.as_ref();
    let costs = costs.map(|table| (table, predict::weights(built)));
    optimize::Options {
        without: options.without.clone(),
        ..judged(description, &options.target, costs)
    }
}

/// The same, with measured costs of a model that reads so many bytes of weights.
fn judged(
    description: &Description,
    target: &Target,
    costs: Option<(&Arc<CostTable>, u64)>,
) -> optimize::Options {
    let (tokens, selected) = match description.task {
        Task::CausalLm => (2, 1),
        _ => (128, 128),
    };
    let context = u32::try_from(description.context.min(512)).unwrap_or(512);
    let cost: Box<dyn CostModel> = match costs {
        Some((table, weights)) => Box::new(table.of(weights)),
        None => Box::new(Roofline::of(target)),
    };
    optimize::Options {
        cost,
        ..optimize::Options::at([
            (feed::T, tokens),
            (feed::L, selected),
            (feed::B, 1),
            (feed::R, context),
        ])
    }
}

/// Compiles a checkpoint into an artifact. `progress` is told `(stage, done, of)`.
///
/// # Errors
/// See [`CompileError`]; what `out` holds is then not to be used. A checkpoint whose files change meanwhile is one.
pub fn compile<W: Write + Seek>(
    checkpoint: &Checkpoint,
    options: &Options,
    out: W,
    progress: &dyn Fn(Stage, u64, u64),
) -> Result<W, CompileError> {
    let mut compilation = Compilation::new(checkpoint, options, progress)?;
    let overlay = Overlay::default();
    Ok(finish(&mut compilation, checkpoint, &overlay, out, progress)?.0)
}

/// Compiles a program that was built of a checkpoint and rewritten since; weights that are not the checkpoint's are of
/// `overlay`. `report` goes into the artifact, before what the compiler says itself. What was written is read back and held
/// against what was meant, weight by weight.
///
/// # Errors
/// As [`compile`].
pub fn compile_program<W: Read + Write + Seek>(
    checkpoint: &Checkpoint,
    (built, description): (Program, Description),
    overlay: &Overlay,
    report: Vec<(String, String)>,
    options: &Options,
    file: W,
    progress: &dyn Fn(Stage, u64, u64),
) -> Result<W, CompileError> {
    let sizes = sizes(&description, options, &built);
    let mut compilation = Compilation::of(built, description, &sizes, options, progress)?;
    compilation.report = report;
    let out = BufWriter::with_capacity(1 << 20, file);
    let (out, offsets) = finish(&mut compilation, checkpoint, overlay, out, progress)?;
    let unwritten = |e: std::io::IntoInnerError<_>| ArtifactError::Io(e.into_error());
    let mut file = out.into_inner().map_err(unwritten)?;
    compilation.reread(&mut file, &offsets, &|name| {
        weight(checkpoint, &compilation.built, overlay, name)
    })?;
    Ok(file)
}

/// A weight of a program by name: the overlay's, or the checkpoint's.
fn weight<'a>(
    checkpoint: &'a Checkpoint,
    program: &Program,
    overlay: &'a Overlay,
    name: &Name,
) -> Result<Array<'a>, CompileError> {
    if let Some(array) = overlay.get(name) {
        return Ok(array);
    }
    let tensor = checkpoint.tensor(name)?;
    let dtype = program.weights[name].dtype;
    Ok(Array::new(dtype, tensor.shape, tensor.bytes))
}

/// Checks a checkpoint's weights and writes the artifact.
fn finish<W: Write + Seek>(
    compilation: &mut Compilation,
    checkpoint: &Checkpoint,
    overlay: &Overlay,
    out: W,
    progress: &dyn Fn(Stage, u64, u64),
) -> Result<(W, Offsets), CompileError> {
    progress(Stage::Check, 0, 1);
    let names = compilation.built.weights.keys().map(|n| &**n);
    checkpoint.check_finite(names.filter(|n| overlay.get(n).is_none()))?;
    compilation.description.source = checkpoint.digest()?;
    progress(Stage::Check, 1, 1);
    let built = compilation.built.clone();
    let tokenizer = checkpoint.file("tokenizer.json")?;
    let written = compilation.put(
        &|name| weight(checkpoint, &built, overlay, name),
        tokenizer.as_deref().unwrap_or_default(),
        out,
        progress,
    )?;
    checkpoint.unchanged()?;
    Ok(written)
}

/// Writes every call's weights, those that calls share once; gives the offset of `(call, term)`.
fn pack<'a, W: Write + Seek>(
    compilation: &Compilation,
    weight: &dyn Fn(&Name) -> Result<Array<'a>, CompileError>,
    writer: &mut Writer<W>,
    progress: &dyn Fn(Stage, u64, u64),
) -> Result<Offsets, CompileError> {
    let program = &compilation.optimized;
    let mut folds: HashMap<&Name, Fold> = HashMap::new();
    for (name, graph) in &program.graphs {
        let fold = Fold::new(graph, &compilation.schedules[name].weights).map_err(|error| {
            CompileError::Fold {
                graph: name.clone(),
                error,
            }
        })?;
        folds.insert(name, fold);
    }
    // Calls share what they have in common, also those of different graphs.
    let mut written: HashMap<(Expression, Vec<&Operand>), u64> = HashMap::new();
    let mut offsets = HashMap::new();
    let calls = program.calls.len() as u64;
    for (c, call) in program.calls.iter().enumerate() {
        progress(Stage::Pack, c as u64, calls);
        let fold = &folds[&call.graph];
        let arrays = call
            .args
            .iter()
            .map(|a| array(a, program, weight))
            .collect::<Result<Vec<_>, _>>()?;
        for term in 0..compilation.schedules[&call.graph].weights.len() {
            let (expression, inputs) = fold.expression(term);
            let key = (expression, inputs.iter().map(|i| &call.args[*i]).collect());
            let offset = match written.get(&key) {
                Some(offset) => *offset,
                None => {
                    let input = |i: usize| {
                        arrays[i]
                            .clone()
                            .unwrap_or_else(|| Array::new(DType::F32, &[0], &[][..]))
                    };
                    let bytes = fold
                        .term(term, &input)
                        .map_err(|error| CompileError::Fold {
                            graph: call.graph.clone(),
                            error,
                        })?;
                    let offset = writer.weight(&bytes)?;
                    written.insert(key, offset);
                    offset
                }
            };
            offsets.insert((c, term), offset);
        }
    }
    progress(Stage::Pack, calls, calls);
    Ok(offsets)
}

/// The array behind a weight argument; `None` for arguments that are no weights.
fn array<'a>(
    argument: &Operand,
    program: &Program,
    weight: &dyn Fn(&Name) -> Result<Array<'a>, CompileError>,
) -> Result<Option<Array<'a>>, CompileError> {
    Ok(match argument {
        Operand::Weight(name) => Some(weight(name)?),
        Operand::Constant(name) => {
            let constant = &program.constants[name];
            let shape: Vec<usize> = constant.ty.shape.iter().filter_map(ir::Dim::size).collect();
            let values = constant.data.iter().map(|x: &Float| x.get() as f32);
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            Some(Array::new(DType::F32, &shape, bytes))
        }
        _ => None,
    })
}
