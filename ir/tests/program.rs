//! Programs: what their calls are called, and what they compute, whole and one call at a time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use indexmap::IndexMap;
use ir::{Call, Operand, Program, Tensor};

#[test]
fn layers_are_called_by_the_number_that_their_weights_share() {
    let check = |weights: &[&str], expected: Option<&str>| {
        let mut args: Vec<Operand> = weights
            .iter()
            .map(|w| Operand::Weight((*w).into()))
            .collect();
        args.insert(0, Operand::Result { call: 0, output: 0 });
        args.push(Operand::State("model.layers.9.k_cache".into()));
        let call = Call {
            graph: "g".into(),
            args,
            updates: vec![],
        };
        assert_eq!(call.layer().as_deref(), expected, "{weights:?}");
    };
    check(&[], None);
    check(&["model.embed_tokens.weight"], None);
    check(&["model.norm.weight", "lm_head.weight"], None);
    check(
        &[
            "model.layers.3.mlp.up_proj.weight",
            "model.layers.3.mlp.down_proj.weight",
        ],
        Some("model.layers.3"),
    );
    check(&["layers.3.a", "layers.4.a"], None);
    check(&["h.11.ln_1.weight", "h.11.ln_2.weight"], Some("h.11"));
    // A layer of experts: numbers within a layer are not the layer's.
    check(
        &["layers.3.experts.0.w", "layers.3.experts.1.w"],
        Some("layers.3"),
    );
}

const PROGRAM: &str = "input x: f32[2]
    weight w: f32[2]
    constant c: f32[2] = [10.0, 20.0]
    state s: f32[2]
    graph scale(x: f32[2], weight w: f32[2]) { return mul(x, w) }
    graph count(x: f32[2], weight c: f32[2], state s: f32[2]) { return add(x, c), add(s, x) }
    call scale(x, @w)
    call count(#0.0, !c, $s) updates 1 -> s
    call scale(#1.0, @w)
    output y = #2.0";

fn tensor(data: [f64; 2]) -> Tensor {
    Tensor::new([2], data.to_vec())
}

/// `x` is `[1, 2]`, `w` is `[3, 4]`.
fn given(operand: &Operand) -> Option<Tensor> {
    match operand {
        Operand::Input(_) => Some(tensor([1.0, 2.0])),
        Operand::Weight(_) => Some(tensor([3.0, 4.0])),
        _ => None,
    }
}

#[test]
fn a_program_is_its_calls_one_after_another() {
    let program: Program = PROGRAM.parse().unwrap();
    assert_eq!(program.verify(), []);
    let mut states = IndexMap::from([("s".into(), tensor([0.0, 0.0]))]);
    for step in 1..3 {
        let outputs = program.eval(&given, &mut states, &|_| 0).unwrap();
        assert_eq!(outputs["y"], tensor([39.0, 112.0]));
        let step = f64::from(step);
        assert_eq!(states["s"], tensor([3.0 * step, 8.0 * step]));
    }
    let missing = program.eval(&|_| None, &mut states, &|_| 0).unwrap_err();
    assert_eq!(missing.to_string(), "call 0: no value for x");
}

#[test]
fn a_call_alone_takes_what_it_is_given() {
    let program: Program = PROGRAM.parse().unwrap();
    let with = |operand: &Operand| match operand {
        Operand::Result { .. } => Some(tensor([100.0, 200.0])),
        Operand::State(_) => Some(tensor([1.0, 1.0])),
        operand => given(operand),
    };
    let outputs = program.eval_call(1, &with, &|_| 0).unwrap();
    assert_eq!(outputs, [tensor([110.0, 220.0]), tensor([101.0, 201.0])]);
    let missing = program.eval_call(2, &given, &|_| 0).unwrap_err();
    assert_eq!(missing.to_string(), "call 2: no value for #1.0");
}
