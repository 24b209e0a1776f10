//! Models for GPUs on a machine that has none, or shows none: compiling works where NVRTC is, running says what is
//! missing.

use super::{command, fixture, text};
use serde_json::Value;
use std::path::Path;

/// Runs the command without GPUs, and with NVRTC at a place where that is given.
fn run(args: &[&str], nvrtc: Option<&Path>) -> (bool, String) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = command(args, cache.path());
    command.env("CUDA_VISIBLE_DEVICES", "");
    if let Some(nvrtc) = nvrtc {
        command.env("SATURA_NVRTC", nvrtc);
    }
    let done = command.output().unwrap();
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
    let said = said.concat();
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    (done.status.success(), said)
}

fn refused(args: &[&str], nvrtc: Option<&Path>, words: &[&str]) {
    let (done, said) = run(args, nvrtc);
    assert!(!done, "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: {word:?} is not in {said}");
    }
}

/// What compiles a model to a file for a GPU, with more options.
fn compile<'a>(model: &'a Path, out: &'a Path, target: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["compile", text(model), "-o", text(out), "--target", target];
    [&args, more].concat()
}

#[test]
fn without_a_gpu_nothing_runs_on_one() {
    let model = fixture("llama_gqa");
    let args = ["run", text(&model), "--device", "cuda", "-p", "x"];
    refused(&args, None, &["no GPU can be used"]);
}

#[test]
fn without_nvrtc_nothing_is_compiled_for_gpus() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("llama_gqa"), folder.path().join("m.satura"));
    let args = compile(&model, &out, "sm_90a", &[]);
    let missing = folder.path().join("libnvrtc.so.13");
    for (place, why) in [
        (missing.as_path(), "cannot open"),
        (folder.path(), "no libnvrtc in it"),
    ] {
        let words = [
            "needs NVRTC",
            why,
            "pip install nvidia-cuda-nvrtc",
            "SATURA_NVRTC",
        ];
        refused(&args, Some(place), &words);
    }
    assert!(!out.exists());
}

#[test]
fn with_nvrtc_models_are_compiled_for_gpus_that_are_not_here() {
    if let Err(why) = satura::nvrtc::find(None) {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        return println!("not checked: {why}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("llama_gqa"), folder.path().join("m.satura"));
    let compiled = |target| {
        let (done, said) = run(&compile(&model, &out, target, &[]), None);
        assert!(done, "{said}");
        std::fs::read(&out).unwrap()
    };
    let ampere = compiled("sm_80");
    let hopper = compiled("sm_90a");
    assert!(hopper != ampere && hopper == compiled("sm_90a"));
    let (done, said) = run(&["explain", text(&out), "--json"], None);
    let found: Value = serde_json::from_str(&said).unwrap();
    assert!(done && found["target"] == "sm_90a", "{said}");
    refused(
        &["run", text(&out), "-p", "x"],
        None,
        &["no GPU can be used"],
    );
}

#[test]
fn weights_of_few_bits_compile_for_gpus() {
    if satura::nvrtc::find(None).is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("llama_gqa"), folder.path().join("m.satura"));
    for weights in ["q8", "q4"] {
        let args = compile(&model, &out, "sm_90a", &["--weights", weights]);
        let (done, said) = run(&args, None);
        assert!(done, "{said}");
        let (done, said) = run(&["explain", text(&out)], None);
        assert!(done && said.contains(&format!(": {weights}/")), "{said}");
    }
}
