//! The Gemm template: weights of bf16 and of few bits on the tensor cores, for few rows at the speed of memory; others,
//! which those would round, in f32. Here is what all skeletons are given: constants, the input, the body.

mod few;
mod tiles;
pub(super) use tiles::{REGISTERS, SHARED, wgmma};

use super::{
    Chip,
    rows::{RowBody, Team},
    source::Source,
    text::{self, Text},
};
use crate::schedule::{Inlined, View};
use ir::{
    DType, Element, Graph, Name,
    abi::{
        Codec,
        cuda::{Cell, DEPTH},
    },
    artifact::Tasks,
};
use std::collections::HashMap;

/// Of the GPUs that this is tuned for.
const MULTIPROCESSORS: i64 = 132;
/// Rows up to which weights are streamed.
const FEW: u64 = 10;

/// What is multiplied: see [`Template::Gemm`](crate::schedule::Template::Gemm).
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    pub body: &'a Graph,
    pub weights: usize,
    pub columns: i64,
    pub codec: Codec,
    /// What computes the row of x in steps of one.
    pub inlined: Option<&'a Inlined>,
}

/// What every variant of a kernel shares.
struct Gemm<'a> {
    product: Product<'a>,
    views: &'a [View],
    symbols: &'a [Name],
    chip: Chip,
    depth: i64,
    /// Bf16 numbers whose sum is an element of x.
    terms: i64,
    /// Elements of a row of the packed weights.
    padded: i64,
}

/// The kernel's sources.
pub fn emit(
    product: Product<'_>,
    views: &[View],
    symbols: &[Name],
    chip: Chip,
) -> Result<Vec<Source>, String> {
    let x = &views[0];
    let terms = match x.dtype {
        DType::F32 => 3,
        DType::BF16 => 1,
        other => return Err(format!("reads rows of {other}")),
    };
    let depth = x.shape[1].known().ok_or("symbolic inner axis")?;
    let codec = product.codec;
    let cell = Cell::of(codec);
    let gemm = Gemm {
        product,
        views,
        symbols,
        chip,
        depth,
        terms,
        padded: (depth.max(1) as usize).next_multiple_of(cell.map_or(DEPTH, |c| c.depth)) as i64,
    };
    Ok(match (codec, cell) {
        (_, Some(cell)) => {
            let mut sources = vec![
                gemm.stream(cell, 1)?,
                gemm.stream(cell, 5)?,
                gemm.stream(cell, FEW as i64)?,
            ];
            sources.extend(gemm.tiles(cell)?);
            sources
        }
        (Codec::Plain(dtype), None) => vec![
            gemm.few_rows(dtype, 1)?,
            gemm.few_rows(dtype, 4)?,
            gemm.few_rows(dtype, 8)?,
            gemm.exact()?,
        ],
        (Codec::Grouped { .. }, None) => {
            return Err(format!(
                "weights of {codec}: GPUs have kernels for q8, q4 and f8 alone; take those, or compile for a CPU"
            ));
        }
    })
}

impl Gemm<'_> {
    /// Constants and functions that every skeleton reads, of which some leave `width` neighbours together.
    fn text(&self, width: i64) -> Result<Text, String> {
        let mut t = Text::default();
        let codec = match self.product.codec {
            Codec::Plain(DType::F32) => "F32".into(),
            Codec::Plain(DType::BF16) => "CellBF16".into(),
            Codec::Plain(DType::F16) => "F16".into(),
            Codec::Grouped {
                element: Element::E4M3,
                group,
            } => format!("CellE4M3<{group}>"),
            Codec::Grouped { element, group } => format!("Cell{}<{group}>", element.width()),
            other => return Err(format!("weights of {other}")),
        };
        let (x, stride) = (&self.views[0], self.views[0].strides[0]);
        t.line(format_args!("using Codec = {codec};"));
        t.constant("K", self.depth);
        t.constant("KP", self.padded);
        t.constant("N", self.product.columns);
        t.constant("WEIGHTS", self.product.weights);
        t.constant("TERMS", self.terms);
        let rows = text::dim(&x.shape[0], self.symbols)?;
        t.line(format_args!(
            "INLINE int rows(const Args& args) {{ return {rows}; }}"
        ));
        t.line("INLINE const char* weight(const Args& args, int w) { return args.p[1 + w]; }");
        self.input4(&mut t, stride);
        self.finish(&mut t, width)?;
        Ok(t)
    }

    /// Four neighbours of x, zero beyond its end.
    fn input4(&self, t: &mut Text, stride: i64) {
        let dtype = self.views[0].dtype;
        let bytes = dtype.bytes() as i64;
        t.block("INLINE float4 input4(const Args& args, int m, int k)", |t| {
            t.line(format_args!(
                "const char* at = args.p[0] + ((i64)m * {stride} + k) * {bytes};"
            ));
            if stride % 4 == 0 && self.depth % 4 == 0 {
                t.line(format_args!(
                    "if (((u64)args.p[0] & {}) == 0) return k < K ? four_{dtype}(at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);",
                    4 * bytes - 1
                ));
            }
            let one = |i: i64| format!("k + {i} < K ? load_{dtype}(at, {i}) : 0.0f");
            let all: Vec<String> = (0..4).map(one).collect();
            t.line(format_args!("return make_float4({});", all.join(", ")));
        });
    }

    /// The body at `width` neighbours of a row: what is loaded for it, so that loads of many can be under way, and what is
    /// then computed and stored.
    fn finish(&self, t: &mut Text, width: i64) -> Result<(), String> {
        let body = self.product.body;
        let mut known = vec![];
        let (mut fields, mut loads) = (vec![], vec![]);
        for (i, input) in body.inputs().iter().enumerate() {
            if i < self.product.weights {
                known.push((*input, format!("acc[{i}][j]")));
                continue;
            }
            let operand = i + 1;
            let view = &self.views[operand];
            let [down, across] = view.strides[..] else {
                return Err(format!("{view:?} is no matrix"));
            };
            let (name, ty) = (format!("v{i}"), text::register(view.dtype));
            let (dtype, down) = (view.dtype.name(), down * view.dtype.bytes() as i64);
            let row = match down {
                0 => format!("args.p[{operand}]"),
                _ => format!("args.p[{operand}] + (i64)m * {down}"),
            };
            let one = view.shape[1].known() == Some(1) || across == 0;
            if one {
                fields.push(format!("{ty} {name};"));
                loads.push(format!("beside.{name} = load_{dtype}({row}, 0);"));
                known.push((*input, format!("beside.{name}")));
                continue;
            }
            fields.push(format!("{ty} {name}[{width}];"));
            known.push((*input, format!("beside.{name}[j]")));
            match across {
                1 => loads.push(format!("load_{dtype}({row}, n, beside.{name});")),
                _ => loads.extend((0..width).map(|j| {
                    format!("beside.{name}[{j}] = load_{dtype}({row}, ((i64)n + {j}) * {across});")
                })),
            }
        }
        t.constant("WIDTH", width);
        t.line(format_args!("struct Beside {{ {} }};", fields.join(" ")));
        let head = "INLINE void fetch(const Args& args, int m, int n, Beside& beside)";
        t.block(head, |t| loads.iter().for_each(|load| t.line(load)));
        let head = "INLINE void finish(const Args& args, int m, int n, const float (&acc)[WEIGHTS][WIDTH], const Beside& beside)";
        t.block(head, |t| {
            let operand = self.views.len() - 1;
            let dtype = self.views[operand].dtype;
            let all = t.array(text::register(dtype), "[WIDTH]");
            t.line("#pragma unroll");
            t.block("for (int j = 0; j < WIDTH; j++)", |t| {
                let mut body = RowBody::new(body, HashMap::new(), Team::Element);
                let x = body.element(t, known)?;
                t.line(format_args!("{all}[j] = {x};"));
                Ok::<_, String>(())
            })?;
            t.line(format_args!(
                "store_{dtype}(args.p[{operand}], (i64)m * N + n, {all});"
            ));
            Ok(())
        })
    }

    fn source(
        &self,
        name: &'static str,
        text: Text,
        skeleton: &'static [&'static str],
        tile: (u64, u64),
    ) -> Source {
        let tasks = Tasks {
            rows: self.views[0].shape[0].clone(),
            rows_per_task: tile.0,
            columns: (self.product.columns as u64).div_ceil(tile.1),
        };
        Source {
            skeleton,
            ..Source::new(name, self.views.len(), text.finish(), tasks, 256)
        }
    }
}
