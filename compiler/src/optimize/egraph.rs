//! The bridge to egg: one e-node type for all ops, and the facts that every class knows about its value. Adding an
//! op never touches this file; which rewrites exist is none of its business.

use crate::storage::Storage;
use egg::{Analysis, DidMerge, Id, Language};
use ir::{Attr, Graph, Name, Node, Op, OpKind, Role, Type, TypeError, Value};
use std::{collections::HashMap, fmt};

/// An e-graph of graph values.
pub type EGraph = egg::EGraph<ENode, Facts>;

/// An op, an attribute or an input. Attributes are leaf children, so that patterns can bind them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ENode {
    /// Arguments, then attributes.
    Op(OpKind, Box<[Id]>),
    /// An attribute.
    Attr(Attr),
    /// An input of the graph.
    Input(Name, Role, Type),
}

impl ENode {
    /// The ids of an op's arguments and of its attributes; none for a leaf.
    pub fn split(&self) -> (&[Id], &[Id]) {
        match self {
            ENode::Op(kind, ids) => ids.split_at(ids.len().saturating_sub(kind.attr_names().len())),
            _ => (&[], &[]),
        }
    }

    /// Which op; `None` for a leaf.
    pub fn kind(&self) -> Option<OpKind> {
        match self {
            ENode::Op(kind, _) => Some(*kind),
            _ => None,
        }
    }
}

/// What e-nodes that may match have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    /// The same op.
    Op(OpKind),
    /// Attributes.
    Attr,
    /// Inputs.
    Input,
}

impl Language for ENode {
    type Discriminant = Tag;
    fn discriminant(&self) -> Tag {
        match self {
            ENode::Op(kind, _) => Tag::Op(*kind),
            ENode::Attr(_) => Tag::Attr,
            ENode::Input(..) => Tag::Input,
        }
    }
    fn matches(&self, o: &Self) -> bool {
        match (self, o) {
            (ENode::Op(a, x), ENode::Op(b, y)) => a == b && x.len() == y.len(),
            _ => self == o,
        }
    }
    fn children(&self) -> &[Id] {
        match self {
            ENode::Op(_, ids) => ids,
            _ => &[],
        }
    }
    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            ENode::Op(_, ids) => ids,
            _ => &mut [],
        }
    }
}

impl fmt::Display for ENode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ENode::Op(kind, _) => f.write_str(kind.name()),
            ENode::Attr(a) => write!(f, "{a}"),
            ENode::Input(name, ..) => f.write_str(name),
        }
    }
}

/// What is known of a value whatever computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its type.
    pub ty: Type,
    /// Whether it depends on weights and literals alone, so that it is computed at compile time and costs nothing.
    pub weights_only: bool,
    /// The narrowest way to store it exactly: a widened bf16 weight is stored as bf16.
    pub storage: Storage,
    /// Whether an accumulator that no kernel binds occurs in it: it exists in a kernel's body only.
    pub open: bool,
}

/// What an e-class knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Of a value.
    Value(Known),
    /// Of an attribute: the attribute.
    Attr(Attr),
}

impl Fact {
    /// What is known, if this is a value.
    pub fn value(&self) -> Option<&Known> {
        match self {
            Fact::Value(known) => Some(known),
            Fact::Attr(_) => None,
        }
    }

    /// The attribute, if this is one.
    pub fn attr(&self) -> Option<&Attr> {
        match self {
            Fact::Attr(a) => Some(a),
            Fact::Value(_) => None,
        }
    }

    /// Facts of an op's result from those of its arguments.
    ///
    /// # Errors
    /// When the op refuses the arguments' types.
    pub fn of(op: &Op, args: &[&Known]) -> Result<Known, TypeError> {
        let types: Vec<Type> = args.iter().map(|a| a.ty.clone()).collect();
        let ty = op.infer(&types)?;
        let free = &args[..args.len() - usize::from(op.kind().binds())];
        let open = op.kind() == OpKind::Acc || free.iter().any(|a| a.open);
        let weights_only = !open
            && !op.kind().binds()
            && args.iter().all(|a| a.weights_only)
            && ty.shape.iter().all(|d| d.known().is_some());
        let stored: Vec<Storage> = args.iter().map(|a| a.storage).collect();
        // What kernels compute is stored as its type says, but for what they round to integers.
        let rounds = matches!(op.kind(), OpKind::FakeQuantize | OpKind::Map);
        let storage = if weights_only || rounds {
            Storage::of(op, &stored, &ty)
        } else {
            Storage::plain(ty.dtype)
        };
        Ok(Known {
            ty,
            weights_only,
            storage,
            open,
        })
    }

    /// Facts of an input.
    pub fn of_input(role: Role, ty: &Type) -> Known {
        Known {
            ty: ty.clone(),
            weights_only: role == Role::Weight,
            storage: Storage::plain(ty.dtype),
            open: false,
        }
    }
}

/// The e-class analysis: types and the rest of [`Fact`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts;

impl Analysis<ENode> for Facts {
    type Data = Fact;
    fn make(egraph: &mut EGraph, node: &ENode, _: Id) -> Fact {
        derive(node, |id| &egraph[id].data).expect("nodes are type-checked before they are added")
    }
    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        let (Fact::Value(a), Fact::Value(b)) = (&mut *a, &b) else {
            assert_eq!(*a, b, "a rewrite merged different attributes");
            return DidMerge(false, false);
        };
        assert_eq!(a.ty, b.ty, "a rewrite changed a type");
        assert_eq!(
            a.open, b.open,
            "a rewrite moved a value into or out of a kernel's body"
        );
        let joined = Known {
            ty: b.ty.clone(),
            weights_only: a.weights_only || b.weights_only,
            storage: a.storage.min(b.storage),
            open: b.open,
        };
        let changed = DidMerge(joined != *a, joined != *b);
        *a = joined;
        changed
    }
}

/// Facts of a node whose children have facts; `None` if it is ill-typed.
pub fn derive<'a>(node: &ENode, fact: impl Fn(Id) -> &'a Fact) -> Option<Fact> {
    let ENode::Op(kind, _) = node else {
        return Some(match node {
            ENode::Attr(a) => Fact::Attr(a.clone()),
            ENode::Input(_, role, ty) => Fact::Value(Fact::of_input(*role, ty)),
            ENode::Op(..) => return None,
        });
    };
    let (args, attrs) = node.split();
    let attrs: Vec<Attr> = attrs
        .iter()
        .map(|a| fact(*a).attr().cloned())
        .collect::<Option<_>>()?;
    let args: Vec<&Known> = args
        .iter()
        .map(|a| fact(*a).value())
        .collect::<Option<_>>()?;
    Fact::of(&kind.build(&attrs)?, &args).ok().map(Fact::Value)
}

/// Adds an op of known attributes. Like all ids that are added here, the one that it returns is of this very term where
/// egg keeps explanations.
pub fn add_op(egraph: &mut EGraph, op: &Op, args: &[Id]) -> Id {
    let attrs = op.attrs().into_iter();
    let attrs = attrs.map(|a| egraph.add_uncanonical(ENode::Attr(a)));
    let ids: Vec<Id> = args
        .iter()
        .copied()
        .chain(attrs.collect::<Vec<_>>())
        .collect();
    egraph.add_uncanonical(ENode::Op(op.kind(), ids.into()))
}

/// What explanations call the step from a composite to its expansion.
pub const DEFINITION: &str = "definition";

/// Whether a kernel template computes the op as it stands.
pub fn is_kernel(kind: OpKind) -> bool {
    matches!(kind, OpKind::Map | OpKind::Gemm | OpKind::Attention)
}

/// A composite in a class that a kernel or a body can hold and whose arguments are made: the one that reaches
/// furthest back, so a layer norm rather than the root-mean-square norm at its end.
pub fn composite(
    egraph: &EGraph,
    class: Id,
    made: &HashMap<Id, Value>,
) -> Option<(Op, Vec<Value>)> {
    let composites = egraph[class].nodes.iter().filter_map(|node| {
        let kind = node.kind()?;
        let (args, attrs) = node.split();
        let types = args
            .iter()
            .map(|a| Some(egraph[*a].data.value()?.ty.clone()));
        let types: Vec<Type> = types.collect::<Option<_>>()?;
        let attrs = attrs.iter().map(|a| egraph[*a].data.attr().cloned());
        let op = kind.build(&attrs.collect::<Option<Vec<Attr>>>()?)?;
        let holds = is_kernel(kind) || kind.class() != ir::Class::Other;
        if !holds || kind.binds() || expansion(&op, &types).is_none() {
            return None;
        }
        let args = args.iter().map(|a| made.get(&egraph.find(*a)).copied());
        Some((op, args.collect::<Option<Vec<Value>>>()?))
    });
    composites.min_by_key(|(_, args)| args.iter().copied().max())
}

/// The op's expansion over inputs named `0`, `1`, .. of the given types; `None` for a primitive.
///
/// # Errors
/// When the expansion does not type-check.
pub fn expansion(op: &Op, types: &[Type]) -> Option<Result<(Graph, Value), TypeError>> {
    let mut g = Graph::new();
    let args: Vec<Value> = types
        .iter()
        .enumerate()
        .map(|(i, ty)| g.input(i.to_string(), Role::Data, ty.clone()))
        .collect();
    let root = op.expand(&mut g, &args)?;
    Some(root.map(|root| {
        g.outputs = vec![root];
        (g, root)
    }))
}

/// Adds what the outputs need. A composite that no kernel computes and no body can hold is added together with its
/// expansion. Returns the class of each value.
///
/// # Errors
/// When an expansion does not type-check.
pub fn load(egraph: &mut EGraph, g: &Graph) -> Result<HashMap<Value, Id>, TypeError> {
    load_into(egraph, g, HashMap::new())
}

fn load_into(
    egraph: &mut EGraph,
    g: &Graph,
    mut ids: HashMap<Value, Id>,
) -> Result<HashMap<Value, Id>, TypeError> {
    for v in g.cone(&g.outputs) {
        if ids.contains_key(&v) {
            continue;
        }
        let id = match g.node(v) {
            Node::Input { name, role } => {
                egraph.add_uncanonical(ENode::Input(name.clone(), *role, g.ty(v).clone()))
            }
            Node::Op { op, args } => {
                let args: Vec<Id> = args.iter().map(|a| ids[a]).collect();
                let id = add_op(egraph, op, &args);
                if op.kind().class() == ir::Class::Other && !is_kernel(op.kind()) {
                    let types: Vec<Type> = g.args(v).iter().map(|a| g.ty(*a).clone()).collect();
                    if let Some(expanded) = expansion(op, &types) {
                        let (body, root) = expanded?;
                        let inner = body.inputs().iter().copied().zip(args).collect();
                        let inner = load_into(egraph, &body, inner)?;
                        egraph.union_trusted(id, inner[&root], DEFINITION);
                    }
                }
                id
            }
        };
        ids.insert(v, id);
    }
    egraph.rebuild();
    Ok(ids)
}
