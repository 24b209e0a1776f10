//! Program to artifact: checkpoints, model families, equality saturation, scheduling, code generation.

pub mod backends;
pub mod checkpoint;
pub mod models;
pub mod optimize;
pub mod schedule;
