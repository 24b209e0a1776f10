//! Skeleton.
pub mod kernels;
pub mod pool;
