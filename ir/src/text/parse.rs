//! The grammar, by recursive descent. Never panics, and does work in proportion to the text: nesting,
//! ranks and dims are bounded.

use super::{
    is_name_char, is_symbol_char,
    lex::{ParseError, Parser, Result},
};
use crate::{
    Attr, Call, Constant, DType, Dim, Graph, Name, Op, OpKind, Operand, Program, Role, Sym, Type,
    Value,
};
use indexmap::IndexMap;
use std::{collections::HashMap, str::FromStr};

/// Deepest nesting of terms.
const MAX_DEPTH: usize = 64;
/// Highest rank of a type.
const MAX_RANK: usize = 8;
/// Most symbols and numbers in a dim.
const MAX_FACTORS: usize = 64;
/// Most terms in the number of elements of a type, multiplied out.
const MAX_TERMS: usize = 1024;
/// Largest known size of an axis.
const MAX_SIZE: i64 = 1 << 40;

impl FromStr for Graph {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Graph> {
        let mut p = Parser::new(text, &[]);
        while p.eat_word("sym") {
            p.symbol()?;
        }
        p.word("graph")?;
        if p.peek() != Some('(') {
            p.name("a name of the graph or `(`")?;
        }
        let graph = p.graph()?;
        p.end("the end of the text")?;
        Ok(graph)
    }
}

impl FromStr for Program {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Program> {
        let mut p = Parser::new(text, &[]);
        let mut program = Program::default();
        while !p.rest().is_empty() {
            p.item(&mut program)?;
        }
        Ok(program)
    }
}

impl Type {
    /// The type that `text` says, such as `f32[T,2*P+1]`, with the symbols it may name.
    ///
    /// # Errors
    /// When `text` is no type or names another symbol.
    pub fn parse(text: &str, symbols: &[Sym]) -> Result<Type> {
        let mut p = Parser::new(text, symbols);
        let ty = p.ty()?;
        p.end("the end of the type")?;
        Ok(ty)
    }
}

impl Attr {
    /// The attribute that `text` says: `3`, `1e-5`, `[T,4]`, `f32` or `f32[T,4]`, with the symbols it may name.
    ///
    /// # Errors
    /// When `text` is no attribute or names another symbol.
    pub fn parse(text: &str, symbols: &[Sym]) -> Result<Attr> {
        let mut p = Parser::new(text, symbols);
        let attr = p.attr()?;
        p.end("the end of the attribute")?;
        Ok(attr)
    }
}

/// Values that a graph's terms can name.
struct Scope {
    graph: Graph,
    inputs: HashMap<Name, Value>,
    labels: HashMap<String, Value>,
}

impl<'a> Parser<'a> {
    fn symbol(&mut self) -> Result<()> {
        let start = self.at;
        let name = self.run(is_symbol_char);
        if !super::is_symbol(name) {
            return self.unexpected("a symbol of letters, digits and `_`");
        }
        self.advance(name.len());
        self.expect("<=")?;
        let max = self.integer("a bound of 32 bits")?;
        let symbol = Sym::new(name, max);
        match self.symbols.insert(name.into(), symbol) {
            None => Ok(()),
            Some(_) => self.error(start, format!("found symbol {name} a second time")),
        }
    }

    fn dim(&mut self) -> Result<Dim> {
        let start = self.at;
        let (mut sum, mut factors) = (Dim::default(), 0);
        let mut sign = if self.eat("-") { -1 } else { 1 };
        loop {
            let mut term = Dim::from(sign);
            loop {
                factors += 1;
                if factors > MAX_FACTORS {
                    return self.error(start, format!("found a dim of over {MAX_FACTORS} factors"));
                }
                term = term * self.factor()?;
                if !self.eat("*") {
                    break;
                }
            }
            sum = sum + term;
            sign = match self.peek() {
                Some('+') => 1,
                Some('-') => -1,
                _ => return Ok(sum),
            };
            self.advance(1);
        }
    }

    fn factor(&mut self) -> Result<Dim> {
        if self.peek().is_some_and(|c| c.is_ascii_digit()) {
            let start = self.at;
            return match self.integer::<i64>("a number of 64 bits")? {
                n if n <= MAX_SIZE => Ok(n.into()),
                n => self.error(start, format!("found {n}, expected at most {MAX_SIZE}")),
            };
        }
        let name = self.run(is_symbol_char);
        match self.symbols.get(name) {
            Some(symbol) => {
                let dim = symbol.into();
                self.advance(name.len());
                Ok(dim)
            }
            None => self.unexpected("a number or a symbol declared by `sym`"),
        }
    }

    fn dims(&mut self) -> Result<Vec<Dim>> {
        let start = self.at;
        self.expect("[")?;
        let dims = self.list("]", Self::dim)?;
        match oversize(&dims) {
            None => Ok(dims),
            Some(why) => self.error(start, why),
        }
    }

    fn dtype(&mut self) -> Result<DType> {
        let name = self.run(is_symbol_char);
        match DType::ALL.into_iter().find(|d| d.name() == name) {
            Some(dtype) => {
                self.advance(name.len());
                Ok(dtype)
            }
            None => self.unexpected("an element type: f32, f16, bf16, i32 or bool"),
        }
    }

    fn ty(&mut self) -> Result<Type> {
        let dtype = self.dtype()?;
        let start = self.at;
        let shape = self.dims()?;
        if shape.iter().any(|d| d.known().is_some_and(|k| k < 0)) {
            return self.error(start, "found a negative size");
        }
        Ok(Type { dtype, shape })
    }

    fn attr(&mut self) -> Result<Attr> {
        let digits = self.digits();
        if self.peek() == Some('[') {
            return self.dims().map(Attr::Dims);
        }
        if digits.is_empty() {
            let name = self.run(is_symbol_char);
            if let Ok(element) = name.parse() {
                self.advance(name.len());
                return Ok(Attr::Element(element));
            }
            let dtype = self.dtype()?;
            return match self.peek() {
                Some('[') => {
                    let shape = self.dims()?;
                    Ok(Attr::Type(Type { dtype, shape }))
                }
                _ => Ok(Attr::DType(dtype)),
            };
        }
        if digits.contains(['.', 'e', 'i', 'N']) {
            return self.float().map(Attr::Float);
        }
        self.integer("a number of 64 bits").map(Attr::Int)
    }

    /// The op with the attributes that follow its arguments, in any order.
    fn attrs(&mut self, kind: OpKind) -> Result<Op> {
        let start = self.at;
        let names = kind.attr_names();
        let mut given: Vec<Option<Attr>> = vec![None; names.len()];
        if !names.is_empty() {
            self.expect("{")?;
            self.list("}", |p| {
                let at = p.at;
                let name = p.run(is_symbol_char);
                let Some(i) = names.iter().position(|n| *n == name) else {
                    return p.unexpected(&format!(
                        "an attribute of {}: {}",
                        kind.name(),
                        names.join(", ")
                    ));
                };
                p.advance(name.len());
                p.expect("=")?;
                let attr = p.attr()?;
                match given[i].replace(attr) {
                    None => Ok(()),
                    Some(_) => p.error(at, format!("found attribute {name} a second time")),
                }
            })?;
        }
        if let Some(i) = given.iter().position(Option::is_none) {
            let why = format!("found no attribute {} of {}", names[i], kind.name());
            return self.error(start, why);
        }
        let given: Vec<Attr> = given.into_iter().flatten().collect();
        match kind.build(&given) {
            Some(op) => Ok(op),
            None => {
                let why = format!(
                    "found {given:?}, expected other kinds of {} for {}",
                    names.join(", "),
                    kind.name()
                );
                self.error(start, why)
            }
        }
    }

    fn term(&mut self, scope: &mut Scope, depth: usize) -> Result<Value> {
        let start = self.at;
        if depth > MAX_DEPTH {
            return self.error(start, format!("found terms nested over {MAX_DEPTH} deep"));
        }
        if self.peek() == Some('%') {
            let label = self.label()?;
            return match scope.labels.get(label) {
                Some(v) => Ok(*v),
                None => self.error(start, format!("found %{label}, expected an earlier value")),
            };
        }
        if !self.digits().is_empty() {
            let x = self.float()?;
            return Ok(scope.graph.constant(x.get()));
        }
        let name = self.name("a value: a number, %label, input or op")?;
        if self.peek() != Some('(') {
            return match scope.inputs.get(&name) {
                Some(v) => Ok(*v),
                None => self.error(start, format!("found {name}, expected an input's name")),
            };
        }
        let Some(kind) = OpKind::named(&name) else {
            return self.error(start, format!("found {name}, expected an op's name"));
        };
        self.expect("(")?;
        let args = self.list(")", |p| p.term(scope, depth + 1))?;
        let op = self.attrs(kind)?;
        match scope.graph.add(op, &args) {
            Ok(v) => match oversize(&scope.graph.ty(v).shape) {
                None => Ok(v),
                Some(why) => self.error(start, why),
            },
            Err(refused) => self.error(start, refused),
        }
    }

    /// What follows a `%`.
    fn label(&mut self) -> Result<&'a str> {
        self.expect("%")?;
        let label = self.run(is_symbol_char);
        if label.is_empty() {
            return self.unexpected("a label of letters, digits and `_`");
        }
        self.advance(label.len());
        Ok(label)
    }

    /// `name: type`.
    fn typed_name(&mut self) -> Result<(Name, Type)> {
        let name = self.name("a name")?;
        self.expect(":")?;
        Ok((name, self.ty()?))
    }

    /// From the inputs' opening parenthesis on.
    fn graph(&mut self) -> Result<Graph> {
        let mut scope = Scope {
            graph: Graph::new(),
            inputs: HashMap::new(),
            labels: HashMap::new(),
        };
        self.expect("(")?;
        self.list(")", |p| {
            let role = match () {
                () if p.eat_word("weight") => Role::Weight,
                () if p.eat_word("state") => Role::State,
                () => Role::Data,
            };
            let start = p.at;
            let (name, ty) = p.typed_name()?;
            if scope.inputs.contains_key(&name) {
                return p.error(start, format!("found input {name} a second time"));
            }
            let v = scope.graph.input(name.clone(), role, ty);
            scope.inputs.insert(name, v);
            Ok(())
        })?;
        self.expect("{")?;
        while !self.eat_word("return") {
            if self.peek() != Some('%') {
                return self.unexpected("`%` or `return`");
            }
            self.definition(&mut scope)?;
        }
        scope.graph.outputs = self.list("}", |p| p.term(&mut scope, 0))?;
        Ok(scope.graph)
    }

    /// `%label: type = term`, the type optional.
    fn definition(&mut self, scope: &mut Scope) -> Result<()> {
        let start = self.at;
        let label = self.label()?;
        let typed = self.eat(":");
        let type_start = self.at;
        let says = match typed {
            true => Some(self.ty()?),
            false => None,
        };
        self.expect("=")?;
        let v = self.term(scope, 0)?;
        let is = scope.graph.ty(v);
        if let Some(says) = says.filter(|says| says != is) {
            let why = format!("found type {says}, expected {is}, which the op gives");
            return self.error(type_start, why);
        }
        match scope.labels.insert(label.into(), v) {
            None => Ok(()),
            Some(_) => self.error(start, format!("found %{label} a second time")),
        }
    }

    fn operand(&mut self) -> Result<Operand> {
        let expected = "a name";
        match self.peek() {
            Some('#') => {
                self.advance(1);
                let call = self.integer("the number of a call")?;
                self.expect(".")?;
                let output = self.integer("the number of an output")?;
                Ok(Operand::Result { call, output })
            }
            Some('@') => {
                self.advance(1);
                self.name(expected).map(Operand::Weight)
            }
            Some('!') => {
                self.advance(1);
                self.name(expected).map(Operand::Constant)
            }
            Some('$') => {
                self.advance(1);
                self.name(expected).map(Operand::State)
            }
            _ => self
                .name("an operand: name, @weight, !constant, $state or #call.output")
                .map(Operand::Input),
        }
    }

    fn item(&mut self, program: &mut Program) -> Result<()> {
        let word = self.run(is_name_char);
        if !ITEMS.contains(&word) {
            return self.unexpected(&format!("one of {}", ITEMS.join(", ")));
        }
        self.advance(word.len());
        let start = self.at;
        match word {
            "sym" => self.symbol(),
            "input" => {
                let (name, ty) = self.typed_name()?;
                self.put(start, &mut program.inputs, name, ty)
            }
            "weight" => {
                let (name, ty) = self.typed_name()?;
                self.put(start, &mut program.weights, name, ty)
            }
            "state" => {
                let (name, ty) = self.typed_name()?;
                self.put(start, &mut program.states, name, ty)
            }
            "constant" => {
                let (name, ty) = self.typed_name()?;
                self.expect("=")?;
                self.expect("[")?;
                let data = self.list("]", Self::float)?;
                if ty.numel().size() != Some(data.len()) {
                    let why = format!("found {} numbers, expected a {ty} of them", data.len());
                    return self.error(start, why);
                }
                self.put(start, &mut program.constants, name, Constant { ty, data })
            }
            "graph" => {
                let name = self.name("a name of the graph")?;
                let graph = self.graph()?;
                self.put(start, &mut program.graphs, name, graph)
            }
            "call" => {
                let graph = self.name("a graph's name")?;
                self.expect("(")?;
                let args = self.list(")", Self::operand)?;
                let mut updates = vec![];
                if self.eat_word("updates") {
                    loop {
                        let output = self.integer("the number of an output")?;
                        self.expect("->")?;
                        updates.push((output, self.name("a state's name")?));
                        if !self.eat(",") {
                            break;
                        }
                    }
                }
                program.calls.push(Call {
                    graph,
                    args,
                    updates,
                });
                Ok(())
            }
            _ => {
                let name = self.name("a name of the output")?;
                self.expect("=")?;
                let operand = self.operand()?;
                self.put(start, &mut program.outputs, name, operand)
            }
        }
    }

    fn put<T>(&self, at: usize, map: &mut IndexMap<Name, T>, name: Name, value: T) -> Result<()> {
        match map.contains_key(&name) {
            true => self.error(at, format!("found {name} a second time")),
            false => {
                map.insert(name, value);
                Ok(())
            }
        }
    }
}

/// What a program's lines start with.
const ITEMS: [&str; 8] = [
    "sym", "input", "weight", "state", "constant", "graph", "call", "output",
];

/// What is too large about a shape, if anything: multiplying its dims out must stay cheap.
fn oversize(shape: &[Dim]) -> Option<String> {
    let terms = shape.iter().map(|d| d.terms().count().max(1));
    let terms = terms.fold(1usize, usize::saturating_mul);
    if shape.len() > MAX_RANK {
        Some(format!(
            "found rank {}, expected at most {MAX_RANK}",
            shape.len()
        ))
    } else if terms > MAX_TERMS {
        let why = "terms in the number of elements, expected at most";
        Some(format!("found {terms} {why} {MAX_TERMS}"))
    } else {
        None
    }
}
