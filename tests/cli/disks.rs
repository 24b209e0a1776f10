//! Files that change under the program's hands, disks that are full, limits on sizes: each an error that says so, and
//! never a result of what the files were before.

use super::{DEFAULT, Run, command, copy, fixture, satura_with, text};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

fn ended(output: Output) -> Run {
    let run = Run {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!run.err.contains("panicked"), "{run:?}");
    run
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// Whether a model compiled anew, or from the cache, passes its reference.
fn verify(dir: &Path, cache: &Path) -> (Option<i32>, Value) {
    let reference = fixture("llama_gqa").join("expected.safetensors");
    let args = [
        "verify",
        text(dir),
        "--reference",
        text(&reference),
        "--json",
    ];
    let run = satura_with(&args, cache);
    let found = serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{run:?}"));
    (run.code, found)
}

#[test]
fn a_changed_model_is_never_answered_from_the_cache() {
    let (dir, cache) = (copy(&fixture("llama_gqa")), tempfile::tempdir().unwrap());
    let file = dir.path().join("model.safetensors");
    let sound = fs::read(&file).unwrap();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    // In place, of the same size, with the time put back: nothing but the content and its time of change differ.
    let rewrite = |bytes: &[u8]| {
        let mut file = File::options().write(true).open(&file).unwrap();
        file.write_all(bytes).unwrap();
        file.set_modified(modified).unwrap();
    };
    let mut damaged = sound.clone();
    // The last weights of the file, some of a layer's: a sign each.
    let len = damaged.len();
    damaged[len - 4096..]
        .iter_mut()
        .skip(1)
        .step_by(2)
        .for_each(|byte| *byte ^= 0x80);
    assert_eq!(verify(dir.path(), cache.path()).0, Some(0));
    for _ in 0..3 {
        rewrite(&damaged);
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), modified);
        let (code, found) = verify(dir.path(), cache.path());
        assert_eq!(code, Some(1), "a result of the weights before: {found:#}");
        rewrite(&sound);
        let (code, found) = verify(dir.path(), cache.path());
        assert_eq!(code, Some(0), "a result of the weights before: {found:#}");
    }
}

#[test]
fn a_model_that_changes_while_it_is_compiled_is_refused() {
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let dir = copy(Path::new(DEFAULT));
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let output = folder.path().join("m.satura");
        let file = File::options()
            .read(true)
            .write(true)
            .open(dir.path().join(name))
            .unwrap();
        let mut last = [0];
        let at = file.metadata().unwrap().len() - 1;
        file.read_exact_at(&mut last, at).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // The same byte again and again: whatever is read, it is whole.
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    file.write_all_at(&last, at).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
            let compile = ["compile", text(dir.path()), "-o", text(&output)];
            let run = ["run", text(dir.path()), "-p", "Files", "-n", "1"];
            let runs = [&compile[..], &run].map(|args| satura_with(args, cache.path()));
            done.store(true, Relaxed);
            for run in runs {
                assert_eq!((run.code, &*run.out), (Some(1), ""), "{name}: {run:?}");
                let named =
                    format!("{name}: changed while the model was being read: it was written to");
                assert!(
                    run.err.starts_with("error: ") && run.err.contains(&named),
                    "{run:?}"
                );
            }
        });
        assert!(
            is_empty(folder.path()) && is_empty(cache.path()),
            "{name}: something is left"
        );
        let run = ["compile", text(dir.path()), "-o", text(&output)];
        assert_eq!(
            satura_with(&run, cache.path()).code,
            Some(0),
            "{name}: now that it is quiet"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_artifact_that_is_cut_short_while_it_runs_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("m.satura");
    let compiled = satura_with(&["compile", DEFAULT, "-o", text(&artifact)], folder.path());
    assert_eq!(compiled.code, Some(0), "{compiled:?}");
    let args = [
        "run",
        text(&artifact),
        "-p",
        "Files are",
        "-n",
        "2000",
        "--ignore-eos",
    ];
    let mut child = command(&args, folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun to speak, and has some two thousand steps to go.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 12]).unwrap();
    File::options()
        .write(true)
        .open(&artifact)
        .unwrap()
        .set_len(4096)
        .unwrap();
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    let run = ended(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.err.starts_with("error: ") && run.err.contains("m.satura"),
        "{run:?}"
    );
    assert!(run.err.contains("cut short"), "{run:?}");
}

/// Runs the program by way of a shell that prepares something first.
fn after(preparation: &str, args: &[&str], cache: &Path) -> Run {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{preparation} && exec \"$0\" \"$@\"")]);
    shell.arg(env!("CARGO_BIN_EXE_satura")).args(args);
    shell.env("SATURA_CACHE", cache).stdin(Stdio::null());
    ended(shell.output().unwrap())
}

#[test]
fn a_write_beyond_the_limit_on_file_sizes_is_an_error() {
    let (model, folder) = (fixture("llama_gqa"), tempfile::tempdir().unwrap());
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let output = folder.path().join("m.satura");
    // Blocks of 512 or 1024 bytes: some of the artifact can be written, not all.
    let limit = "ulimit -f 64";
    let run = after(
        limit,
        &["compile", text(&model), "-o", text(&output)],
        &cache,
    );
    assert_eq!((run.code, &*run.out), (Some(1), ""), "{run:?}");
    let named = format!("error: {}: File too large", output.display());
    assert!(run.err.starts_with(&named), "{run:?}");
    // Neither the cache nor memory takes a file as large.
    let reference = model.join("expected.safetensors");
    let verify = ["verify", text(&model), "--reference", text(&reference)];
    let run = after(limit, &verify, &cache);
    assert_eq!((run.code, &*run.out), (Some(1), ""), "{run:?}");
    assert!(run.err.contains("File too large"), "{run:?}");
    assert!(is_empty(&cache));
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "the cache alone"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn output_to_a_full_disk_is_an_error() {
    let cache = tempfile::tempdir().unwrap();
    let (bert, llama) = (fixture("bert_model"), fixture("llama_gqa"));
    let reference = bert.join("expected.safetensors");
    for args in [
        &["run", "-n", "4"][..],
        &["run", "-n", "4", "--json"],
        &["verify", text(&bert), "--reference", text(&reference)],
        &["inspect", text(&llama), "--stage", "built"],
        &["doctor"],
    ] {
        let mut command = command(args, cache.path());
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let run = ended(command.output().unwrap());
        assert_eq!(run.code, Some(1), "{args:?}: {run:?}");
        assert!(
            run.err.contains("error: No space left on device"),
            "{args:?}: {run:?}"
        );
    }
}

/// A disk of 64 kB needs a mount, which a user without rights has in a namespace of their own; where the system allows
/// no such namespace, limits on file sizes (above) are all that is tested.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_holds_neither_an_artifact_nor_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size=64k none '{}'", disk.display());
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command.env("SATURA_CACHE", &disk).stdin(Stdio::null());
        command.output()
    };
    if !unshare(&mount).is_ok_and(|done| done.status.success()) {
        eprintln!("no namespace to mount a small disk in; not tested");
        return;
    }
    let program = env!("CARGO_BIN_EXE_satura");
    let model = fixture("llama_gqa");
    let reference = model.join("expected.safetensors");
    let left = format!("ls -A '{}'", disk.display());
    let output = disk.join("m.satura");
    let compile = format!(
        "'{program}' compile '{}' -o '{}'",
        model.display(),
        output.display()
    );
    let run = ended(
        unshare(&format!(
            "{mount} && {compile}; code=$?; {left}; exit $code"
        ))
        .unwrap(),
    );
    assert_eq!((run.code, &*run.out), (Some(1), ""), "{run:?}");
    let named = format!("error: {}: No space left on device", output.display());
    assert!(run.err.starts_with(&named), "{run:?}");

    // With a cache that is full, or read-only, the model runs all the same.
    let verify = format!(
        "'{program}' verify '{}' --reference '{}'",
        model.display(),
        reference.display()
    );
    let read_only = format!("mount -t tmpfs -o ro none '{}'", disk.display());
    for (mount, why) in [
        (mount, "No space left on device"),
        (read_only, "Read-only file system"),
    ] {
        let run =
            ended(unshare(&format!("{mount} && {verify}; code=$?; {left}; exit $code")).unwrap());
        assert_eq!(run.code, Some(0), "{run:?}");
        let warned = run
            .err
            .starts_with("warning: the compiled model is not kept");
        assert!(warned && run.err.contains(why), "{run:?}");
        let out = run.out.trim_end();
        assert!(out.ends_with("continuations equal"), "{run:?}");
    }
}
