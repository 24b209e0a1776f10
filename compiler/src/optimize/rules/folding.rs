//! What is done with weights alone is done once, at compile time: scales, gains and biases move into the next weight or
//! table, and weights meet weights. Models as their checkpoints have them gain next to nothing (docs/performance.md): a
//! gain folded into bf16 makes it f32. Weights of methods that scale their inputs do: the scale goes back into a gain, or
//! through a gate into the columns of the product before (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438). Weights that
//! are said in few bits (not `plain`) stay as they are: what is computed from them would no longer be stored in few bits.
//!
//! `scale-before-product` and `constant-into-table` fire in no model that is here: they are the other halves of
//! `scale-into-weight` and `scale-into-table`, so that it makes no difference on which side of a product a model has a
//! constant, nor which constant it is. `column-scale-into-weight` fires where a method has scaled what a product takes.

use super::{FOLDING, Rule, rules};

pub fn rules() -> Vec<Rule> {
    rules! { FOLDING;
        "scale-into-weight": "(mul (matmul ?x ?w) ?c)" => "(matmul ?x (mul ?w ?c))" if "weight ?w ?c, plain ?w, scalar ?c, data ?x";
            "x: f32[T,8]; w: weight f32[8,4]; c := (const 0.25 f32)"
        "scale-before-product": "(matmul (mul ?x ?c) ?w)" => "(matmul ?x (mul ?w ?c))" if "weight ?w ?c, plain ?w, scalar ?c, data ?x";
            "x: f32[T,8]; w: weight f32[8,4]; c := (const 0.25 f32)"
        "column-scale-into-weight": "(mul (matmul ?x ?w) ?g)" => "(matmul ?x (mul ?w ?g))" if "weight ?w ?g, plain ?w, vector ?g, data ?x";
            "x: f32[T,8]; w: weight f32[8,4]; g: weight f32[4]"
        "scale-before-swiglu": "(mul (swiglu ?x ?y) ?g)" => "(swiglu ?x (mul ?y ?g))" if "weight ?g, vector ?g, data ?y, closed ?x ?y";
            "x: f32[T,8]; y: f32[T,8]; g: weight f32[8]"
        "bias-before-product": "(matmul (add ?x ?b) ?w)" => "(add (matmul ?x ?w) (matmul ?b ?w))" if "weight ?b ?w, vector ?b, data ?x";
            "x: f32[T,8]; b: weight f32[8]; w: weight f32[8,4]"
        "add-constants": "(add (add ?x ?a) ?b)" => "(add ?x (add ?a ?b))" if "weight ?a ?b, data ?x";
            "x: f32[T,8]; a: weight f32[8]; b: weight f32[8]"
        "mul-constants": "(mul (mul ?x ?a) ?b)" => "(mul ?x (mul ?a ?b))" if "weight ?a ?b, data ?x";
            "x: f32[T,8]; a: weight f32[8]; b: weight f32[8]"
        "gain-into-weight": "(matmul (mul ?x ?g) ?w)" => "(matmul ?x (mul ?w (reshape ?g ($column ?g))))" if "weight ?g ?w, plain ?w, vector ?g, data ?x";
            "x: f32[T,8]; g: weight f32[8]; w: weight f32[8,4]"
        "constant-into-table": "(add (gather ?t ?i) ?b)" => "(gather (add ?t ?b) ?i)" if "weight ?t ?b, vector ?b, closed ?i";
            "t: weight f32[8,4]; i: i32[T] in 0..8; b: weight f32[4]"
        "scale-into-table": "(mul (gather ?t ?i) ?c)" => "(gather (mul ?t ?c) ?i)" if "weight ?t ?c, scalar ?c, closed ?i";
            "t: weight f32[8,4]; i: i32[T] in 0..8; c := (const 2.0 f32)"
    }
}
