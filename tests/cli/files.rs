//! What the command line writes and keeps: artifacts, and the cache of them.

use super::{Case, DEFAULT, command, satura, satura_with, text};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

#[test]
fn an_artifact_needs_nothing_but_itself() {
    let case = Case::new("llama_gqa", &[]);
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("m.satura");
    let prompt = case.text(&case.ids("input_ids")[0]);
    let greedy = json!(case.ids("greedy")[0]);
    let compiled = satura(&["compile", case.path(), "-o", text(&artifact), "--json"]).json();
    assert_eq!(compiled["bytes"], fs::metadata(&artifact).unwrap().len());
    assert_eq!(
        compiled["parameters"], 177_984,
        "as the fixture's manifest says"
    );
    let again = folder.path().join("again.satura");
    satura(&["compile", case.path(), "-o", text(&again)]);
    assert_eq!(
        fs::read(&artifact).unwrap(),
        fs::read(&again).unwrap(),
        "two compilations differ"
    );
    drop(case);

    let run = |file: &Path| {
        satura(&[
            "run",
            text(file),
            "-p",
            &prompt,
            "-n",
            "16",
            "--ignore-eos",
            "--json",
        ])
    };
    assert_eq!(run(&artifact).json()["results"][0]["tokens"], greedy);
    let explained = satura(&["explain", text(&artifact), "--json"]).json();
    assert_eq!(explained["architecture"], "LlamaForCausalLM");
    assert!(
        explained["plan"]["launches"].as_u64().unwrap() > 0,
        "{explained}"
    );
    assert!(
        satura(&["explain", text(&artifact)])
            .out
            .contains("rules that fired")
    );
    let explain = |block: &str, json: &[&str]| {
        let args = ["explain", text(&artifact), "--block", block];
        satura(&[&args[..], json].concat())
    };
    let derived = explain("layer", &["--json"]).json();
    let merged = |step: &serde_json::Value| step["rule"] == "merge-projections";
    assert!(
        derived["steps"].as_array().unwrap().iter().any(merged),
        "{derived}"
    );
    assert_eq!(explain("1", &["--json"]).json(), derived);
    for word in ["derivation", "gain-into-weight", "do not occur"] {
        assert!(explain("layer", &[]).out.contains(word), "{word}");
    }
    let refused = explain("attic", &[]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("attic") && refused.err.contains("embed, layer, head"));

    // What is no sound artifact is refused, whatever is wrong with it.
    let sound = fs::read(&artifact).unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let check = |bytes: Vec<u8>, word: &str| {
        fs::write(&again, bytes).unwrap();
        let run = run(&again);
        assert_eq!(run.code, Some(1), "{word}: {run:?}");
        assert!(
            run.err.starts_with("error: ") && run.err.contains(word),
            "{word}: {run:?}"
        );
        assert!(run.err.contains("again.satura"), "{run:?}");
    };
    check(vec![], "not a satura artifact");
    check(b"#!/bin/sh\n".to_vec(), "not a satura artifact");
    check(sound[..sound.len() / 2].to_vec(), "truncated");
    check(flipped(8), "version");
    check(flipped(40), "header");
    check(flipped(5000), "weights");
    check(flipped(sound.len() - 1), "manifest");
}

#[test]
fn a_compilation_that_is_killed_leaves_nothing() {
    for wait in [5, 60, 400] {
        let folder = tempfile::tempdir().unwrap();
        let artifact = folder.path().join("m.satura");
        let mut child = command(&["compile", DEFAULT, "-o", text(&artifact)], folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().unwrap();
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        // It may have been done by then.
        match &left[..] {
            [] => {}
            [file] if *file == artifact => {
                let run = satura(&["explain", text(file)]);
                assert_eq!(run.code, Some(0), "{run:?}");
            }
            _ => panic!("{left:?}"),
        }
    }
}

#[test]
fn the_cache_is_used_and_never_needed() {
    let case = Case::new("llama_gqa", &[]);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("not/yet/there");
    let args = [
        "run",
        case.path(),
        "-p",
        "w5",
        "-n",
        "2",
        "--ignore-eos",
        "--json",
    ];
    // Whether it compiled, and whether it warned.
    let outcome = |extra: &[&str], cache: &Path| {
        let run = satura_with(&[&args, extra].concat(), cache);
        assert_eq!(run.code, Some(0), "{run:?}");
        let found: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(found["results"][0]["tokens"].as_array().unwrap().len(), 2);
        (
            !found["compile_ms"].is_null(),
            run.err
                .lines()
                .filter(|l| l.starts_with("warning: "))
                .count(),
        )
    };
    let entries = || -> Vec<PathBuf> {
        let mut entries: Vec<_> = fs::read_dir(&cache)
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        entries.sort();
        entries
    };
    assert_eq!(outcome(&[], &cache), (true, 0));
    assert_eq!(entries().len(), 1);
    assert_eq!(
        outcome(&[], &cache),
        (false, 0),
        "the second run compiles again"
    );
    assert_eq!(outcome(&["--no-cache"], &cache), (true, 0));
    assert_eq!(
        outcome(&["--weights", "f32"], &cache),
        (true, 0),
        "options are part of the key"
    );
    assert_eq!(entries().len(), 2);

    for entry in entries() {
        let mut bytes = fs::read(&entry).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&entry, bytes).unwrap();
    }
    assert_eq!(
        outcome(&[], &cache),
        (true, 1),
        "a damaged entry is compiled again"
    );
    assert_eq!(outcome(&[], &cache), (false, 0), "and mended");

    let weights = case.dir.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    fs::write(&weights, bytes).unwrap();
    assert_eq!(
        outcome(&[], &cache),
        (true, 0),
        "a changed model is compiled again"
    );

    // No folder can be made below a file.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(outcome(&[], &file.join("cache")), (true, 1));
    assert_eq!(outcome(&["--no-cache"], &file.join("cache")), (true, 0));
}

#[test]
fn two_at_once_share_the_cache() {
    let case = Case::new("llama_gqa", &[]);
    let folder = tempfile::tempdir().unwrap();
    let args = ["run", case.path(), "-p", "w5", "-n", "4", "--ignore-eos"];
    let spawn = |_| {
        command(&args, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(spawn).collect();
    let outputs: Vec<_> = children
        .into_iter()
        .map(|c| c.wait_with_output().unwrap())
        .collect();
    for output in &outputs {
        assert!(
            output.status.success() && output.stdout == outputs[0].stdout,
            "{outputs:?}"
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
