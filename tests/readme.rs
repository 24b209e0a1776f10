//! The README says what is true: its list of models is the compiler's, its commands are the command line's, what it
//! links to is there. Its Rust examples run as documentation tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::models::FAMILIES;
use std::{fs, path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The rows of the table whose first column is called `heading`.
fn table<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let start = format!("| {heading} |");
    let rows = text.lines().skip_while(|line| !line.starts_with(&start));
    rows.skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect()
}

#[test]
fn models_are_those_the_compiler_builds() {
    let expected: Vec<String> = FAMILIES
        .iter()
        .map(|family| {
            let names: Vec<String> = family
                .architectures
                .iter()
                .map(|a| format!("`{a}`"))
                .collect();
            format!("| {} | {} |", family.name, names.join(", "))
        })
        .collect();
    let text = readme();
    assert_eq!(
        table(&text, "model_type"),
        expected,
        "the README's table should read\n{}",
        expected.join("\n")
    );
}

#[test]
fn commands_are_those_there_are() {
    let help = Command::new(env!("CARGO_BIN_EXE_satura"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let there: Vec<&str> = listed
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    let text = readme();
    let told: Vec<&str> = table(&text, "command")
        .into_iter()
        .filter_map(|row| row.strip_prefix("| `satura ")?.split(['`', ' ']).next())
        .collect();
    assert_eq!(told, there);
}

#[test]
fn links_lead_to_files() {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        // Outside of code, which stands between fences.
        let prose = text.split("```").step_by(2);
        let targets = prose.flat_map(|part| part.split("](").skip(1));
        let targets = targets.filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.starts_with("http") && !t.starts_with('#')) {
            let exists = root().join(target).exists();
            assert!(exists, "{document} links to {target}, which is not there");
        }
    }
}

#[test]
fn paths_of_the_architecture_are_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = quoted
        .filter(|q| q.ends_with(".rs") || q.ends_with('/'))
        .filter(|q| q.contains('/') && !q.contains(['<', '{', ' ']))
        .collect();
    assert!(paths.len() > 20, "{paths:?}");
    let sources = ["", "ir/src", "compiler/src", "runtime/src"];
    for path in paths {
        let exists = sources.iter().any(|s| root().join(s).join(path).exists());
        assert!(
            exists,
            "ARCHITECTURE.md speaks of {path}, which is not there"
        );
    }
}
