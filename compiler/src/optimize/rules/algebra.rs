//! Products of three factors: which two are multiplied first. No checkpoint asks for it; compressed weights do, whose thin
//! factors are not multiplied out.

use super::{Rule, rules};

pub fn rules() -> Vec<Rule> {
    rules! { "algebra";
        "product-of-three": "(matmul (matmul ?x ?u) ?v)" => "(matmul ?x (matmul ?u ?v))" if "weight ?u ?v, plain ?u ?v, thick ?u ?v, data ?x";
            "x: f32[T,2]; u: weight f32[2,8]; v: weight f32[8,4]"
        "low-rank-product": "(matmul ?x (matmul ?u ?v))" => "(matmul (matmul ?x ?u) ?v)" if "weight ?u ?v, data ?x";
            "x: f32[T,8]; u: weight f32[8,2]; v: weight f32[2,4]"
    }
}
