//! The plan: the flat list of kernel launches that is one step, and where each operand lies. The same for every image
//! of the artifact.

use super::Image;
use crate::{Name, Sym, Type, abi::Layout};
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
}

/// A place that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("launch {launch}: {what} {found} is beyond {limit}")]
pub struct PlanError {
    /// Which launch.
    pub launch: Name,
    /// What is out of range.
    pub what: &'static str,
    /// As the plan says.
    pub found: u64,
    /// One past the largest allowed.
    pub limit: u64,
}

impl Plan {
    /// Checks that images lie in the code, kernels in the images and operands in the parts they name. Sizes of ports
    /// depend on the step and are the session's to provide.
    ///
    /// # Errors
    /// The first place that does not exist.
    pub fn check(&self, images: &[Image], code: u64, weights: u64) -> Result<(), PlanError> {
        for image in images {
            self.check_image(image, code)?;
        }
        for l in &self.launches {
            let wrong = |what, found, limit| PlanError {
                launch: l.name.clone(),
                what,
                found,
                limit,
            };
            for place in &l.operands {
                let (what, found, limit) = match place.base {
                    Base::Arena => ("arena offset", place.offset, self.arena),
                    Base::Weights => ("weights offset", place.offset, weights),
                    Base::Input(i) => ("input", i.into(), self.inputs.len() as u64),
                    Base::Output(i) => ("output", i.into(), self.outputs.len() as u64),
                    Base::State(i) => ("state", i.into(), self.states.len() as u64),
                };
                if found >= limit {
                    return Err(wrong(what, found, limit));
                }
            }
        }
        Ok(())
    }

    fn check_image(&self, image: &Image, code: u64) -> Result<(), PlanError> {
        let wrong = |launch: &Name, what, found, limit| PlanError {
            launch: launch.clone(),
            what,
            found,
            limit,
        };
        let end = image.offset.saturating_add(image.len);
        if end > code {
            let name = format!("(all) for {}", image.target).into();
            return Err(wrong(&name, "code up to", end, code + 1));
        }
        for l in &self.launches {
            let kernels = image.kernels.len() as u64;
            let Some(variants) = image.kernels.get(l.kernel as usize) else {
                return Err(wrong(&l.name, "kernel", l.kernel.into(), kernels));
            };
            if variants.0.last().is_none_or(|v| v.rows < u64::MAX) {
                let most = variants.0.last().map_or(0, |v| v.rows);
                return Err(wrong(&l.name, "a step of any size", u64::MAX, most));
            }
            if let Some(v) = variants.0.iter().find(|v| v.entry >= image.len) {
                return Err(wrong(&l.name, "entry", v.entry, image.len));
            }
        }
        Ok(())
    }
}
