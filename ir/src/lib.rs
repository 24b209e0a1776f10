//! The words that satura's compiler and runtime share: dims, types, ops, graphs, programs, their text form, the
//! reference interpreter, the target and the artifact. No IO, no egg, no Cranelift, no CUDA.

pub mod abi;
pub mod artifact;
mod attr;
mod description;
mod dim;
mod element;
pub mod eval;
mod graph;
pub mod ops;
pub mod program;
#[cfg(feature = "testing")]
pub mod random;
mod target;
mod tensor;
mod text;
mod ty;
mod verify;

pub use attr::{Attr, Float};
pub use description::{Chat, Classes, Description, Filter, Generation, Image, Positions, Task};
pub use dim::{Dim, Name, Sym};
pub use element::{Element, Grid, UnknownElement, nearest_integer};
pub use eval::EvalError;
pub use graph::{Graph, Node, Role, Value};
pub use ops::{Class, Op, OpDef, OpKind, OpName};
pub use program::{Call, Constant, Operand, Program, Violation, feed};
pub use target::{Target, UnknownTarget};
pub use tensor::Tensor;
pub use text::ParseError;
pub use ty::{DType, Shape, Type, TypeError};
