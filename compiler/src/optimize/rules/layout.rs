//! Transposes, reshapes, slices and casts: what cancels, and what may change places.
//!
//! `slice-slice` and `reshape-of-scaled` fire in no model that is here: merged products are cut once, and constants stand behind
//! reshapes. Without them a program that says the same in another order would get a kernel more for it.

use super::{Rule, rules};

pub fn rules() -> Vec<Rule> {
    rules! { "layout";
        "transpose-transpose": "(transpose (transpose ?x ?p) ?q)" => "(transpose ?x ($compose ?p ?q))";
            "x: f32[T,2,8]; p = [1,2,0]; q = [1,0,2]"
        "transpose-nothing": "(transpose ?x ?p)" => "?x" if "identity ?p"; "x: f32[T,8]; p = [0,1]"
        "reshape-reshape": "(reshape (reshape ?x ?a) ?b)" => "(reshape ?x ?b)"; "x: f32[T,8]; a = [T,2,4]; b = [T,4,2]"
        "reshape-nothing": "(reshape ?x ?a)" => "?x"; "x: f32[T,8]; a = [T,8]"
        "slice-slice": "(slice (slice ?x ?a ?i ?j) ?a ?k ?l)" => "(slice ?x ?a ($plus ?i ?k) ($plus ?i ?l))";
            "x: f32[T,8]; a = 1; i = 1; j = 7; k = 2; l = 5"
        "reshape-of-cast": "(reshape (cast ?x ?t) ?s)" => "(cast (reshape ?x ?s) ?t)" if "data ?x"; "x: i32[T] in 0..9; t = f32; s = [T,1,1]"
        "cast-of-slice": "(cast (slice ?x ?a ?i ?j) ?t)" => "(slice (cast ?x ?t) ?a ?i ?j)" if "data ?x";
            "x: f32[T,8]; a = 1; i = 1; j = 7; t = bf16"
        "reshape-of-biased": "(reshape (add ?x ?b) ?s)" => "(add (reshape ?x ?s) (reshape ?b ($tail ?b ?s)))" if "weight ?b, vector ?b, data ?x";
            "x: f32[T,8]; b: weight f32[8]; s = [T,2,4]"
        "reshape-of-scaled": "(reshape (mul ?x ?c) ?s)" => "(mul (reshape ?x ?s) ?c)" if "weight ?c, scalar ?c, data ?x";
            "x: f32[T,8]; c := (const 0.25 f32); s = [T,2,4]"
        "flatten-of-biased": "(reshape (add ?x ?b) ?s)" => "(add (reshape ?x ?s) (reshape ?b ($flat ?b)))" if "weight ?b, matrix ?b, data ?x";
            "x: f32[T,2,4]; b: weight f32[2,4]; s = [T,8]"
    }
}
