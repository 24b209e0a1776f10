//! Rotations (Hadamard matrices in blocks of the last axis) on their way to weights, where they cost nothing: through attention,
//! which is linear in its values, and reshapes that cut no block, into the product that gave the values (QuaRot, Ashkboos et
//! al. 2024, arXiv 2404.00456). They stand in front of products whose weights a method rotated; what is said in few bits stays.
//!
//! Values that a cache keeps are not rotated: it would hold other numbers.

use super::{Rule, rules};

pub fn rules() -> Vec<Rule> {
    rules! { "rotation";
        "rotation-into-weight": "(hadamard (matmul ?x ?w) ?b)" => "(matmul ?x (hadamard ?w ?b))" if "weight ?w, plain ?w, data ?x";
            "x: f32[T,3]; w: weight f32[3,8]; b = 4"
        "rotation-of-biased": "(hadamard (add ?x ?v) ?b)" => "(add (hadamard ?x ?b) (hadamard ?v ?b))" if "weight ?v, data ?x";
            "x: f32[T,8]; v: weight f32[8]; b = 4"
        "rotation-of-reshaped": "(hadamard (reshape ?x ?s) ?b)" => "(reshape (hadamard ?x ?b) ?s)" if "data ?x, closed ?x";
            "x: f32[T,16]; s = [T,2,8]; b = 4"
        "rotation-of-values": "(hadamard (attention ?q ?k ?v ?lo ?hi ?s ?c) ?b)" => "(attention ?q ?k (hadamard ?v ?b) ?lo ?hi ?s ?c)" if "rows ?q ?v, closed ?q ?k ?v";
            "q: f32[T,4,8]; k: f32[T,2,8]; v: f32[T,2,8]; lo: i32[T] in 0..T; hi: i32[T] in lo..T; s = 0.25; c = 0.0; b = 4"
    }
}
