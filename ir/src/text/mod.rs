//! The text form of graphs and programs: it reads back as the value it was printed from. Knows no particular op but
//! the f32 constant, which is written as a number. Refuses nothing that [`Graph::add`](crate::Graph::add) accepts, up
//! to the size limits in `parse`.
//!
//! ```text
//! sym T <= 512
//!
//! graph(x: f32[T,512], weight proj.weight: bf16[512,512]) {
//!   %0: f32[512,512] = cast(proj.weight) {to=f32}
//!   %1: f32[T,512] = linear(x, %0)
//!   %2: f32[T,512] = mul(%1, 0.5)
//!   return %2
//! }
//! ```
//!
//! Written by hand, types after `%n` may be left out, values may have names (`%gate`), arguments may be nested terms
//! (`silu(linear(x, w))`), and `;` starts a comment.

mod lex;
mod parse;
mod print;

pub use lex::ParseError;
pub(crate) use print::labels;

/// Whether a name stands in text without quotes.
fn is_bare(name: &str) -> bool {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(starts)
        && name.chars().all(is_name_char)
        && !["weight", "state", "inf", "NaN"].contains(&name)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./-".contains(c)
}

/// Whether `name` can be a symbol in a dim, where `-` means minus.
pub(crate) fn is_symbol(name: &str) -> bool {
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(starts) && name.chars().all(is_symbol_char)
}

fn is_symbol_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
