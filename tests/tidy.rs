//! The house's invariants that can be read off its files: who depends on whom, where `unsafe` and files are touched, how
//! long a file may be. Knows nothing of what the code does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Crates that some members alone may depend on; a name that ends in `-` stands for all that begin with it.
const DEPENDENCIES: &[(&str, &[&str])] = &[
    ("ir", &["compiler", "runtime", "."]),
    ("compiler", &["."]),
    ("runtime", &["."]),
    ("egg", &["compiler"]),
    ("cranelift-", &["compiler"]),
    ("cudarc", &["runtime"]),
    ("faer", &["compiler"]),
    ("libloading", &["compiler"]),
    ("petgraph", &["ir"]),
    ("anyhow", &["."]),
    ("clap", &["."]),
    ("indicatif", &["."]),
    ("tokenizers", &["runtime"]),
];

/// Words of code, and the only places where they may stand.
const WORDS: &[(&str, &[&str])] = &[
    (
        "egg::",
        &["compiler/src/optimize/", "compiler/tests/rules.rs"],
    ),
    ("petgraph", &["ir/src/graph.rs"]),
    ("cranelift_", &["compiler/src/backends/cpu/"]),
    ("cudarc", &["runtime/src/devices/cuda/"]),
    (
        "faer::",
        &["compiler/src/compress/", "compiler/src/plan/moments.rs"],
    ),
    ("libloading", &["compiler/src/backends/cuda/nvrtc.rs"]),
    ("anyhow", &["src/main.rs", "src/commands/"]),
    ("clap", &["src/main.rs", "src/commands/"]),
    (
        "unsafe",
        &[
            "runtime/src/kernels/",
            "runtime/src/devices/",
            // Jobs that borrow from the stack of the thread that waits for them.
            "runtime/src/pool.rs",
            "runtime/examples/kernels.rs",
            // Maps a file.
            "compiler/src/checkpoint/mmap.rs",
            // Opens NVIDIA's compiler, a library, and calls it.
            "compiler/src/backends/cuda/nvrtc.rs",
            // Types of functions, no code.
            "ir/src/abi.rs",
            // Handlers of signals.
            "src/signals.rs",
            // An allocator that counts.
            "runtime/tests/allocation.rs",
            // Libraries with C's functions.
            "tests/without_gpu/libcuda.rs",
            "tests/without_gpu/libnvrtc.rs",
        ],
    ),
    ("todo!", &[]),
    ("unimplemented!", &[]),
    ("dbg!", &[]),
    ("#[ignore", &[]),
];

/// Words that code under a folder is free of, and the exceptions: `ir` does no IO, and what the compiler writes depends
/// on no clock and no file but the checkpoint's.
const ABSENT: &[(&str, &[&str], &[&str])] = &[
    ("ir/src/", &["fs::", "net::", "env::", "thread::"], &[]),
    ("ir/src/", &["Instant", "SystemTime"], &[]),
    (
        "compiler/src/",
        &["fs::", "fs,"],
        &["compiler/src/checkpoint/"],
    ),
    (
        "compiler/src/",
        &["net::", "env::", "Instant", "SystemTime"],
        &[],
    ),
];

/// Folders of features, each a file: an op, a family, a table of rules, a command.
const FEATURES: &[&str] = &[
    "ir/src/ops/",
    "compiler/src/models/",
    "compiler/src/optimize/rules/",
    "compiler/src/backends/",
    "runtime/src/kernels/",
    "src/commands/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Paths of the files that belong to the project, by git where there is a repository, else all there are.
fn files() -> Vec<String> {
    let git = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let listed = git.map(|o| o.stdout).unwrap_or_default();
    let listed = String::from_utf8(listed).unwrap();
    let tracked = listed.split_terminator('\0').map(String::from);
    let mut files: Vec<String> = tracked.filter(|f| root().join(f).is_file()).collect();
    if files.is_empty() {
        walk(root(), &mut files);
    }
    files.sort();
    assert!(files.len() > 100, "only {} files found", files.len());
    files
}

fn walk(dir: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let relative: PathBuf = path.strip_prefix(root()).unwrap().into();
        if path.is_file() {
            files.push(relative.to_str().unwrap().into());
        } else if ![Path::new("target"), Path::new(".git")].contains(&&*relative) {
            walk(&path, files);
        }
    }
}

/// Rust files, as `(path, text)`.
fn sources() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|f| f.ends_with(".rs"));
    rust.map(|f| (f.clone(), fs::read_to_string(root().join(&f)).unwrap()))
        .collect()
}

/// A line without its comment. A string that holds `//` is cut short, which hides no more than what it says.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Whether `word` stands in `line`, not as the end of a longer word.
fn says(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn under(file: &str, places: &[&str]) -> bool {
    places.iter().any(|p| file.starts_with(p))
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// Names of the crates a manifest depends on, those for tests too.
fn dependencies(member: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
    let mut names = vec![];
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.starts_with("[workspace");
            assert!(
                !line.contains("dependencies."),
                "{member}: write `{line}` as one line"
            );
        } else if inside && let Some((name, _)) = line.split_once(['=', '.']) {
            names.push(name.trim().to_string());
        }
    }
    names
}

#[test]
fn members_depend_on_what_they_may() {
    let mut violations = vec![];
    for member in ["ir", "compiler", "runtime", "."] {
        let names = dependencies(member);
        assert!(
            !names.is_empty(),
            "{member} depends on nothing: the reader of manifests is broken"
        );
        for name in names {
            let limit = DEPENDENCIES.iter().find(|(dependency, _)| {
                name == *dependency || dependency.ends_with('-') && name.starts_with(dependency)
            });
            let itself = name == member;
            if limit.is_some_and(|(_, allowed)| !allowed.contains(&member)) && !itself {
                violations.push(format!("{member}/Cargo.toml: must not depend on {name}"));
            }
        }
    }
    none(&violations);
}

#[test]
fn words_stand_where_they_may() {
    let mut violations = vec![];
    let mut used: BTreeMap<&str, bool> = BTreeMap::new();
    for (file, text) in sources().iter().filter(|(f, _)| f != "tests/tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            let line = code(line);
            let at = format!("{file}:{}", number + 1);
            for (word, places) in WORDS.iter().filter(|(word, _)| says(line, word)) {
                match places.iter().find(|p| file.starts_with(**p)) {
                    Some(place) => drop(used.insert(place, true)),
                    None => violations.push(format!("{at}: `{word}` belongs in {places:?} alone")),
                }
            }
            for (folder, words, except) in ABSENT {
                if under(file, &[folder]) && !under(file, except) {
                    let found = words.iter().filter(|w| says(line, w));
                    violations
                        .extend(found.map(|w| format!("{at}: `{w}` has no place in {folder}")));
                }
            }
        }
    }
    let places = WORDS.iter().flat_map(|(_, places)| *places);
    let stale = places.filter(|p| p.ends_with(".rs") && !used.contains_key(*p));
    violations.extend(stale.map(|p| format!("{p}: listed in tests/tidy.rs without need")));
    none(&violations);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut violations = vec![];
    for (file, text) in sources() {
        let lines = text.lines().count();
        let test = file.contains("tests/") || file.ends_with("tests.rs");
        let most = if under(&file, FEATURES) && !test {
            400
        } else {
            600
        };
        if lines > most {
            violations.push(format!("{file}: {lines} lines, {most} at most; split it"));
        }
        if !text.starts_with("//! ") {
            violations.push(format!(
                "{file}: must open with `//!`, what it is and what it refuses to know"
            ));
        }
    }
    none(&violations);
}

#[test]
fn nothing_is_left_lying_about() {
    let mut violations = vec![];
    // Put together here, or this file would name them.
    let homes = ["root", "work"].map(|dir| format!("/{dir}/"));
    for file in files() {
        let bytes = fs::read(root().join(&file)).unwrap();
        if bytes.len() > 9_000_000 {
            violations.push(format!("{file}: {} bytes, 9 MB at most", bytes.len()));
        }
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let found = homes.iter().filter(|home| text.contains(*home));
            violations.extend(found.map(|h| format!("{file}: names {h}, a path of one machine")));
        }
    }
    for entry in fs::read_dir(root().join("snapshots")).unwrap() {
        let name = entry.unwrap().file_name();
        if Path::new(&name).extension() != Some("snap".as_ref()) {
            violations.push(format!(
                "snapshots/{}: accept it or delete it",
                name.display()
            ));
        }
    }
    none(&violations);
}
