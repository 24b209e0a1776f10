//! Attention: scales, and the biases of keys and values. Biases of BERT's keys and values go, where no cache stands between;
//! scales stand in programs that write attention out.

use super::{Rule, rules};

const OF: &str = "q: f32[T,4,8]; k: f32[R,4,8]; v: f32[R,4,8]; lo: i32[T] in 0..R; hi: i32[T] in lo..R; s = 0.25";

pub fn rules() -> Vec<Rule> {
    let mut all = rules! { "attention";
        "scale-of-queries": "(attention (mul ?q (const ?c f32)) ?k ?v ?lo ?hi ?s ?cap)" => "(attention ?q ?k ?v ?lo ?hi ($times ?s ?c) ?cap)"; "c = 0.5; cap = 3.0"
        "scale-of-keys": "(attention ?q (mul ?k (const ?c f32)) ?v ?lo ?hi ?s ?cap)" => "(attention ?q ?k ?v ?lo ?hi ($times ?s ?c) ?cap)"; "c = 0.5; cap = 3.0"
        "value-bias-behind": "(attention ?q ?k (add ?v ?b) ?lo ?hi ?s ?cap)" => "(add (attention ?q ?k ?v ?lo ?hi ?s ?cap) ?b)" if "weight ?b, matrix ?b"; "b: weight f32[4,8]; cap = 3.0"
        "key-bias-dropped": "(attention ?q (add ?k ?b) ?v ?lo ?hi ?s 0.0)" => "(attention ?q ?k ?v ?lo ?hi ?s 0.0)" if "weight ?b, matrix ?b"; "b: weight f32[4,8]"
    };
    for rule in &mut all {
        rule.example = format!("{OF}; {}", rule.example);
    }
    all
}
