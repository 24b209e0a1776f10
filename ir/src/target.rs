//! The machine that code is for: an architecture and the set of instruction-set features it may use. Compared as
//! sets, never as strings: code runs wherever its set is a subset of the machine's.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// What an artifact's code needs, or a machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// As in target triples, e.g. `x86_64`; [`Target::CUDA`] for NVIDIA's GPUs.
    pub arch: String,
    /// Names as in `std::is_x86_feature_detected!`; of a GPU the architectures whose cubins it runs.
    pub features: BTreeSet<String>,
}

/// Levels of the x86-64 psABI, each with what it adds to the one before.
const X86_64_LEVELS: &[(&str, &[&str])] = &[
    (
        "x86-64-v2",
        &["sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"],
    ),
    (
        "x86-64-v3",
        &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt"],
    ),
    (
        "x86-64-v4",
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ),
];

/// Architectures of GPUs that code is generated for, with the compute capability from which a GPU runs it: those of the
/// same major number, and with an `a` that one alone.
const SM: &[(&str, (i32, i32))] = &[("sm_80", (8, 0)), ("sm_90a", (9, 0))];

/// A target name that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown target {name:?}; known are native, {}", Target::names().collect::<Vec<_>>().join(", "))]
pub struct UnknownTarget {
    /// As given.
    pub name: String,
}

impl Target {
    /// [`Target::arch`] of GPUs.
    pub const CUDA: &str = "cuda";

    /// A GPU of a compute capability.
    pub fn gpu(major: i32, minor: i32) -> Target {
        let runs = |(name, (m, n)): &&(&str, (i32, i32))| {
            *m == major && (*n == minor || *n < minor && !name.ends_with('a'))
        };
        Target {
            arch: Target::CUDA.into(),
            features: SM
                .iter()
                .filter(runs)
                .map(|(name, _)| (*name).into())
                .collect(),
        }
    }

    /// Whether it is a GPU.
    pub fn is_gpu(&self) -> bool {
        self.arch == Target::CUDA
    }

    /// Names that [`FromStr`] understands.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let gpus = SM.iter().map(|(name, _)| *name);
        X86_64_LEVELS.iter().map(|(name, _)| *name).chain(gpus)
    }

    /// The highest named level whose features are all among `features`; `None` below the lowest.
    pub fn level(arch: &str, has: impl Fn(&str) -> bool) -> Option<Target> {
        let mut best = None;
        for (name, adds) in X86_64_LEVELS {
            if arch != "x86_64" || !adds.iter().all(|f| has(f)) {
                break;
            }
            best = name.parse().ok();
        }
        best
    }

    /// Whether code for this target may use the feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// Features that code for this target needs and `machine` lacks; the architecture counts as one.
    pub fn missing_on(&self, machine: &Target) -> Vec<String> {
        if self.arch != machine.arch {
            return vec![self.arch.clone()];
        }
        self.features
            .difference(&machine.features)
            .cloned()
            .collect()
    }

    /// Every feature that any named level speaks of.
    pub fn known_features() -> impl Iterator<Item = &'static str> {
        X86_64_LEVELS
            .iter()
            .flat_map(|(_, adds)| adds.iter().copied())
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;
    fn from_str(name: &str) -> Result<Target, UnknownTarget> {
        if SM.iter().any(|(n, _)| *n == name) {
            return Ok(Target {
                arch: Target::CUDA.into(),
                features: [name.to_string()].into(),
            });
        }
        let level = X86_64_LEVELS.iter().position(|(n, _)| *n == name);
        let level = level.ok_or_else(|| UnknownTarget { name: name.into() })?;
        let features = X86_64_LEVELS[..=level].iter().flat_map(|(_, adds)| *adds);
        Ok(Target {
            arch: "x86_64".into(),
            features: features.map(|f| f.to_string()).collect(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named: Vec<&str> = Target::names().collect();
        named.reverse();
        match named.into_iter().find(|n| n.parse().as_ref() == Ok(self)) {
            Some(name) => f.write_str(name),
            None => {
                let features: Vec<&str> = self.features.iter().map(String::as_str).collect();
                match features[..] {
                    [] => write!(f, "{} without features", self.arch),
                    _ => write!(f, "{} with {}", self.arch, features.join(", ")),
                }
            }
        }
    }
}
