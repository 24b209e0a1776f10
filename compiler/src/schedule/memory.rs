//! The memory plan: one arena, offsets by decreasing size, first fit among values alive at the same time
//! (greedy-by-size, arXiv 2001.03288). Clever, therefore checked by `check`, which shares no code with it.

/// A value's size and the launches during which it is needed, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Bytes.
    pub size: u64,
    /// The launch that writes it.
    pub first: usize,
    /// The last launch that reads it, or `first`.
    pub last: usize,
}

/// Alignment of every value, in bytes.
pub const ALIGNMENT: u64 = 64;

/// An offset for each value, and the bytes of the arena.
pub fn place(values: &[Lifetime]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(values[*i].size), *i));
    let mut offsets = vec![0; values.len()];
    let mut placed: Vec<usize> = vec![];
    let mut arena = 0;
    for i in order {
        let v = &values[i];
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|j| values[**j].first <= v.last && v.first <= values[**j].last)
            .map(|j| (offsets[*j], offsets[*j] + values[*j].size))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + v.size <= start {
                break;
            }
            at = at.max(end.next_multiple_of(ALIGNMENT));
        }
        offsets[i] = at;
        arena = arena.max(at + v.size);
        placed.push(i);
    }
    (offsets, arena.next_multiple_of(ALIGNMENT))
}
