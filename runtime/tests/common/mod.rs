//! Two tiny models, assembled by hand so that the runtime is tested without the compiler: a decoder and an encoder that
//! sum the tokens each token attends to. What they compute can be said in one line of Rust, see `row`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part")]

use ir::{
    DType, Description, Dim, Positions, Sym, Target, Task, Type,
    abi::Layout,
    artifact::{
        Base, Image, Launch, Layer, LayerResult, Manifest, Place, Plan, Port, Tasks, Variant,
        Variants, Workers, Writer,
    },
    feed,
};
use std::io::Cursor;

/// Two kernels for x86-64, without constants or calls:
///
/// * `store(tokens, rows, values)`: `values[rows[t]] = tokens[t]` for tasks `t`;
/// * `sum(values, lo, hi, select, a, b, scale, out)`: for tasks `l`, with `t = select[l]`,
///   `out[l] = [scale * sum(values[lo[t]..hi[t]]), a[t], b[t], dims[0]]`.
///
/// Arguments arrive as `rdi` = operands, `rsi` = environment, `rdx..rcx` = tasks.
#[rustfmt::skip]
pub const CODE: &[u8] = &[
    // store:
    0x4c, 0x8b, 0x07,                           // 00: mov r8,[rdi]
    0x4c, 0x8b, 0x4f, 0x08,                     // 03: mov r9,[rdi+0x8]
    0x4c, 0x8b, 0x57, 0x10,                     // 07: mov r10,[rdi+0x10]
    0x48, 0x39, 0xca,                           // 0b: cmp rdx,rcx
    0x73, 0x15,                                 // 0e: jae 25
    0xf3, 0x41, 0x0f, 0x2a, 0x04, 0x90,         // 10: cvtsi2ss xmm0,[r8+rdx*4]
    0x49, 0x63, 0x04, 0x91,                     // 16: movsxd rax,[r9+rdx*4]
    0xf3, 0x41, 0x0f, 0x11, 0x04, 0x82,         // 1a: movss [r10+rax*4],xmm0
    0x48, 0xff, 0xc2,                           // 20: inc rdx
    0xeb, 0xe6,                                 // 23: jmp b
    0xc3,                                       // 25: ret
    0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00,   // 26: cs nop WORD PTR [rax+rax*1+0x0]
    0x00, 0x00, 0x00,
    // sum:
    0x48, 0x39, 0xca,                           // 30: cmp rdx,rcx
    0x73, 0x7a,                                 // 33: jae af
    0x48, 0x8b, 0x47, 0x18,                     // 35: mov rax,[rdi+0x18]
    0x4c, 0x63, 0x04, 0x90,                     // 39: movsxd r8,[rax+rdx*4]
    0x48, 0x8b, 0x47, 0x08,                     // 3d: mov rax,[rdi+0x8]
    0x4e, 0x63, 0x0c, 0x80,                     // 41: movsxd r9,[rax+r8*4]
    0x48, 0x8b, 0x47, 0x10,                     // 45: mov rax,[rdi+0x10]
    0x4e, 0x63, 0x14, 0x80,                     // 49: movsxd r10,[rax+r8*4]
    0x48, 0x8b, 0x07,                           // 4d: mov rax,[rdi]
    0x0f, 0x57, 0xc0,                           // 50: xorps xmm0,xmm0
    0x4d, 0x39, 0xd1,                           // 53: cmp r9,r10
    0x7d, 0x0b,                                 // 56: jge 63
    0xf3, 0x42, 0x0f, 0x58, 0x04, 0x88,         // 58: addss xmm0,[rax+r9*4]
    0x49, 0xff, 0xc1,                           // 5e: inc r9
    0xeb, 0xf0,                                 // 61: jmp 53
    0x48, 0x8b, 0x47, 0x30,                     // 63: mov rax,[rdi+0x30]
    0xf3, 0x0f, 0x59, 0x00,                     // 67: mulss xmm0,[rax]
    0x49, 0x89, 0xd3,                           // 6b: mov r11,rdx
    0x49, 0xc1, 0xe3, 0x04,                     // 6e: shl r11,0x4
    0x4c, 0x03, 0x5f, 0x38,                     // 72: add r11,[rdi+0x38]
    0xf3, 0x41, 0x0f, 0x11, 0x03,               // 76: movss [r11],xmm0
    0x48, 0x8b, 0x47, 0x20,                     // 7b: mov rax,[rdi+0x20]
    0xf3, 0x42, 0x0f, 0x2a, 0x04, 0x80,         // 7f: cvtsi2ss xmm0,[rax+r8*4]
    0xf3, 0x41, 0x0f, 0x11, 0x43, 0x04,         // 85: movss [r11+0x4],xmm0
    0x48, 0x8b, 0x47, 0x28,                     // 8b: mov rax,[rdi+0x28]
    0xf3, 0x42, 0x0f, 0x2a, 0x04, 0x80,         // 8f: cvtsi2ss xmm0,[rax+r8*4]
    0xf3, 0x41, 0x0f, 0x11, 0x43, 0x08,         // 95: movss [r11+0x8],xmm0
    0x48, 0x8b, 0x46, 0x08,                     // 9b: mov rax,[rsi+0x8]
    0xf3, 0x48, 0x0f, 0x2a, 0x00,               // 9f: cvtsi2ss xmm0,[rax]
    0xf3, 0x41, 0x0f, 0x11, 0x43, 0x0c,         // a4: movss [r11+0xc],xmm0
    0x48, 0xff, 0xc2,                           // aa: inc rdx
    0xeb, 0x81,                                 // ad: jmp 30
    0xc3,                                       // af: ret
];
const STORE: u64 = 0x00;
const SUM: u64 = 0x30;

/// What `sum` multiplies with.
pub const SCALE: f32 = 0.5;
/// Elements of an output row.
pub const WIDTH: usize = 4;
/// Most tokens, selected tokens and sequences of a step.
pub const STEP: u32 = 5;
/// Token ids are below this.
pub const VOCABULARY: usize = 100;
/// Longest sequence.
pub const CONTEXT: usize = 16;
/// The id that ends a generation.
pub const EOS: u32 = 99;

/// One row of logits: the token at `position` in a sequence, in a step of `step` tokens.
pub fn row(attended: &[u32], position: i32, other: u32, step: usize) -> [f32; WIDTH] {
    let sum = attended.iter().sum::<u32>() as f32;
    [SCALE * sum, position as f32, other as f32, step as f32]
}

fn sym(name: &str) -> Sym {
    Sym::new(name, if name == feed::R { 64 } else { STEP })
}

/// A port over symbol `s`, with `width` elements for each where that is not 0.
pub fn port(name: &str, dtype: DType, s: &str, width: usize) -> Port {
    let width = (width > 0).then(|| Dim::from(width));
    let shape: Vec<Dim> = std::iter::once(Dim::from(&sym(s))).chain(width).collect();
    Port {
        name: name.into(),
        ty: Type::new(dtype, shape),
        layout: Layout::Rows,
    }
}

fn inputs(names: &[(&str, &str)]) -> Vec<Port> {
    names
        .iter()
        .map(|(name, s)| port(name, DType::I32, s, 0))
        .collect()
}

/// A kernel at an offset of the code, with a task for each `s`.
fn kernel(entry: u64, s: &str) -> Variants {
    Variants(vec![Variant {
        rows: u64::MAX,
        entry,
        tasks: Tasks {
            rows: (&sym(s)).into(),
            rows_per_task: 1,
            columns: 1,
        },
        workers: Workers::Threads { grain: 1 },
    }])
}

fn launch(name: &str, kernel: u32, operands: &[(Base, u64)]) -> Launch {
    let place = |(base, offset): &(Base, u64)| Place {
        base: *base,
        offset: *offset,
    };
    Launch {
        name: name.into(),
        kernel,
        operands: operands.iter().map(place).collect(),
    }
}

/// A layer that ends after `end` launches and gives one value.
fn layer(name: &str, end: u64, ty: Type, (base, offset): (Base, u64)) -> Layer {
    let place = Place { base, offset };
    Layer {
        name: name.into(),
        end,
        results: vec![LayerResult {
            output: 0,
            ty,
            place,
        }],
    }
}

/// The second of two weights, so that its offset counts.
const WEIGHT: (Base, u64) = (Base::Weights, 64);

/// `logits[l] = row(tokens of the sequence so far, position, token)`.
pub fn decoder() -> Manifest {
    use Base::{Input, Output, State};
    let plan = Plan {
        symbols: [feed::T, feed::L, feed::R].map(sym).into(),
        inputs: inputs(&[
            (feed::TOKENS, feed::T),
            (feed::POSITIONS, feed::T),
            (feed::ROWS, feed::T),
            (feed::LO, feed::T),
            (feed::HI, feed::T),
            (feed::SELECT, feed::L),
        ]),
        outputs: vec![port("logits", DType::F32, feed::L, WIDTH)],
        states: vec![port("cache", DType::F32, feed::R, 0)],
        arena: 0,
        launches: vec![
            launch("store", 0, &[(Input(0), 0), (Input(2), 0), (State(0), 0)]),
            launch(
                "sum",
                1,
                &[
                    (State(0), 0),
                    (Input(3), 0),
                    (Input(4), 0),
                    (Input(5), 0),
                    (Input(1), 0),
                    (Input(0), 0),
                    WEIGHT,
                    (Output(0), 0),
                ],
            ),
        ],
        layers: vec![layer(
            "all",
            2,
            port("", DType::F32, feed::L, WIDTH).ty,
            (Output(0), 0),
        )],
        work: vec![],
    };
    let kernels = vec![kernel(STORE, feed::T), kernel(SUM, feed::L)];
    manifest(Task::CausalLm, plan, kernels)
}

/// `last_hidden_state[t] = row(tokens of the sequence, position, token type)` and
/// `embedding[b] = row(tokens of the sequence, first row, last row + 1)`, by way of the arena.
pub fn encoder() -> Manifest {
    use Base::{Arena, Input, Output};
    let sum = |kernel, lo, hi, a, b, out| {
        let operands = [
            (Arena, 64),
            (Input(lo), 0),
            (Input(hi), 0),
            (Input(4), 0),
            (Input(a), 0),
            (Input(b), 0),
            WEIGHT,
            (Output(out), 0),
        ];
        launch("sum", kernel, &operands)
    };
    let plan = Plan {
        symbols: [feed::T, feed::B].map(sym).into(),
        inputs: inputs(&[
            (feed::TOKENS, feed::T),
            (feed::POSITIONS, feed::T),
            (feed::LO, feed::T),
            (feed::HI, feed::T),
            (feed::ROWS, feed::T),
            (feed::TOKEN_TYPES, feed::T),
            (feed::STARTS, feed::B),
            (feed::ENDS, feed::B),
        ]),
        outputs: vec![
            port("last_hidden_state", DType::F32, feed::T, WIDTH),
            port("embedding", DType::F32, feed::B, WIDTH),
        ],
        states: vec![],
        arena: 64 + 4 * u64::from(STEP),
        launches: vec![
            launch("store", 0, &[(Input(0), 0), (Input(4), 0), (Arena, 64)]),
            sum(1, 2, 3, 1, 5, 0),
            sum(2, 6, 7, 6, 7, 1),
        ],
        layers: vec![
            layer("store", 1, port("", DType::F32, feed::T, 0).ty, (Arena, 64)),
            layer(
                "tokens",
                2,
                port("", DType::F32, feed::T, WIDTH).ty,
                (Output(0), 0),
            ),
            layer(
                "sequences",
                3,
                port("", DType::F32, feed::B, WIDTH).ty,
                (Output(1), 0),
            ),
        ],
        work: vec![],
    };
    let kernels = vec![
        kernel(STORE, feed::T),
        kernel(SUM, feed::T),
        kernel(SUM, feed::B),
    ];
    manifest(Task::Embedding { normalize: false }, plan, kernels)
}

fn manifest(task: Task, plan: Plan, kernels: Vec<Variants>) -> Manifest {
    Manifest {
        compiler: "test".into(),
        images: vec![Image {
            target: Target {
                arch: "x86_64".into(),
                features: ["sse3".into()].into(),
            },
            toolkit: None,
            offset: 0,
            len: CODE.len() as u64,
            kernels,
        }],
        description: Description {
            architecture: "TinyModel".into(),
            task,
            vocabulary: VOCABULARY,
            token_types: 3,
            context: CONTEXT,
            layers: 1,
            hidden: 1,
            parameters: 1,
            positions: Positions::Index,
            eos: vec![EOS],
            generation: ir::Generation::default(),
            chat: None,
            image: None,
            source: [0; 32],
        },
        plan,
        report: vec![],
    }
}

/// The artifact of `manifest` with the kernels and weights above.
pub fn artifact(manifest: &Manifest) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(vec![])).unwrap();
    writer.weight(&[7; 5]).unwrap();
    assert_eq!(writer.weight(&SCALE.to_le_bytes()).unwrap(), WEIGHT.1);
    writer
        .finish(CODE, b"{\"tokenizer\": 1}", manifest)
        .unwrap()
        .into_inner()
}
