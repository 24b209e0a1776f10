//! Program to artifact: checkpoints, model families, equality saturation, scheduling, code generation.

pub mod checkpoint;
pub mod models;
pub mod schedule;
