//! The plan: the flat list of kernel launches that is one step, and where each operand lies. The same for every image
//! of the artifact.

use super::{Image, Work};
use crate::{Dim, Name, Sym, Type, abi::Layout};
use serde::{Deserialize, Serialize};

/// What an address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Base {
    /// Memory for values within a step, one block per session.
    Arena,
    /// The artifact's weights.
    Weights,
    /// [`Plan::inputs`] of that index.
    Input(u32),
    /// [`Plan::outputs`] of that index.
    Output(u32),
    /// [`Plan::states`] of that index.
    State(u32),
}

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Relative to what.
    pub base: Base,
    /// Bytes from there.
    pub offset: u64,
}

/// One kernel run over its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// For profiles: graph and kernel, e.g. `layer.3: gemm qkv`.
    pub name: Name,
    /// Index among the kernels of each [`Image`](super::Image).
    pub kernel: u32,
    /// Addresses of the operands, in the kernel's order.
    pub operands: Vec<Place>,
}

/// A call of the program as the plan runs it: where a step may be stopped to look at what the call gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// What the names of its weights have in common up to a number, e.g. `model.layers.3`; else its graph, e.g. `head`.
    pub name: Name,
    /// One past its last launch.
    pub end: u64,
    /// Values that it gives, whole once its last launch has run.
    pub results: Vec<LayerResult>,
}

/// A value that a [`Layer`] gives; row-major, from its place on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerResult {
    /// Which of the graph's outputs.
    pub output: u32,
    /// Of f32, over the plan's symbols.
    pub ty: Type,
    /// Where it lies.
    pub place: Place,
}

/// A named value that crosses the plan's border.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// See [`feed`](crate::feed) for inputs.
    pub name: Name,
    /// Over the plan's symbols.
    pub ty: Type,
    /// How a state lies in memory; all else lies in rows.
    #[serde(default)]
    pub layout: Layout,
}

impl Port {
    /// Rows of the first axis that memory for `rows` of them has.
    pub fn rows(&self, rows: usize) -> usize {
        self.layout.rows(rows)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> Dim {
        if !self.layout.coded() {
            return self.ty.numel() * (self.ty.dtype.bytes() as i64).into();
        }
        let dim = self.ty.last().bound();
        let width = self.layout.width(usize::try_from(dim).unwrap_or(0));
        self.ty.rows() * (width as i64).into()
    }
}

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Symbols, in the order in which kernels read their values.
    pub symbols: Vec<Sym>,
    /// Given at each step.
    pub inputs: Vec<Port>,
    /// What a step gives.
    pub outputs: Vec<Port>,
    /// Kept between steps, zero at first, updated in place.
    pub states: Vec<Port>,
    /// Bytes of the arena.
    pub arena: u64,
    /// In execution order.
    pub launches: Vec<Launch>,
    /// The program's calls, in execution order.
    pub layers: Vec<Layer>,
    /// What each kernel does, for those who predict how long a step takes; may be empty.
    pub work: Vec<Work<Dim>>,
}

/// A place that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{of}: {what} {found} is beyond {limit}")]
pub struct PlanError {
    /// Which launch, layer or image.
    pub of: String,
    /// What is out of range.
    pub what: &'static str,
    /// As the plan says.
    pub found: u64,
    /// One past the largest allowed.
    pub limit: u64,
}

impl Plan {
    /// Checks that images lie in the code, kernels in the images, operands and results in the parts they name, and layers in
    /// the launches. Sizes of ports depend on the step and are the session's to provide.
    ///
    /// # Errors
    /// The first place that does not exist.
    pub fn check(&self, images: &[Image], code: u64, weights: u64) -> Result<(), PlanError> {
        for image in images {
            self.check_image(image, code)?;
        }
        let exists = |of: &dyn Fn() -> String, place: &Place| {
            let (what, found, limit) = match place.base {
                Base::Arena => ("arena offset", place.offset, self.arena),
                Base::Weights => ("weights offset", place.offset, weights),
                Base::Input(i) => ("input", i.into(), self.inputs.len() as u64),
                Base::Output(i) => ("output", i.into(), self.outputs.len() as u64),
                Base::State(i) => ("state", i.into(), self.states.len() as u64),
            };
            within(of, what, found, limit)
        };
        for l in &self.launches {
            let of = || format!("launch {}", l.name);
            l.operands.iter().try_for_each(|p| exists(&of, p))?;
        }
        let mut done = 0;
        for l in &self.layers {
            let of = || format!("layer {}", l.name);
            within(&of, "end", l.end, self.launches.len() as u64 + 1)?;
            within(&of, "end of the one before", done, l.end + 1)?;
            done = l.end;
            l.results.iter().try_for_each(|r| exists(&of, &r.place))?;
        }
        Ok(())
    }

    fn check_image(&self, image: &Image, code: u64) -> Result<(), PlanError> {
        let of = || format!("image for {}", image.target);
        let end = image.offset.saturating_add(image.len);
        within(&of, "code up to", end, code.saturating_add(1))?;
        for l in &self.launches {
            let of = || format!("launch {}", l.name);
            let kernels = image.kernels.len() as u64;
            within(&of, "kernel", l.kernel.into(), kernels)?;
            let variants = &image.kernels[l.kernel as usize].0;
            let most = variants.last().map_or(0, |v| v.rows);
            if most < u64::MAX {
                within(&of, "a step of any size", u64::MAX, most)?;
            }
            for v in variants {
                within(&of, "entry", v.entry, image.len)?;
            }
        }
        Ok(())
    }
}

fn within(
    of: &dyn Fn() -> String,
    what: &'static str,
    found: u64,
    limit: u64,
) -> Result<(), PlanError> {
    match found < limit {
        true => Ok(()),
        false => Err(PlanError {
            of: of(),
            what,
            found,
            limit,
        }),
    }
}
