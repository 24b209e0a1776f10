//! Rows taken from tables: what is done to each row is done to the wanted rows alone.

use super::{Rule, fusion::samples, rules};
use ir::Class;

pub fn rules() -> Vec<Rule> {
    let mut all = rules! { "embedding";
        "rows-of-product": "(gather (matmul ?x ?w) ?i)" => "(matmul (gather ?x ?i) ?w)" if "weight ?w, data ?x, closed ?x ?i";
            "x: f32[T,8]; w: weight f32[8,4]; i: i32[L] in 0..T"
        "rows-of-rows": "(gather (gather ?x ?i) ?j)" => "(gather ?x (gather ?i ?j))" if "closed ?x ?i ?j";
            "x: f32[T,8]; i: i32[T] in 0..T; j: i32[L] in 0..T"
        "rows-of-reshaped": "(gather (reshape ?x ?s) ?i)" => "(reshape (gather ?x ?i) ($lead ?i ?s))" if "closed ?x ?i";
            "x: f32[T,8]; s = [T,2,4]; i: i32[L] in 0..T"
        "rows-of-rounded": "(gather (fake_quantize ?x ?b ?g ?s) ?i)" => "(fake_quantize (gather ?x ?i) ?b ?g ?s)" if "data ?x, closed ?x ?i";
            "x: f32[T,64]; b = q8; g = 32; s = f32; i: i32[L] in 0..T"
    };
    let template = all[0].clone();
    for sample in samples() {
        let name = sample.kind.name();
        let mut push = |form: &str, args: [&str; 2], guard: &str, given: &str| {
            let n = sample.args.len();
            let term = |args: &[&str]| format!("({name} {}{})", args.join(" "), sample.attrs);
            let right: Vec<String> = args
                .iter()
                .map(|a| match a.strip_prefix('!') {
                    Some(whole) => whole.to_string(),
                    None => format!("(gather {a} ?i)"),
                })
                .take(n)
                .collect();
            let right: Vec<&str> = right.iter().map(String::as_str).collect();
            let left: Vec<&str> = args
                .iter()
                .map(|a| a.trim_start_matches('!'))
                .take(n)
                .collect();
            all.push(Rule {
                name: format!("rows-of-{name}{form}"),
                lhs: format!("(gather {} ?i)", term(&left)),
                rhs: term(&right),
                guard: format!("closed ?i {}, {guard}", left.join(" ")),
                example: format!("i: i32[L] in 0..T; {given}{}", sample.values),
                ..template.clone()
            });
        };
        match sample.args.len() {
            1 => push("", ["?x", ""], "data ?x", "x: f32[T,8]"),
            2 if sample.kind.class() == Class::Elementwise => {
                push(
                    "",
                    ["?x", "?y"],
                    "rows ?x ?y, data ?x ?y",
                    "x: f32[T,8]; y: f32[T,8]",
                );
                push(
                    "-constant",
                    ["?x", "!?y"],
                    "data ?x, weight ?y, vector ?y",
                    "x: f32[T,8]; y: weight f32[8]",
                );
                push(
                    "-by-constant",
                    ["!?x", "?y"],
                    "data ?y, weight ?x, vector ?x",
                    "y: f32[T,8]; x: weight f32[8]",
                );
            }
            _ => {}
        }
    }
    all
}
