//! Normalisations: gains move into the next product.

use super::{Rule, rules};

pub fn rules() -> Vec<Rule> {
    rules! { "norm";
        "gain-into-weight": "(matmul (mul ?x ?g) ?w)" => "(matmul ?x (mul ?w (reshape ?g ($column ?g))))" if "weight ?g ?w, plain ?w, vector ?g, data ?x";
            "x: f32[T,8]; g: weight f32[8]; w: weight f32[8,4]"
        "norm-of-shifted": "(layer_norm (add ?x ?c) ?eps)" => "(layer_norm ?x ?eps)" if "weight ?c, scalar ?c";
            "x: f32[T,8]; c := (const 0.5 f32); eps = 0.1"
    }
}
