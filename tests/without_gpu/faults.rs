//! Drivers and GPUs that fail: each error names what failed, both sides, and what to do; the process lives.

use super::{FAKES, Run, compiled, fixture, text};
use runtime::{Chunk, Error, Model, Options, Select, Session, devices::Device};
use satura::{Opening, Source, runtime};
use std::{env, fs};

/// Runs a model, of a directory or a file, as fast as may be.
fn run(gpu: &str, model: &str) -> Run {
    let quick = [
        "--prompt",
        "8",
        "--gen",
        "4",
        "--seconds",
        "0.01",
        "--roofline=none",
    ];
    Run::satura(
        gpu,
        &[&["bench", model, "--device", "cuda"], &quick[..]].concat(),
    )
}

#[test]
fn on_a_gpu_without_faults_models_run() {
    let folder = tempfile::tempdir().unwrap();
    run("", fixture()).succeeds();
    run("", text(&compiled(folder.path(), "sm_90a"))).succeeds();
    run("capability=80", fixture()).succeeds();
    let said = Run::satura("", &["doctor"]).succeeds();
    let about =
        "Pretended GPU, compute capability 9.0, 80.0 GB of 80.0 GB free, driver for CUDA 13.0\n";
    assert!(said.contains(about), "{said}");
}

#[test]
fn a_gpu_that_cannot_be_used_says_why_and_what_to_do() {
    let none = "no GPU can be used";
    let check = |gpu: &str, words: &[&str]| {
        run(gpu, fixture()).refused(&[&[none], words].concat());
        // The doctor says the same, and lives.
        let said = Run::satura(gpu, &["doctor"]).succeeds();
        for word in words {
            assert!(said.contains(word), "{gpu}: {word:?} is not in {said}");
        }
    };
    let blind = ["CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES", "nvidia-smi"];
    check("init=100", &blind);
    check("devices=0", &blind);
    check("init=34", &["STUB_LIBRARY", "LD_LIBRARY_PATH"]);
    check("init=803", &["DRIVER_MISMATCH", "restart the machine"]);
    check("init=999", &["CUDA_ERROR_UNKNOWN", "dmesg"]);
}

#[test]
fn an_old_driver_is_told_what_it_lacks() {
    let words = [
        "driver for CUDA 12.2 lacks cuEventElapsedTime_v2",
        "12.8 or newer",
        "update",
    ];
    let old = |run: Run| run.env("LD_LIBRARY_PATH", &FAKES.old_driver);
    old(run("driver=12020", fixture())).refused(&words);
    let said = old(Run::satura("driver=12020", &["doctor"])).succeeds();
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    // A library of that name that is no driver.
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        FAKES.nvrtc.join("libnvrtc.so.13"),
        folder.path().join("libcuda.so"),
    )
    .unwrap();
    run("", fixture())
        .env("LD_LIBRARY_PATH", folder.path())
        .refused(&["no GPU can be used: the driver lacks cu", "update"]);
}

#[test]
fn code_that_is_newer_than_the_driver_is_told_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let file = compiled(folder.path(), "sm_90a");
    run("driver=12090 load=200", text(&file)).refused(&[
        &format!(
            "{}: loading its code (of CUDA 13.0's compiler)",
            file.display()
        ),
        "driver for CUDA 12.9",
        "CUDA_ERROR_INVALID_IMAGE",
        "update NVIDIA's driver",
        "SATURA_NVRTC",
    ]);
    let said = Run::satura("driver=12090", &["doctor"]).succeeds();
    assert!(said.contains("older than NVRTC"), "{said}");
}

#[test]
fn code_for_another_gpu_is_told_which_this_is() {
    let folder = tempfile::tempdir().unwrap();
    let (hopper, ampere) = (
        compiled(folder.path(), "sm_90a"),
        compiled(folder.path(), "sm_80"),
    );
    run("capability=86", text(&ampere)).succeeds();
    run("capability=80", text(&hopper)).refused(&[
        &format!("{}: compiled for sm_90a", hopper.display()),
        "Pretended GPU, compute capability 8.0",
        "--target sm_80",
    ]);
    let words = ["compute capability 12.0", "sm_80, sm_90a", "--device cpu"];
    run("capability=120", text(&hopper)).refused(&words);
    run("capability=120", fixture()).refused(&words);
    let said = Run::satura("capability=120", &["doctor"]).succeeds();
    assert!(said.contains("no code is generated for it"), "{said}");
}

/// The number in front of some words.
fn number(said: &str, before: &str) -> u64 {
    let front = said.split(before).next().unwrap();
    front.rsplit([' ', '(']).next().unwrap().parse().unwrap()
}

#[test]
fn memory_that_is_too_little_is_told_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = compiled(folder.path(), "sm_90a");
    let needed = " bytes of the GPU's memory are needed";
    let said = run("memory=1000", text(&file)).refused(&[
        &format!("{}: its weights: ", file.display()),
        needed,
        "1000 of 1000 are free",
        "--weights q8 or q4",
    ]);
    let weights = number(&said, needed);
    // One byte short, and just enough.
    let short = format!("memory={}", weights - 1);
    run(&short, text(&file)).refused(&["its weights"]);
    let session = format!("memory={weights}");
    let said = run(&session, text(&file)).refused(&[
        "a session (keys and values ",
        needed,
        &format!("0 of {weights} are free"),
        "a shorter context or fewer sequences",
    ]);
    let session = number(&said, needed);
    let parts = said.split(['(', ')']).nth(1).unwrap().split(", ");
    let parts = parts.map(|part| part.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    assert_eq!(parts.sum::<u64>(), session, "{said}");
    run(&format!("memory={}", weights + session - 1), text(&file)).refused(&["a session"]);
    // Memory of no bytes takes one.
    run(&format!("memory={}", weights + session + 1), text(&file)).succeeds();
    run("pieces=1", text(&file)).refused(&["weights: ", "in pieces"]);
}

#[test]
fn a_launch_that_fails_is_named() {
    run("launch=701", fixture()).refused(&["launching ", "LAUNCH_OUT_OF_RESOURCES"]);
}

#[test]
fn a_kernel_that_goes_astray_is_told_with_the_step() {
    run("fault=700", fixture()).refused(&[
        "the GPU failed: running a step of ",
        " T 8",
        "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)",
        "end it and start it again",
    ]);
}

/// Every time on the clock of the driver that pretends.
const TICK: f64 = 1e-3;

#[test]
fn steps_are_held_against_how_fast_the_gpu_reads() {
    let cache = tempfile::tempdir().unwrap();
    let args = [
        "bench",
        fixture(),
        "--device",
        "cuda",
        "--prompt",
        "8",
        "--gen",
        "4",
    ];
    let bench = |gpu: &str, more: &[&str]| {
        let quick = ["--seconds", "0.01"];
        let run = Run::satura(gpu, &[&args[..], &quick, more].concat());
        run.env("SATURA_CACHE", cache.path())
    };
    let memory = 200_000_000;
    let gpu = format!("memory={memory}");
    let said = bench(&gpu, &["--json"]).succeeds();
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    let found = |key: &str| found["roofline"][key].as_f64().unwrap();
    // Nearly half of the memory at each tick.
    let read = found("read_gb_per_s") * 1e9;
    let most = f64::from(memory) / 2.0 / TICK;
    assert!((0.9 * most..=most).contains(&read), "{said}");
    let fraction = found("bytes_per_step") / TICK / read;
    assert!((found("fraction") / fraction - 1.0).abs() < 1e-9, "{said}");

    let said = bench(&gpu, &[]).succeeds();
    assert!(said.contains(" % of what binds (read): "), "{said}");
    // A model in the cache runs without NVRTC, and that is all.
    let run = bench(&gpu, &[]).env("SATURA_NVRTC", cache.path().join("none"));
    let said = run.succeeds();
    assert!(
        said.contains("not measured: compiling for GPUs needs NVRTC"),
        "{said}"
    );
}

/// Runs what is marked as of a child, in a process of its own.
fn child(gpu: &str) -> Run {
    let mut run = Run::new(env::current_exe().unwrap(), gpu).env("FAULTS_CHILD", "yes");
    run.command
        .args(["--exact", "faults::inside", "--nocapture"]);
    run
}

#[test]
fn a_process_lives_on_without_its_gpu() {
    let said = child("fault=700").succeeds();
    assert!(said.contains("lived on"), "{said}");
}

/// In the process of which the GPU is lost. On its own there is nothing to be seen.
#[test]
fn inside() {
    if env::var_os("FAULTS_CHILD").is_none() {
        return;
    }
    let open = |device| {
        let how = Opening {
            device: Some(device),
            cache: None,
            ..Opening::default()
        };
        satura::open(&Source::Directory(fixture().into()), &how)
    };
    let step = |session: &mut Session| {
        let chunk = Chunk {
            sequence: 0,
            tokens: &[1, 2, 3],
            positions: None,
        };
        session
            .step(&[chunk], Select::Last)
            .map(|logits| logits.data.len())
    };
    let model = open(Device::Cuda).unwrap().model;
    let mut session = Session::new(&model, Options::default()).unwrap();
    let mut other = Session::new(&model, Options::default()).unwrap();
    let first = step(&mut session).unwrap_err();
    assert!(matches!(first, Error::GpuLost { .. }), "{first}");
    // Whatever is asked of the GPU then, it is the first failure that is told.
    let later = [
        step(&mut session).unwrap_err(),
        step(&mut other).unwrap_err(),
        Session::new(&model, Options::default())
            .map(drop)
            .unwrap_err(),
        runtime::devices::cuda::gpu().map(drop).unwrap_err(),
        other.clock().unwrap_err(),
    ];
    for error in later {
        assert_eq!(error.to_string(), first.to_string());
    }
    let error = open(Device::Cuda).map(drop).unwrap_err();
    assert_eq!(error.to_string(), first.to_string());
    drop((session, other));
    drop::<std::sync::Arc<Model>>(model);
    // The processor knows nothing of it.
    let model = open(Device::Cpu).unwrap().model;
    let mut session = Session::new(&model, Options::default()).unwrap();
    step(&mut session).unwrap();
    println!("lived on");
}

#[test]
fn a_text_that_nvrtc_refuses_is_told_with_its_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.satura");
    let args = ["compile", fixture(), "-o", text(&out), "--target", "sm_90a"];
    let line = "constexpr int WEIGHTS = 2;";
    let said = Run::satura("", &args)
        .env("FAKE_NVRTC", line)
        .refused(&[
            "cuda: no code for layer: gemm swiglu (a gemm kernel): NVRTC refuses the text for sm_90a:\n",
            &format!("error: {line} is not wanted here\n"),
            "in the text of its variant ",
        ]);
    // The line that it speaks of is found in the text by its number.
    let number = said.split("kernel.cu(").nth(1).unwrap();
    let number = number.split(')').next().unwrap();
    assert!(said.contains(&format!(" {number}  {line}\n")), "{said}");
    assert!(!out.exists());
}
