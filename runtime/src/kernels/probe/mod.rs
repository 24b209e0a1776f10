//! Loops that do nothing but what the machine does best: read memory, multiply and add. What they reach is the
//! ceiling that measured kernels are held against. Knows no clock.

mod product;
mod read;

pub use product::Product;
pub use read::read;
