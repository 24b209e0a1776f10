//! Sum over the last axis, kept as size 1.
use super::*;
op! {
    /// Sum over the last axis, kept as size 1.
    Sum = "sum"
}
reduction! { Sum(row) = row.iter().sum() }
