//! Sums, products and matrix products: scales and biases move into weights, weights meet weights. Weights that are said in
//! few bits (not `plain`) stay as they are: what is computed from them would no longer be stored in few bits.

use super::{Rule, rules};

pub fn rules() -> Vec<Rule> {
    rules! { "algebra";
        "scale-into-weight": "(mul (matmul ?x ?w) ?c)" => "(matmul ?x (mul ?w ?c))" if "weight ?w ?c, plain ?w, scalar ?c, data ?x";
            "x: f32[T,8]; w: weight f32[8,4]; c := (const 0.25 f32)"
        "scale-before-product": "(matmul (mul ?x ?c) ?w)" => "(matmul ?x (mul ?w ?c))" if "weight ?w ?c, plain ?w, scalar ?c, data ?x";
            "x: f32[T,8]; w: weight f32[8,4]; c := (const 0.25 f32)"
        "column-scale-into-weight": "(mul (matmul ?x ?w) ?g)" => "(matmul ?x (mul ?w ?g))" if "weight ?w ?g, plain ?w, vector ?g, data ?x";
            "x: f32[T,8]; w: weight f32[8,4]; g: weight f32[4]"
        "product-of-three": "(matmul (matmul ?x ?u) ?v)" => "(matmul ?x (matmul ?u ?v))" if "weight ?u ?v, plain ?u ?v, thick ?u ?v, data ?x";
            "x: f32[T,2]; u: weight f32[2,8]; v: weight f32[8,4]"
        "low-rank-product": "(matmul ?x (matmul ?u ?v))" => "(matmul (matmul ?x ?u) ?v)" if "weight ?u ?v, data ?x";
            "x: f32[T,8]; u: weight f32[8,2]; v: weight f32[2,4]"
        "bias-before-product": "(matmul (add ?x ?b) ?w)" => "(add (matmul ?x ?w) (matmul ?b ?w))" if "weight ?b ?w, vector ?b, data ?x";
            "x: f32[T,8]; b: weight f32[8]; w: weight f32[8,4]"
        "add-constants": "(add (add ?x ?a) ?b)" => "(add ?x (add ?a ?b))" if "weight ?a ?b, data ?x";
            "x: f32[T,8]; a: weight f32[8]; b: weight f32[8]"
        "mul-constants": "(mul (mul ?x ?a) ?b)" => "(mul ?x (mul ?a ?b))" if "weight ?a ?b, data ?x";
            "x: f32[T,8]; a: weight f32[8]; b: weight f32[8]"
        "add-zero": "(add ?x (const 0.0 ?t))" => "?x"; "x: f32[T,8]; t = f32"
        "mul-one": "(mul ?x (const 1.0 ?t))" => "?x"; "x: f32[T,8]; t = f32"
        "sub-zero": "(sub ?x (const 0.0 ?t))" => "?x"; "x: f32[T,8]; t = f32"
        "div-one": "(div ?x (const 1.0 ?t))" => "?x"; "x: f32[T,8]; t = f32"
    }
}
