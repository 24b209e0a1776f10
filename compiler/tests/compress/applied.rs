//! Programs whose weights are said anew: they compute with what was decoded, and what is packed for kernels decodes to
//! exactly that.

use super::random;
use compiler::{
    Compilation, CompileError, Options,
    compress::{Encoded, Form, Matrix, Overlay, Site, apply, nearest, sites},
    fold::{Array, Fold},
    optimize,
};
use half::f16;
use indexmap::IndexMap;
use ir::{
    Call, DType, Description, Element, Graph, Name, Operand, Positions, Program, Role, Task,
    Tensor, Type,
    abi::{Codec, PANEL, STRIP},
    feed, ops,
};

const K: usize = 64;
const N: usize = 96;
const CALLS: usize = 3;

/// Calls of one block: `x + down(relu(up(x)))`, and `twice`, a second product with the transposed up.
fn program() -> Program {
    let mut g = Graph::new();
    let t = ir::Sym::new(feed::T, 8);
    let x = g.input(
        "x",
        Role::Data,
        Type::new(DType::F32, [(&t).into(), ir::Dim::from(K)]),
    );
    let up = g.input("up", Role::Weight, Type::new(DType::F32, [N, K]));
    let down = g.input("down", Role::Weight, Type::new(DType::F32, [N, K]));
    let h = g.add(ops::Linear, &[x, up]).unwrap();
    let h = g.add(ops::Relu, &[h]).unwrap();
    let perm = vec![1.into(), 0.into()];
    let turned = g.add(ops::Transpose { perm }, &[down]).unwrap();
    let y = g.add(ops::Linear, &[h, turned]).unwrap();
    let y = g.add(ops::Add, &[x, y]).unwrap();
    g.outputs = vec![y];
    let mut p = Program::default();
    p.inputs.insert("x".into(), g.ty(x).clone());
    let block = p.graph("block", g.clone());
    for c in 0..CALLS {
        let mut args = vec![match c {
            0 => Operand::Input("x".into()),
            _ => Operand::Result {
                call: c - 1,
                output: 0,
            },
        }];
        for (name, v) in [("up", up), ("down", down)] {
            let name: Name = format!("layers.{c}.{name}").into();
            p.weights.insert(name.clone(), g.ty(v).clone());
            args.push(Operand::Weight(name));
        }
        p.calls.push(Call {
            graph: block.clone(),
            args,
            updates: vec![],
        });
    }
    p.outputs.insert(
        "y".into(),
        Operand::Result {
            call: CALLS - 1,
            output: 0,
        },
    );
    p
}

fn weight(name: &str) -> Matrix {
    let seed = name.bytes().map(u64::from).sum();
    let mut w = random(N, K, seed);
    w.data.iter_mut().for_each(|x| *x *= 0.2);
    w
}

fn array(m: &Matrix) -> Array<'static> {
    let bytes: Vec<u8> = m.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    Array::new(DType::F32, &[m.rows, m.columns], bytes)
}

fn tensor(m: &Matrix) -> Tensor {
    let data = m.data.iter().map(|x| f64::from(*x)).collect();
    Tensor::new([m.rows, m.columns], data)
}

/// The output for one input, with weights from `given`.
fn run(p: &Program, given: &dyn Fn(&str) -> Tensor) -> Tensor {
    let x = tensor(&random(5, K, 99));
    let find = |operand: &Operand| match operand {
        Operand::Input(_) => Some(x.clone()),
        Operand::Weight(name) => Some(given(name)),
        _ => None,
    };
    let out = p.eval(&find, &mut IndexMap::new(), &|_| 5).unwrap();
    out.into_values().next().unwrap()
}

fn overlaid(overlay: &Overlay, name: &str) -> Tensor {
    let chosen = overlay.get(name).map(|array| array.to_tensor());
    chosen.unwrap_or_else(|| tensor(&weight(name)))
}

/// Codes and scales that rounding would not choose.
fn odd(m: &Matrix, element: Element) -> Encoded {
    let mut grouped = nearest::round(m, element, 32);
    for (i, scale) in grouped.scales.iter_mut().enumerate() {
        *scale = f16::from_f32(0.001 + 0.0003 * (i % 7) as f32);
    }
    let (least, most) = element.codes();
    let all: Vec<i32> = (least..=most).filter(|c| element.says(*c)).collect();
    for (i, code) in grouped.codes.iter_mut().enumerate() {
        *code = all[i * 7919 % all.len()] as i16;
    }
    for (i, zero) in grouped.zeros.iter_mut().enumerate() {
        if element.zero() {
            *zero = all[i * 31 % all.len()] as i8;
        }
    }
    Encoded::Grouped(grouped)
}

/// Every way to say a matrix `[n, k]` that `apply` knows.
fn said(m: &Matrix) -> Vec<Encoded> {
    let float = |dtype| Encoded::float(dtype, m);
    let product = || {
        let (l, r) = (random(m.rows, 32, 8), random(32, m.columns, 9));
        let r = nearest::encode(&r, &Form::integers(8, 32)).unwrap();
        Encoded::Product(Box::new(Encoded::float(DType::F16, &l)), Box::new(r))
    };
    let scale = (0..m.columns)
        .map(|i| 2f32.powi(i as i32 % 3 - 1))
        .collect();
    let mut all = vec![
        float(DType::BF16),
        float(DType::F16),
        product(),
        Encoded::Sum(Box::new(odd(m, Element::Q4)), Box::new(product())),
        Encoded::Scaled {
            power: 50,
            scale,
            weight: Box::new(odd(m, Element::Q4)),
        },
    ];
    let rotated = nearest::round(m, Element::Q4, 32);
    for inner in [odd(m, Element::U4), Encoded::Grouped(rotated)] {
        all.push(Encoded::Rotated {
            block: 32,
            weight: Box::new(inner),
        });
    }
    all.extend(Element::ALL.map(|element| odd(m, element)));
    all
}

fn matrix(p: &Program, site: &Site) -> Matrix {
    let input = |i: usize| match &p.calls[site.call].args[i] {
        Operand::Weight(name) => array(&weight(name)),
        _ => Array::new(DType::F32, &[0], &[][..]),
    };
    site.matrix(p, &input).unwrap()
}

#[test]
fn sites_are_the_products_with_weights() {
    let p = program();
    let found = sites(&p);
    assert_eq!(found.len(), 2 * CALLS);
    let shapes: Vec<[usize; 2]> = found.iter().map(|s| s.shape).collect();
    assert_eq!(shapes[..2], [[N, K], [K, N]]);
    assert_eq!(found[3].names, ["layers.1.down".into()]);
    let (down, up) = (matrix(&p, &found[3]), matrix(&p, &found[2]));
    assert_eq!(up, weight("layers.1.up"));
    assert_eq!(down.row(7)[11], weight("layers.1.down").row(11)[7]);
}

#[test]
fn a_program_said_anew_computes_with_what_decodes() {
    let p = program();
    let all = sites(&p);
    for which in 0..said(&weight("x")).len() {
        for site in [&all[2], &all[3]] {
            let stored = matrix(&p, site);
            let encoded = said(&stored).swap_remove(which);
            let form = encoded.form();
            let decoded = encoded.decode(&stored);
            let (new, overlay) = apply(&p, &[(site.clone(), encoded)]).unwrap();
            assert_eq!(new.verify(), [], "{form}");
            let got = run(&new, &|name| overlaid(&overlay, name));
            let wanted = run(&p, &|name| match *site.names[0] == *name {
                false => tensor(&weight(name)),
                true if site.shape == [N, K] => tensor(&decoded),
                true => {
                    let at = |i: usize, j: usize| decoded.row(j)[i];
                    tensor(&Matrix::from_fn(N, K, at))
                }
            });
            let most = got.max_abs_diff(&wanted);
            let size = wanted
                .data
                .iter()
                .fold(0.0, |size: f64, x| size.max(x.abs()));
            assert!(most < 1e-5 * size, "{form} of {:?}: {most}", site.names);
        }
    }
}

#[test]
fn calls_share_a_graph_where_they_chose_alike() {
    let p = program();
    let all = sites(&p);
    let choose = |site: &Site, bits: u8| {
        let m = matrix(&p, site);
        let said = nearest::encode(&m, &Form::integers(bits, 32)).unwrap();
        (site.clone(), said)
    };
    let (new, overlay) = apply(&p, &[choose(&all[0], 4), choose(&all[4], 4)]).unwrap();
    assert_eq!(new.graphs.len(), 2);
    assert_eq!(new.calls[0].graph, new.calls[2].graph);
    assert_ne!(new.calls[0].graph, new.calls[1].graph);
    assert_eq!(new.calls[1], p.calls[1]);
    let names: Vec<&str> = overlay.types().map(|(name, _)| &**name).collect();
    assert_eq!(
        names,
        [
            "layers.0.up.codes",
            "layers.0.up.scales",
            "layers.2.up.codes",
            "layers.2.up.scales"
        ]
    );
    assert_eq!(new.calls[2].layer().as_deref(), Some("layers.2"));
    let every: Vec<_> = all.iter().map(|site| choose(site, 8)).collect();
    let (new, _) = apply(&p, &every).unwrap();
    assert_eq!(new.graphs.len(), 1);
    let (same, overlay) = apply(&p, &[(all[0].clone(), Encoded::Stored)]).unwrap();
    assert_eq!((same == p, overlay.bytes()), (true, 0));
}

/// The element of a packed `[K, N]` weight, as the ABI's text says, by nobody's packing code.
fn unpack(bytes: &[u8], codec: Codec, k: usize, row: usize, column: usize) -> f32 {
    let Codec::Grouped { element, group } = codec else {
        panic!("grouped weights only");
    };
    let (bits, group, panel) = (element.width(), group as usize, column / PANEL);
    let zeros = if element.zero() { STRIP * PANEL } else { 0 };
    let strip = &bytes[panel / STRIP * (STRIP * codec.panel(k))..];
    let size = STRIP * PANEL * 2 + zeros + STRIP * PANEL * group * bits / 8;
    let of_group = &strip[row / group * size..];
    let (p, j, i) = (panel % STRIP, column % PANEL, row % group);
    let at = (p * PANEL + j) * 2;
    let scale = f16::from_le_bytes([of_group[at], of_group[at + 1]]).to_f32();
    let zero = match zeros {
        0 => 0,
        _ => i32::from(of_group[STRIP * PANEL * 2 + p * PANEL + j]) - (1 << (bits - 1)),
    };
    let codes = &of_group[STRIP * PANEL * 2 + zeros..];
    // A byte of the line, of so many of a block of 32 rows.
    let byte = |line: usize| {
        let line = i / 32 * bits + line;
        i32::from(codes[(line * STRIP + p) * 64 + 4 * j + i % 4])
    };
    let i = i % 32;
    let code = match bits {
        16 => byte(i / 4) + 256 * byte(8 + i / 4) - 32768,
        8 => byte(i / 4),
        4 => (byte(i / 8) >> (4 * (i / 4 % 2)) & 15) - 8,
        3 => (byte(i / 16) >> (2 * (i / 4 % 4)) & 3) + 4 * (byte(2) >> (i / 4) & 1) - 4,
        other => panic!("no layout for {other} bits"),
    };
    let code = match element {
        Element::E4M3 => i32::from(code as u8 as i8),
        _ if bits == 8 => code - (1 << (element.bits() - 1)),
        _ => code,
    };
    element.number(code, zero) * scale
}

fn compile(program: Program) -> Compilation {
    let description = Description {
        architecture: "Test".into(),
        task: Task::MaskedLm,
        vocabulary: 1,
        token_types: 0,
        context: 64,
        layers: CALLS,
        hidden: K,
        parameters: 0,
        positions: Positions::Index,
        eos: vec![],
        generation: ir::Generation::default(),
        chat: None,
        image: None,
        source: [0; 32],
    };
    let options = Options::new("x86-64-v3".parse().unwrap());
    let sizes = optimize::Options::at([(feed::T, 1)]);
    Compilation::of(program, description, &sizes, &options, &|_, _, _| {}).unwrap()
}

#[test]
fn what_is_packed_decodes_to_what_was_chosen() {
    let p = program();
    let all = sites(&p);
    for element in Element::ALL {
        let mut choices = vec![];
        for site in &all {
            choices.push((site.clone(), odd(&matrix(&p, site), element)));
        }
        let (new, overlay) = apply(&p, &choices).unwrap();
        let compilation = compile(new);
        let program = &compilation.optimized;
        let mut seen = 0;
        for (c, call) in program.calls.iter().enumerate() {
            let terms = &compilation.schedules[&call.graph].weights;
            let fold = Fold::new(&program.graphs[&call.graph], terms).unwrap();
            for (i, term) in terms.iter().enumerate() {
                let Codec::Grouped { .. } = term.codec else {
                    continue;
                };
                let input = |a: usize| match &call.args[a] {
                    Operand::Weight(name) => {
                        overlay.get(name).unwrap_or_else(|| array(&weight(name)))
                    }
                    _ => Array::new(DType::F32, &[0], &[][..]),
                };
                let bytes = fold.term(i, &input).unwrap();
                let shape: Vec<usize> = program.graphs[&call.graph]
                    .ty(term.value)
                    .shape
                    .iter()
                    .map(|d| d.size().unwrap())
                    .collect();
                // The site of this call whose weight has that shape, transposed.
                let wanted = choices
                    .iter()
                    .find(|(s, _)| s.call == c && s.shape == [shape[1], shape[0]])
                    .map(|(_, e)| e.decode(&Matrix::zeros(0, 0)))
                    .unwrap();
                for row in 0..shape[0] {
                    for column in 0..shape[1] {
                        let got = unpack(&bytes, term.codec, shape[0], row, column);
                        assert_eq!(got, wanted.row(column)[row], "call {c}, {row}, {column}");
                    }
                }
                seen += 1;
            }
        }
        assert_eq!(seen, all.len(), "every weight is stored as {element}");
    }
}

#[test]
fn codes_that_their_bits_cannot_say_are_refused() {
    let p = program();
    let site = sites(&p).swap_remove(0);
    let Encoded::Grouped(mut integers) = odd(&matrix(&p, &site), Element::Q4) else {
        panic!("odd codes are grouped");
    };
    integers.codes[5] = 8;
    let (new, overlay) = apply(&p, &[(site, Encoded::Grouped(integers))]).unwrap();
    let compilation = compile(new);
    let given = |name: &Name| Ok(overlay.get(name).unwrap_or_else(|| array(&weight(name))));
    let out = std::io::Cursor::new(vec![]);
    let refused = compilation.write(&given, &[], out, &|_, _, _| {});
    let refused = match refused {
        Err(error @ CompileError::Fold { .. }) => error.to_string(),
        _ => panic!("a code of 8 in 4 bits was written"),
    };
    assert!(refused.contains("q4 does not say code 8"), "{refused}");
}
