//! The words that satura's compiler and runtime share.
pub mod abi;
