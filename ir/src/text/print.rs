//! Printing. Prints what the outputs need; dead values have no text.

use super::is_bare;
use crate::{
    Attr, Call, DType, Dim, Graph, Op, Operand, Program, Role, Sym, Type, Value, graph::Node,
};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

/// Columns before a list is broken over lines.
const WIDTH: usize = 100;

/// A name, in quotes where the bare one would not read back.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match is_bare(self.0) {
            true => f.write_str(self.0),
            false => write!(f, "{:?}", self.0),
        }
    }
}

/// See [`Graph::labels`].
pub(crate) fn labels(graph: &Graph) -> HashMap<Value, String> {
    let mut labels = HashMap::new();
    for v in graph.inputs() {
        if let Some((name, _)) = graph.as_input(*v) {
            labels.insert(*v, Quoted(name).to_string());
        }
    }
    let mut count = 0;
    for v in graph.cone(&graph.outputs) {
        match graph.op(v) {
            None => {}
            Some(Op::Const(c)) if c.dtype == DType::F32 => {
                labels.insert(v, format!("{:?}", c.value));
            }
            Some(_) => {
                labels.insert(v, format!("%{count}"));
                count += 1;
            }
        }
    }
    labels
}

/// How a broken list is laid out.
#[derive(Clone, Copy)]
enum Break {
    /// Every item on its own line.
    Each,
    /// As many items on a line as fit.
    Fill,
}

/// `head`, the items separated by commas, `tail`; on one line if it fits.
fn list(
    f: &mut fmt::Formatter<'_>,
    head: &str,
    items: &[String],
    tail: &str,
    how: Break,
) -> fmt::Result {
    let total: usize = items.iter().map(|i| i.len() + 2).sum();
    if head.len() + total + tail.len() <= WIDTH || items.len() < 2 {
        return writeln!(f, "{head}{}{tail}", items.join(", "));
    }
    let outer = " ".repeat(head.len() - head.trim_start().len());
    let indent = format!("{outer}    ");
    write!(f, "{head}")?;
    let mut column = WIDTH;
    for (i, item) in items.iter().enumerate() {
        let fits = matches!(how, Break::Fill) && column + item.len() + 2 <= WIDTH;
        if fits {
            write!(f, " {item}")?;
            column += 1 + item.len();
        } else {
            write!(f, "\n{indent}{item}")?;
            column = indent.len() + item.len();
        }
        if i + 1 < items.len() {
            write!(f, ",")?;
            column += 1;
        }
    }
    writeln!(f, "\n{outer}{tail}")
}

fn write_symbols(f: &mut fmt::Formatter<'_>, symbols: &BTreeSet<Sym>) -> fmt::Result {
    for s in symbols {
        writeln!(f, "sym {} <= {}", s.name, s.max)?;
    }
    if symbols.is_empty() {
        return Ok(());
    }
    writeln!(f)
}

fn write_graph(f: &mut fmt::Formatter<'_>, head: &str, graph: &Graph) -> fmt::Result {
    let inputs = graph.inputs().iter().filter_map(|v| {
        let (name, role) = graph.as_input(*v)?;
        let role = match role {
            Role::Data => "",
            Role::Weight => "weight ",
            Role::State => "state ",
        };
        Some(format!("{role}{}: {}", Quoted(name), graph.ty(*v)))
    });
    let inputs: Vec<String> = inputs.collect();
    list(f, &format!("{head}("), &inputs, ") {", Break::Each)?;
    let labels = labels(graph);
    for v in graph.cone(&graph.outputs) {
        let Node::Op { op, args } = graph.node(v) else {
            continue;
        };
        if !labels[&v].starts_with('%') {
            continue;
        }
        let head = format!("  {}: {} = {}(", labels[&v], graph.ty(v), op.kind().name());
        let args: Vec<String> = args.iter().map(|a| labels[a].clone()).collect();
        let names = op.kind().attr_names().iter();
        let attrs: Vec<String> = names
            .zip(op.attrs())
            .map(|(n, a)| format!("{n}={a}"))
            .collect();
        let tail = match attrs.is_empty() {
            true => ")".to_string(),
            false => format!(") {{{}}}", attrs.join(", ")),
        };
        list(f, &head, &args, &tail, Break::Fill)?;
    }
    let outputs: Vec<String> = graph.outputs.iter().map(|o| labels[o].clone()).collect();
    let space = if outputs.is_empty() { "" } else { " " };
    list(f, &format!("  return{space}"), &outputs, "", Break::Fill)?;
    writeln!(f, "}}")
}

fn symbols_of_graph(graph: &Graph, into: &mut BTreeSet<Sym>) {
    let mut add = |dims: &[Dim]| into.extend(dims.iter().flat_map(Dim::symbols).cloned());
    let cone = graph.cone(&graph.outputs);
    for v in graph.inputs().iter().chain(&cone) {
        add(&graph.ty(*v).shape);
        for attr in graph.op(*v).map(Op::attrs).unwrap_or_default() {
            match attr {
                Attr::Dims(dims) => add(&dims),
                Attr::Type(ty) => add(&ty.shape),
                Attr::Int(_) | Attr::Float(_) | Attr::DType(_) | Attr::Element(_) => {}
            }
        }
    }
}

impl Graph {
    /// How the graph's text refers to each value that its outputs need: an input by its name, an f32 constant by its
    /// number, others as `%0`, `%1`, .. in order.
    pub fn labels(&self) -> HashMap<Value, String> {
        labels(self)
    }

    /// The symbols that occur in types and attributes of what the outputs need.
    pub fn symbols(&self) -> BTreeSet<Sym> {
        let mut symbols = BTreeSet::new();
        symbols_of_graph(self, &mut symbols);
        symbols
    }
}

impl Program {
    /// The symbols that occur anywhere.
    pub fn symbols(&self) -> BTreeSet<Sym> {
        let mut symbols = BTreeSet::new();
        let constants = self.constants.values().map(|c| &c.ty);
        let types = self.inputs.values().chain(self.weights.values());
        for ty in types.chain(self.states.values()).chain(constants) {
            symbols.extend(ty.shape.iter().flat_map(Dim::symbols).cloned());
        }
        for graph in self.graphs.values() {
            symbols_of_graph(graph, &mut symbols);
        }
        symbols
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_symbols(f, &self.symbols())?;
        write_graph(f, "graph", self)
    }
}
impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Input(n) => write!(f, "{}", Quoted(n)),
            Operand::Weight(n) => write!(f, "@{}", Quoted(n)),
            Operand::Constant(n) => write!(f, "!{}", Quoted(n)),
            Operand::State(n) => write!(f, "${}", Quoted(n)),
            Operand::Result { call, output } => write!(f, "#{call}.{output}"),
        }
    }
}

fn write_call(f: &mut fmt::Formatter<'_>, call: &Call) -> fmt::Result {
    let args: Vec<String> = call.args.iter().map(Operand::to_string).collect();
    let updates = call.updates.iter();
    let updates: Vec<String> = updates
        .map(|(output, state)| format!("{output} -> {}", Quoted(state)))
        .collect();
    let tail = match updates.is_empty() {
        true => ")".to_string(),
        false => format!(") updates {}", updates.join(", ")),
    };
    let head = format!("call {}(", Quoted(&call.graph));
    list(f, &head, &args, &tail, Break::Fill)
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_symbols(f, &self.symbols())?;
        let line = |f: &mut fmt::Formatter<'_>, what: &str, name: &str, ty: &Type| {
            writeln!(f, "{what} {}: {ty}", Quoted(name))
        };
        for (name, ty) in &self.inputs {
            line(f, "input", name, ty)?;
        }
        for (name, ty) in &self.weights {
            line(f, "weight", name, ty)?;
        }
        for (name, constant) in &self.constants {
            let head = format!("constant {}: {} = [", Quoted(name), constant.ty);
            let data = constant.data.iter();
            let data: Vec<String> = data.map(|x| format!("{x:?}")).collect();
            list(f, &head, &data, "]", Break::Fill)?;
        }
        for (name, ty) in &self.states {
            line(f, "state", name, ty)?;
        }
        for (name, graph) in &self.graphs {
            writeln!(f)?;
            write_graph(f, &format!("graph {}", Quoted(name)), graph)?;
        }
        writeln!(f)?;
        for call in &self.calls {
            write_call(f, call)?;
        }
        for (name, operand) in &self.outputs {
            writeln!(f, "output {} = {operand}", Quoted(name))?;
        }
        Ok(())
    }
}
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
