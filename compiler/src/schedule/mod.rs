//! From optimized graphs to a plan: kernels, launches, memory. Each unique graph is scheduled once; calls are then
//! laid out in one flat list, and memory is planned over that list.

mod body;
mod check;
mod groups;
mod inline;
mod kernel;
mod kernels;
mod known;
mod layout;
mod memory;
mod view;
mod work;

pub use check::{Access, Accesses, Conflict, check};
pub use kernel::{
    Inlined, Kernel, Narrow, Order, Packing, Round, Step, Temp, Template, WeightTerm,
};
pub(crate) use known::{storage, weights_only};
pub use memory::{ALIGNMENT, Lifetime, place};
pub use view::View;

use indexmap::IndexMap;
use ir::{
    DType, Graph, Name, Operand as Argument, Program, Type,
    abi::{Codec, Layout},
    artifact::{Base, Launch, Layer, LayerResult, Place, Plan, Port},
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where an operand's bytes are, within one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Buffer {
    /// The graph's input of that index.
    Input(usize),
    /// [`Schedule::weights`] of that index.
    Weight(usize),
    /// [`Schedule::temps`] of that index.
    Temp(usize),
}

/// An address within one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Of which memory.
    pub buffer: Buffer,
    /// Bytes from its start.
    pub offset: i64,
}

/// Why a program cannot be scheduled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// A value that no kernel computes.
    #[error("value %{value}: {ty}: {why}")]
    Kernel {
        /// In the optimized graph.
        value: usize,
        /// Its type.
        ty: Type,
        /// What is wrong.
        why: String,
    },
    /// A value at the border of a graph or the program that cannot be placed.
    #[error("{place}: {why}")]
    Border {
        /// The call or output.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// The memory plan failed its check: a bug in the planner.
    #[error("the memory plan is wrong: {0}")]
    Memory(#[from] Conflict),
}

/// One graph as kernels.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// Unique kernels.
    pub kernels: Vec<Kernel>,
    /// In execution order.
    pub steps: Vec<Step>,
    /// Values that steps write, contiguous.
    pub temps: Vec<Temp>,
    /// Terms to compute at compile time, from the graph's weights.
    pub weights: Vec<WeightTerm>,
    /// Where each of the graph's outputs lies, from its start.
    pub outputs: Vec<Buffer>,
    /// How each of the graph's inputs lies in memory: states may be in another order than row-major.
    pub layouts: Vec<Layout>,
}

/// Schedules one graph in the optimizer's normal form, for a backend that wants things in memory in an order.
///
/// # Errors
/// A value that no kernel computes, or whose operands are not addressable.
pub fn graph(graph: &Graph, order: Order) -> Result<Schedule, ScheduleError> {
    let mut k = kernels::Kernels::new(graph, order);
    for v in graph.cone(&graph.outputs) {
        k.visit(v)?;
    }
    let mut outputs = vec![];
    for o in &graph.outputs {
        let buffer = k.output(*o, &outputs)?;
        outputs.push(buffer);
    }
    let mut schedule = Schedule {
        kernels: k.kernels,
        steps: k.steps,
        temps: k.temps,
        weights: k.weights,
        outputs,
        layouts: k.layouts,
    };
    if order.inline {
        inline::inline(&mut schedule);
    }
    Ok(schedule)
}

/// Memory of one value of the flat program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Memory {
    /// Index into the flat list of temps.
    Temp(usize),
    Base(Base),
}

/// Lays the program's calls out as launches and plans memory.
///
/// `weight(call, term)` is the offset of a term's bytes in the weights; `kernel(graph, index)` the number that a
/// graph's kernel has in the plan.
///
/// # Errors
/// Values that cannot cross the program's border, and a memory plan that fails its check.
pub fn link(
    program: &Program,
    schedules: &IndexMap<Name, Schedule>,
    weight: &dyn Fn(usize, usize) -> u64,
    kernel: &dyn Fn(&Name, usize) -> u32,
) -> Result<Plan, ScheduleError> {
    let mut flat = Flat::default();
    let index = |i: Option<usize>| i.and_then(|i| u32::try_from(i).ok()).unwrap_or(u32::MAX);
    for (c, call) in program.calls.iter().enumerate() {
        let schedule = &schedules[&call.graph];
        let first_temp = flat.temps.len();
        flat.temps.extend(schedule.temps.iter().cloned());
        let inputs: Vec<Memory> = call
            .args
            .iter()
            .map(|a| match a {
                Argument::Input(n) => {
                    Memory::Base(Base::Input(index(program.inputs.get_index_of(n))))
                }
                Argument::State(n) => {
                    Memory::Base(Base::State(index(program.states.get_index_of(n))))
                }
                Argument::Weight(_) | Argument::Constant(_) => Memory::Base(Base::Weights),
                Argument::Result { call, output } => flat.results[*call][*output],
            })
            .collect();
        let locate = |o: &Operand| match o.buffer {
            Buffer::Input(i) => (inputs[i], o.offset),
            Buffer::Temp(i) => (Memory::Temp(first_temp + i), o.offset),
            Buffer::Weight(w) => (Memory::Base(Base::Weights), o.offset + weight(c, w) as i64),
        };
        for (output, state) in &call.updates {
            let wanted = Memory::Base(Base::State(index(program.states.get_index_of(state))));
            let (found, _) = locate(&Operand {
                buffer: schedule.outputs[*output],
                offset: 0,
            });
            if found != wanted {
                return Err(ScheduleError::Border {
                    place: format!("call {c} of {}", call.graph),
                    why: format!("output {output} does not update state {state} in place"),
                });
            }
        }
        for step in &schedule.steps {
            flat.launches.push(Flight {
                name: format!("{}.{c}: {}", call.graph, step.label).into(),
                kernel: kernel(&call.graph, step.kernel),
                operands: step.operands.iter().map(locate).collect(),
            });
        }
        let outputs = schedule.outputs.iter().map(|b| {
            locate(&Operand {
                buffer: *b,
                offset: 0,
            })
            .0
        });
        flat.results.push(outputs.collect());
        flat.ends.push(flat.launches.len());
    }
    flat.plan(program, &state_layouts(program, schedules)?)
}

/// How each state lies in memory; the calls that use it must agree.
fn state_layouts(
    program: &Program,
    schedules: &IndexMap<Name, Schedule>,
) -> Result<BTreeMap<Name, Layout>, ScheduleError> {
    let mut layouts = BTreeMap::new();
    for (c, call) in program.calls.iter().enumerate() {
        for (arg, layout) in call.args.iter().zip(&schedules[&call.graph].layouts) {
            let Argument::State(name) = arg else {
                continue;
            };
            let known = *layouts.entry(name.clone()).or_insert(*layout);
            if known != *layout {
                return Err(ScheduleError::Border {
                    place: format!("call {c} of {}", call.graph),
                    why: format!("reads state {name} as {layout:?}, an earlier call as {known:?}"),
                });
            }
        }
    }
    Ok(layouts)
}

/// The program's calls, one after another.
#[derive(Default)]
struct Flat {
    temps: Vec<Temp>,
    /// Of each call.
    results: Vec<Vec<Memory>>,
    /// For each call, one past its last launch.
    ends: Vec<usize>,
    launches: Vec<Flight>,
}

/// A launch whose memory is not planned yet; the last operand is the one it writes.
struct Flight {
    name: Name,
    kernel: u32,
    operands: Vec<(Memory, i64)>,
}

impl Flat {
    fn plan(
        self,
        program: &Program,
        layouts: &BTreeMap<Name, Layout>,
    ) -> Result<Plan, ScheduleError> {
        // A temp that is an output of the program lives in the output's own memory.
        let mut output_of: BTreeMap<usize, u32> = BTreeMap::new();
        for (i, (name, operand)) in program.outputs.iter().enumerate() {
            let memory = match operand {
                Argument::Result { call, output } => Some(self.results[*call][*output]),
                _ => None,
            };
            match memory {
                Some(Memory::Temp(t)) if !output_of.contains_key(&t) => {
                    output_of.insert(t, u32::try_from(i).unwrap_or(u32::MAX));
                }
                _ => {
                    return Err(ScheduleError::Border {
                        place: format!("output {name}"),
                        why: format!("{operand} is not computed by a kernel of its own"),
                    });
                }
            }
        }
        let mut lifetimes: Vec<Lifetime> = self
            .temps
            .iter()
            .map(|t| Lifetime {
                size: t.bytes(),
                first: usize::MAX,
                last: 0,
            })
            .collect();
        for (i, launch) in self.launches.iter().enumerate() {
            for (memory, _) in &launch.operands {
                if let Memory::Temp(t) = memory {
                    lifetimes[*t].first = lifetimes[*t].first.min(i);
                    lifetimes[*t].last = i;
                }
            }
        }
        // What a call gives is there when its last launch has run, whether or not anything reads it.
        for (results, end) in self.results.iter().zip(&self.ends) {
            for memory in results {
                if let Memory::Temp(t) = memory {
                    lifetimes[*t].last = lifetimes[*t].last.max(end.saturating_sub(1));
                }
            }
        }
        let arena_temps: Vec<usize> = (0..self.temps.len())
            .filter(|t| !output_of.contains_key(t) && lifetimes[*t].first != usize::MAX)
            .collect();
        let chosen: Vec<Lifetime> = arena_temps.iter().map(|t| lifetimes[*t]).collect();
        let (offsets, arena) = place(&chosen);
        let mut at: HashMap<usize, Place> = HashMap::new();
        for (t, offset) in arena_temps.iter().zip(offsets) {
            at.insert(
                *t,
                Place {
                    base: Base::Arena,
                    offset,
                },
            );
        }
        for (t, i) in &output_of {
            at.insert(
                *t,
                Place {
                    base: Base::Output(*i),
                    offset: 0,
                },
            );
        }
        let launches: Vec<Launch> = self
            .launches
            .iter()
            .map(|l| Launch {
                name: l.name.clone(),
                kernel: l.kernel,
                operands: l
                    .operands
                    .iter()
                    .map(|(memory, shift)| {
                        let start = match memory {
                            Memory::Temp(t) => at[t],
                            Memory::Base(base) => Place {
                                base: *base,
                                offset: 0,
                            },
                        };
                        Place {
                            offset: start.offset.saturating_add_signed(*shift),
                            ..start
                        }
                    })
                    .collect(),
            })
            .collect();
        self.verify(&at, arena)?;
        let port = |(name, ty): (&Name, &Type)| Port {
            name: name.clone(),
            ty: ty.clone(),
            layout: layouts.get(name).copied().unwrap_or_default(),
        };
        let outputs = program.outputs.iter().map(|(name, operand)| {
            let ty = program.ty(operand).cloned();
            Port {
                name: name.clone(),
                ty: ty.unwrap_or_else(|| Type::scalar(ir::DType::F32)),
                layout: Layout::Rows,
            }
        });
        let mut plan = Plan {
            symbols: vec![],
            inputs: program.inputs.iter().map(port).collect(),
            outputs: outputs.collect(),
            states: program.states.iter().map(port).collect(),
            arena,
            launches,
            layers: self.layers(program, &at),
            work: vec![],
        };
        plan.symbols = symbols(program).into_iter().collect();
        Ok(plan)
    }

    /// What each call became. States are left out: they are there after the step.
    fn layers(&self, program: &Program, at: &HashMap<usize, Place>) -> Vec<Layer> {
        let layer = |c: usize| {
            let call = &program.calls[c];
            let results = self.results[c].iter().zip(0u32..);
            let results = results.filter_map(|(memory, output)| {
                let Memory::Temp(t) = memory else { return None };
                // What is stored in few bits is read by the kernels that know how.
                if self.temps[*t].codec != Codec::Plain(DType::F32) {
                    return None;
                }
                let result = Argument::Result {
                    call: c,
                    output: output as usize,
                };
                Some(LayerResult {
                    output,
                    ty: program.ty(&result)?.clone(),
                    place: *at.get(t)?,
                })
            });
            Layer {
                name: call.layer().map_or(call.graph.clone(), Name::from),
                end: self.ends[c] as u64,
                results: results.collect(),
            }
        };
        (0..program.calls.len()).map(layer).collect()
    }

    /// Hands the plan to the checker as reads and writes of identified values.
    fn verify(&self, at: &HashMap<usize, Place>, arena: u64) -> Result<(), ScheduleError> {
        // Values are numbered: temps by index, then one number per version of a state.
        let mut version: HashMap<Base, usize> = HashMap::new();
        let mut next = self.temps.len();
        let mut accesses = vec![Accesses {
            launch: "start".into(),
            ..Accesses::default()
        }];
        let temp = |t: usize| Access {
            value: t,
            base: at[&t].base,
            offset: at[&t].offset,
            size: self.temps[t].bytes(),
        };
        for (n, l) in self.launches.iter().enumerate() {
            let mut a = Accesses {
                launch: l.name.to_string(),
                ..Accesses::default()
            };
            for (i, (memory, _)) in l.operands.iter().enumerate() {
                let writes = i + 1 == l.operands.len();
                let access = match memory {
                    Memory::Temp(t) => temp(*t),
                    Memory::Base(Base::Weights) => continue,
                    Memory::Base(base) => {
                        let value = *version.entry(*base).or_insert_with(|| {
                            next += 1;
                            let first = Access {
                                value: next,
                                base: *base,
                                offset: 0,
                                size: 1,
                            };
                            accesses[0].writes.push(first);
                            next
                        });
                        if writes {
                            next += 1;
                            version.insert(*base, next);
                        }
                        let value = if writes { next } else { value };
                        Access {
                            value,
                            base: *base,
                            offset: 0,
                            size: 1,
                        }
                    }
                };
                if writes {
                    a.writes.push(access)
                } else {
                    a.reads.push(access)
                }
            }
            accesses.push(a);
            for c in (0..self.ends.len()).filter(|c| self.ends[*c] == n + 1) {
                let results = self.results[c].iter().filter_map(|memory| match memory {
                    Memory::Temp(t) => at.contains_key(t).then(|| temp(*t)),
                    Memory::Base(_) => None,
                });
                accesses.push(Accesses {
                    launch: format!("the end of call {c}"),
                    reads: results.collect(),
                    ..Accesses::default()
                });
            }
        }
        check(&accesses, arena).map_err(|mut c| ScheduleError::Memory(c.remove(0)))
    }
}

/// Every symbol of the program, in order of name: the order in which kernels read their values.
pub fn symbols(program: &Program) -> BTreeSet<ir::Sym> {
    let borders = program.inputs.values().chain(program.states.values());
    borders
        .flat_map(|t| t.shape.iter().flat_map(|d| d.symbols().cloned()))
        .collect()
}

impl Schedule {
    /// Stores every weight as f32, and the rows that products multiply with them.
    pub fn widen(&mut self) {
        let wide = |dtype: &mut ir::DType| {
            if dtype.is_float() {
                *dtype = ir::DType::F32;
            }
        };
        let widen = |codec: &mut Codec| {
            if let Codec::Plain(dtype) = codec {
                wide(dtype);
            }
        };
        for weight in &mut self.weights {
            widen(&mut weight.codec);
            if weight.packing == Packing::Cells {
                weight.packing = Packing::Columns.of(weight.codec);
            }
        }
        let kernels = &self.kernels;
        let products = self.steps.iter().filter(|step| {
            let template = &kernels[step.kernel].template;
            matches!(template, Template::Gemm { .. })
        });
        let rows: BTreeSet<Buffer> = products.map(|step| step.operands[0].buffer).collect();
        for buffer in &rows {
            if let Buffer::Temp(t) = buffer {
                widen(&mut self.temps[*t].codec);
                wide(&mut self.temps[*t].ty.dtype);
            }
        }
        let mut kernels: Vec<Kernel> = vec![];
        for step in &mut self.steps {
            let mut kernel = self.kernels[step.kernel].clone();
            if let Template::Gemm { codec, rows, .. } = &mut kernel.template {
                widen(codec);
                widen(rows);
            }
            for (operand, view) in step.operands.iter().zip(&mut kernel.views) {
                let temp = matches!(operand.buffer, Buffer::Temp(_));
                if matches!(operand.buffer, Buffer::Weight(_))
                    || temp && rows.contains(&operand.buffer)
                {
                    wide(&mut view.dtype);
                }
            }
            let known = kernels.iter().position(|k| *k == kernel);
            step.kernel = known.unwrap_or(kernels.len());
            if known.is_none() {
                kernels.push(kernel);
            }
        }
        self.kernels = kernels;
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            let kernel = &self.kernels[step.kernel];
            let elided = if kernel.elided {
                ", not in steps of one row"
            } else {
                ""
            };
            writeln!(f, "{i:>3} {}{elided}", step.label)?;
            for (operand, view) in step.operands.iter().zip(&kernel.views) {
                let dims: Vec<String> = view.shape.iter().map(ToString::to_string).collect();
                let offset = if operand.offset == 0 {
                    String::new()
                } else {
                    format!(" + {}", operand.offset)
                };
                let codec = match operand.buffer {
                    Buffer::Weight(w) => self.weights[w].codec,
                    Buffer::Temp(t) => self.temps[t].codec,
                    Buffer::Input(_) => Codec::Plain(view.dtype),
                };
                let shape = dims.join(",");
                if let Codec::Grouped { .. } = codec {
                    writeln!(f, "      {:?}{offset}: {codec}[{shape}]", operand.buffer)?;
                    continue;
                }
                writeln!(
                    f,
                    "      {:?}{offset}: {}[{shape}] by {:?}{}",
                    operand.buffer,
                    view.dtype,
                    view.strides,
                    match view.layout {
                        Layout::Rows => "",
                        Layout::Keys => " in blocks of keys",
                        Layout::Values => " in blocks of values",
                        Layout::KeyCodes => " in blocks of keys, with scales",
                        Layout::ValueCodes => " in blocks of values, with scales",
                    }
                )?;
            }
        }
        let outputs: Vec<String> = self.outputs.iter().map(|o| format!("{o:?}")).collect();
        write!(f, "    gives {}", outputs.join(", "))
    }
}
