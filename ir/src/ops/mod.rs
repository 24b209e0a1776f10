//! The op list. One file per op; `ops!` below is the only other place an op is named.
//!
//! A primitive has `eval`; a composite has `expand`, which is its meaning, its fallback lowering on every backend
//! and its fusion pattern read backwards.

use crate::{
    Attr, DType, Dim, Element, Float, Graph, Grid, Shape, Tensor, Type, TypeError, Value,
    eval::EvalError,
};

/// How an op relates output elements to its arguments: what a kernel may fuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An output element depends on the (broadcast) argument elements at its own index.
    Elementwise,
    /// An output row depends on the argument rows at its own index, or at an index the arguments give.
    Rowwise,
    /// Moves no data: the same bytes under another shape, offset or row stride.
    View,
    /// A kernel of its own, or something that a kernel is made of.
    Other,
}

/// What the `op!` macro writes for each op: its name and attributes.
pub trait OpName: Sized + Clone + Into<Op> {
    /// In the text form and in rules.
    const NAME: &'static str;
    /// Names of the attributes, in order.
    const ATTRS: &'static [&'static str];
    /// Values of the attributes, in order.
    fn attrs(&self) -> Vec<Attr>;
    /// The op with these attributes; `None` if their number or kind is wrong.
    fn from_attrs(attrs: &[Attr]) -> Option<Self>;
}

/// Everything the house needs to know about an op.
pub trait OpDef: OpName {
    /// See [`Class`].
    const CLASS: Class = Class::Other;
    /// Whether the last argument is a body that [`Acc`] stands in, rather than an ordinary value.
    const BINDS: bool = false;

    /// Type of the one output.
    fn infer(&self, args: &[Type]) -> Result<Type, TypeError>;

    /// The op in terms of smaller ops. `None` for a primitive.
    fn expand(&self, _g: &mut Graph, _args: &[Value]) -> Option<Result<Value, TypeError>> {
        None
    }

    /// Value of a primitive; `out` is the output shape.
    fn eval(&self, _args: &[Tensor], _out: &[usize]) -> Result<Tensor, EvalError> {
        Err(EvalError::NotPrimitive { op: Self::NAME })
    }

    /// Floating-point operations, counting a transcendental function as ten.
    fn flops(&self, _args: &[Type], out: &Type) -> Dim {
        out.numel()
    }
}

/// Declares an op: its struct, name and attributes.
macro_rules! op {
    ($(#[$doc:meta])* $Op:ident = $name:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $Op;
        impl OpName for $Op {
            const NAME: &'static str = $name;
            const ATTRS: &'static [&'static str] = &[];
            fn attrs(&self) -> Vec<Attr> {
                vec![]
            }
            fn from_attrs(attrs: &[Attr]) -> Option<Self> {
                attrs.is_empty().then_some($Op)
            }
        }
    };
    ($(#[$doc:meta])* $Op:ident = $name:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $Op {
            $($(#[$fdoc])* pub $field: $ty),+
        }
        impl OpName for $Op {
            const NAME: &'static str = $name;
            const ATTRS: &'static [&'static str] = &[$(stringify!($field)),+];
            fn attrs(&self) -> Vec<Attr> {
                vec![$(self.$field.clone().into()),+]
            }
            fn from_attrs(attrs: &[Attr]) -> Option<Self> {
                let mut attrs = attrs.iter();
                let op = $Op { $($field: attrs.next()?.clone().try_into().ok()?),+ };
                attrs.next().is_none().then_some(op)
            }
        }
    };
}

/// Defines an elementwise primitive from its scalar function over `$domain` ([`floats`] or [`numbers`]); `$flops` an
/// element.
macro_rules! elementwise {
    ($Op:ident($($x:ident),+) = $e:expr; $domain:ident, $flops:literal) => {
        impl OpDef for $Op {
            const CLASS: Class = Class::Elementwise;
            fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
                $domain(Self::NAME, args, [$(stringify!($x)),+].len())
            }
            fn eval(&self, args: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> {
                Ok(Tensor::zip(args, out, |xs| {
                    let mut xs = xs.iter().copied();
                    $(let $x: f64 = xs.next().unwrap_or(f64::NAN);)+
                    $e
                }))
            }
            fn flops(&self, _: &[Type], out: &Type) -> Dim {
                out.numel() * $flops.into()
            }
        }
    };
}

/// Defines a reduction of numbers over the last axis, kept as size 1, from its function of a row.
macro_rules! reduction {
    ($Op:ident($row:ident) = $e:expr) => {
        impl OpDef for $Op {
            const CLASS: Class = Class::Rowwise;
            fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
                let mut out = numbers(Self::NAME, args, 1)?;
                match out.shape.last_mut() {
                    Some(last) => *last = 1.into(),
                    None => return Err(refuse(Self::NAME, "wants rank 1 or more", args)),
                }
                Ok(out)
            }
            fn eval(&self, args: &[Tensor], _: &[usize]) -> Result<Tensor, EvalError> {
                Ok(args[0].reduce(|$row| $e))
            }
            fn flops(&self, args: &[Type], _: &Type) -> Dim {
                args[0].numel()
            }
        }
    };
}

/// Defines an elementwise composite over floats from its expansion; `$flops` an element.
macro_rules! composite {
    ($Op:ident($g:ident, $($x:ident),+) = $e:expr; $flops:literal) => {
        impl OpDef for $Op {
            const CLASS: Class = Class::Elementwise;
            fn infer(&self, args: &[Type]) -> Result<Type, TypeError> {
                floats(Self::NAME, args, [$(stringify!($x)),+].len())
            }
            fn expand(&self, $g: &mut Graph, args: &[Value]) -> Option<Result<Value, TypeError>> {
                let [$($x),+] = *args else { return None };
                let mut expansion = || $e;
                Some(expansion())
            }
            fn flops(&self, _: &[Type], out: &Type) -> Dim {
                out.numel() * $flops.into()
            }
        }
    };
}

macro_rules! ops {
    ($($file:ident::$Op:ident),* $(,)?) => {
        $(mod $file; pub use $file::$Op;)*

        /// An op with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each op is documented in its file")]
        pub enum Op { $($Op($Op)),* }

        /// An op without its attributes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each op is documented in its file")]
        pub enum OpKind { $($Op),* }

        $(impl From<$Op> for Op { fn from(o: $Op) -> Op { Op::$Op(o) } })*

        impl Op {
            /// Which op.
            pub fn kind(&self) -> OpKind { match self { $(Op::$Op(_) => OpKind::$Op),* } }
            /// See [`OpDef::infer`].
            pub fn infer(&self, a: &[Type]) -> Result<Type, TypeError> { match self { $(Op::$Op(o) => o.infer(a)),* } }
            /// See [`OpName::attrs`].
            pub fn attrs(&self) -> Vec<Attr> { match self { $(Op::$Op(o) => o.attrs()),* } }
            /// See [`OpDef::expand`].
            pub fn expand(&self, g: &mut Graph, a: &[Value]) -> Option<Result<Value, TypeError>> { match self { $(Op::$Op(o) => o.expand(g, a)),* } }
            /// See [`OpDef::eval`].
            pub fn eval(&self, a: &[Tensor], out: &[usize]) -> Result<Tensor, EvalError> { match self { $(Op::$Op(o) => o.eval(a, out)),* } }
            /// See [`OpDef::flops`].
            pub fn flops(&self, a: &[Type], out: &Type) -> Dim { match self { $(Op::$Op(o) => o.flops(a, out)),* } }
        }

        impl OpKind {
            /// Every op.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$Op),*];
            /// See [`OpName::NAME`].
            pub fn name(self) -> &'static str { match self { $(OpKind::$Op => $Op::NAME),* } }
            /// See [`OpName::ATTRS`].
            pub fn attr_names(self) -> &'static [&'static str] { match self { $(OpKind::$Op => $Op::ATTRS),* } }
            /// See [`OpDef::CLASS`].
            pub fn class(self) -> Class { match self { $(OpKind::$Op => $Op::CLASS),* } }
            /// See [`OpDef::BINDS`].
            pub fn binds(self) -> bool { match self { $(OpKind::$Op => $Op::BINDS),* } }
            /// See [`OpName::from_attrs`].
            pub fn build(self, attrs: &[Attr]) -> Option<Op> { match self { $(OpKind::$Op => $Op::from_attrs(attrs).map(Op::from)),* } }
        }
    };
}

ops! {
    constant::Const, iota::Iota,
    add::Add, sub::Sub, mul::Mul, div::Div, max::Max, min::Min,
    exp::Exp, rsqrt::Rsqrt, tanh::Tanh, erf::Erf, sin::Sin, cos::Cos,
    lt::Lt, select::Select, cast::Cast,
    sum::Sum, amax::Amax,
    matmul::MatMul,
    reshape::Reshape, transpose::Transpose, slice::Slice, concat::Concat,
    gather::Gather, scatter::Scatter,
    sigmoid::Sigmoid, silu::Silu, relu::Relu, gelu::Gelu, gelu_tanh::GeluTanh, swiglu::SwiGlu,
    softmax::Softmax, rms_norm::RmsNorm, layer_norm::LayerNorm,
    linear::Linear, rope::Rope, attention::Attention, mean_rows::MeanRows,
    fake_quantize::FakeQuantize, max_rows::MaxRows, top_k_ids::TopKIds, top_k_values::TopKValues,
    experts::Experts, dequantize::Dequantize, hadamard::Hadamard,
    acc::Acc, map::Map, gemm::Gemm,
}

pub use hadamard::walsh_hadamard;

impl OpKind {
    /// The op of that name.
    pub fn named(name: &str) -> Option<OpKind> {
        OpKind::ALL.iter().copied().find(|k| k.name() == name)
    }
}

/// A refusal by `op`.
pub(crate) fn refuse(op: &'static str, why: impl Into<String>, args: &[Type]) -> TypeError {
    TypeError {
        op,
        why: why.into(),
        args: args.to_vec(),
    }
}

/// The arguments as an array, or a refusal that says how many are wanted.
pub(crate) fn arity<'a, const N: usize>(
    op: &'static str,
    args: &'a [Type],
) -> Result<&'a [Type; N], TypeError> {
    args.try_into()
        .map_err(|_| refuse(op, format!("wants {N} arguments, has {}", args.len()), args))
}

/// Numpy-style broadcast of `n` arguments of one element type.
pub(crate) fn broadcast(op: &'static str, args: &[Type], n: usize) -> Result<Type, TypeError> {
    if args.len() != n {
        return Err(refuse(
            op,
            format!("wants {n} arguments, has {}", args.len()),
            args,
        ));
    }
    if args.iter().any(|a| a.dtype != args[0].dtype) {
        return Err(refuse(op, "element types differ", args));
    }
    let shape = broadcast_shapes(args.iter().map(|a| &a.shape))
        .ok_or_else(|| refuse(op, "shapes do not broadcast", args))?;
    Ok(Type {
        dtype: args[0].dtype,
        shape,
    })
}

/// [`broadcast`] of numbers.
pub(crate) fn numbers(op: &'static str, args: &[Type], n: usize) -> Result<Type, TypeError> {
    match broadcast(op, args, n)? {
        ty if ty.dtype.is_number() => Ok(ty),
        _ => Err(refuse(op, "wants numbers", args)),
    }
}

/// [`broadcast`] of real numbers.
pub(crate) fn floats(op: &'static str, args: &[Type], n: usize) -> Result<Type, TypeError> {
    match broadcast(op, args, n)? {
        ty if ty.dtype.is_float() => Ok(ty),
        _ => Err(refuse(op, "wants floats; cast the arguments first", args)),
    }
}

/// The type, unless an axis has a negative size.
pub(crate) fn sized(op: &'static str, ty: Type, args: &[Type]) -> Result<Type, TypeError> {
    match ty.shape.iter().any(|d| d.known().is_some_and(|n| n < 0)) {
        true => Err(refuse(op, format!("{ty} has a negative size"), args)),
        false => Ok(ty),
    }
}

/// Numpy-style broadcast of shapes: aligned at the last axis, axes equal or 1.
pub(crate) fn broadcast_shapes<'a>(shapes: impl IntoIterator<Item = &'a Shape>) -> Option<Shape> {
    let one = Dim::from(1);
    shapes.into_iter().try_fold(Shape::new(), |a, b| {
        let rank = a.len().max(b.len());
        (0..rank)
            .map(|i| {
                let x = (i + a.len()).checked_sub(rank).map_or(&one, |i| &a[i]);
                let y = (i + b.len()).checked_sub(rank).map_or(&one, |i| &b[i]);
                match (x, y) {
                    _ if x == y || *y == one => Some(x.clone()),
                    _ if *x == one => Some(y.clone()),
                    _ => None,
                }
            })
            .collect()
    })
}

/// The axis as an index into `args[0]`'s shape.
pub(crate) fn axis(op: &'static str, axis: i64, args: &[Type]) -> Result<usize, TypeError> {
    usize::try_from(axis)
        .ok()
        .filter(|a| args.first().is_some_and(|t| *a < t.shape.len()))
        .ok_or_else(|| refuse(op, format!("no axis {axis}"), args))
}
