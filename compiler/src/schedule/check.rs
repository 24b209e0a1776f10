//! An independent checker of the memory plan: replays the launches over a map of who owns which bytes. A value read
//! must still own all of its bytes. Shares no code with the planner.

use ir::artifact::Base;
use std::collections::BTreeMap;

/// A value, identified by who wrote it, and the bytes it occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The value's identity, unique in the program.
    pub value: usize,
    /// In which memory.
    pub base: Base,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// What one launch reads and writes.
#[derive(Clone, Debug, Default)]
pub struct Accesses {
    /// For the message.
    pub launch: String,
    /// Values read.
    pub reads: Vec<Access>,
    /// Values written; a value that replaces another in place overwrites all of it.
    pub writes: Vec<Access>,
}

/// A launch that would read what is not there, or a write out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{launch}: value {value} at {offset}..{} of {base:?}: {why}", offset + size)]
pub struct Conflict {
    /// The launch.
    pub launch: String,
    /// The value it wanted.
    pub value: usize,
    /// Where it should be.
    pub base: Base,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// What is there instead.
    pub why: String,
}

/// Replays the launches.
///
/// # Errors
/// Every conflict found.
pub fn check(launches: &[Accesses], arena: u64) -> Result<(), Vec<Conflict>> {
    // Start of an owned range -> (end, owner); ranges never overlap.
    let mut owners: BTreeMap<(Base, u64), (u64, usize)> = BTreeMap::new();
    let mut conflicts = vec![];
    for l in launches {
        let mut conflict = |a: &Access, why: String| {
            conflicts.push(Conflict {
                launch: l.launch.clone(),
                value: a.value,
                base: a.base,
                offset: a.offset,
                size: a.size,
                why,
            });
        };
        for a in &l.reads {
            match owners.get(&(a.base, a.offset)) {
                Some((end, owner)) if *owner == a.value && *end == a.offset + a.size => {}
                Some((_, owner)) if *owner != a.value => {
                    conflict(a, format!("value {owner} is there"));
                }
                Some((end, _)) => conflict(a, format!("its bytes end at {end}")),
                None => conflict(a, "nothing starts there".into()),
            }
        }
        for (i, a) in l.writes.iter().enumerate() {
            if a.base == Base::Arena && a.offset + a.size > arena {
                conflict(a, format!("the arena has {arena} bytes"));
            }
            let overlaps = |o: &Access| {
                o.base == a.base && o.offset < a.offset + a.size && a.offset < o.offset + o.size
            };
            // In-place updates read and write the same state; anything else must not overlap within a launch.
            let in_place = matches!(a.base, Base::State(_));
            if l.writes[..i].iter().any(overlaps) || (!in_place && l.reads.iter().any(overlaps)) {
                conflict(a, "overlaps another operand of the launch".into());
            }
            let end = a.offset + a.size;
            let evicted: Vec<_> = owners
                .range((a.base, 0)..(a.base, end))
                .filter(|((_, start), (stop, _))| *start < end && a.offset < *stop)
                .map(|(k, _)| *k)
                .collect();
            for k in evicted {
                owners.remove(&k);
            }
            if a.size > 0 {
                owners.insert((a.base, a.offset), (end, a.value));
            }
        }
    }
    if conflicts.is_empty() {
        Ok(())
    } else {
        Err(conflicts)
    }
}
