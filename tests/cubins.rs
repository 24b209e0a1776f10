//! The CUDA backend without a GPU: the text of every kernel of every fixture is under insta, compiles for every
//! architecture, and its machine code keeps no values in local memory and has the instructions that make it fast.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{
    Compilation, Options,
    backends::cuda::{Cubin, Source, sources},
    checkpoint::Checkpoint,
};
use ir::Target;
use rayon::prelude::*;
use satura::{compiler, ir, nvrtc};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Every fixture, by name.
fn fixtures() -> BTreeMap<String, PathBuf> {
    let folder = root().join("tests/fixtures").read_dir().unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.is_dir());
    let named = |path: PathBuf| {
        (
            path.file_name().unwrap().to_str().unwrap().to_string(),
            path,
        )
    };
    paths.map(named).collect()
}

/// The kernels of a model and the sources of each.
fn kernels(path: &Path) -> Vec<(String, Vec<Source>)> {
    let options = Options::new("sm_90a".parse().unwrap());
    let checkpoint = Checkpoint::open(path).unwrap();
    let compilation = Compilation::new(&checkpoint, &options, &|_, _, _| {}).unwrap();
    let symbols = compilation.symbols();
    let (kernels, index) = compilation.kernels();
    let labels: BTreeMap<u32, String> = compilation
        .schedules
        .iter()
        .flat_map(|(graph, schedule)| schedule.steps.iter().map(move |step| (graph, step)))
        .map(|(graph, step)| {
            (
                index[&(graph.clone(), step.kernel)],
                format!("{graph}: {}", step.label),
            )
        })
        .collect();
    let kernels = kernels.iter().enumerate();
    kernels
        .map(|(i, kernel)| {
            (
                labels[&(i as u32)].clone(),
                sources(kernel, &symbols).unwrap(),
            )
        })
        .collect()
}

/// What is generated for a kernel, once for all of its sources: of those after the first, what differs.
fn describe(label: &str, sources: &[Source]) -> String {
    let mut text = format!("// {label}\n");
    for (i, source) in sources.iter().enumerate() {
        let rows = match source.rows {
            u64::MAX => "any number of".into(),
            rows => format!("up to {rows}"),
        };
        let Source {
            name,
            tasks,
            threads,
            shared,
            resident,
            scratch,
            ..
        } = source;
        writeln!(
            text,
            "// {name} for {rows} rows: {} in {}s by {} columns; {threads} threads, {shared} bytes shared, \
             {resident} resident, {scratch} bytes of scratch",
            tasks.rows, tasks.rows_per_task, tasks.columns
        )
        .unwrap();
        let known: BTreeSet<&str> = match i {
            0 => BTreeSet::new(),
            _ => sources[0].generated.lines().collect(),
        };
        let new = source.generated.lines().filter(|l| !known.contains(l));
        new.for_each(|line| writeln!(text, "{line}").unwrap());
    }
    text
}

#[test]
fn texts() {
    // Under the first model that has it.
    let mut seen = BTreeSet::new();
    for (name, path) in fixtures() {
        let mut text = String::new();
        for (label, sources) in kernels(&path) {
            if seen.insert(describe("", &sources)) {
                writeln!(text, "{}", describe(&label, &sources)).unwrap();
            }
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(root().join("snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(format!("{name}@cuda"), text));
    }
}

/// Every architecture that code is generated for.
fn architectures() -> Vec<&'static str> {
    let gpu = |name: &&str| name.parse().is_ok_and(|target: Target| target.is_gpu());
    Target::names().filter(gpu).collect()
}

/// NVIDIA's disassembler: the one that `NVDISASM` names, or the one on the path.
fn disassemble(cubin: &Cubin) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &cubin.bytes).unwrap();
    let program = env::var_os("NVDISASM").unwrap_or_else(|| "nvdisasm".into());
    let run = Command::new(program).arg("-c").arg(file.path()).output();
    let output = run.ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nvdisasm: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What the assembler says against a kernel: values in local memory, on the stack or spilled.
fn spills(cubin: &Cubin) -> Option<String> {
    // `0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`.
    let frame = cubin.log.lines().find(|line| line.contains("stack frame"));
    let frame = frame.unwrap_or("0: no word of the stack frame");
    let frame = frame.trim_start_matches(|c: char| !c.is_ascii_digit());
    let good = frame.trim() == "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
    (!good).then(|| frame.to_string())
}

/// Promised instructions that a kernel's machine code lacks.
fn broken_promises(source: &Source, cubin: &Cubin) -> Vec<String> {
    let Some(code) = disassemble(cubin) else {
        assert!(
            env::var_os("CI").is_none(),
            "no nvdisasm: install it (`pip install nvidia-cuda-nvdisasm`) and set NVDISASM"
        );
        return vec![];
    };
    let has = |parts: &[&str]| {
        code.lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    };
    let promises = source.promises().iter().filter(|parts| !has(parts));
    promises
        .map(|parts| format!("no instruction with {parts:?}"))
        .collect()
}

#[test]
fn machine_code() {
    let nvrtc = match nvrtc::find() {
        Ok(nvrtc) => nvrtc,
        Err(why) if env::var_os("CI").is_none() => return println!("not checked: {why}"),
        Err(why) => panic!("{why}"),
    };
    // Kernels of different models are often the same.
    let mut unique: BTreeMap<String, (String, Source)> = BTreeMap::new();
    for (name, path) in fixtures() {
        for (label, sources) in kernels(&path) {
            for source in sources {
                let what = format!("{name}, {label}: {}", source.name);
                unique.entry(source.text()).or_insert((what, source));
            }
        }
    }
    assert!(unique.len() > 50, "only {} kernels", unique.len());
    // Disassembling takes longer than compiling: one kernel of each form, which differ in shapes and bodies.
    let mut forms = BTreeSet::new();
    let unique: BTreeMap<String, (String, Source, bool)> = unique
        .into_iter()
        .map(|(text, (what, source))| {
            let codec = source.generated.lines().next().unwrap_or_default();
            let form = (source.name, source.rows, codec.to_string());
            let first = !source.promises().is_empty() && forms.insert(form);
            (text, (what, source, first))
        })
        .collect();
    let all: Vec<_> = unique.iter().collect();
    let found: Vec<String> = architectures()
        .iter()
        .flat_map(|arch| all.iter().map(move |kernel| (arch, kernel)))
        .collect::<Vec<_>>()
        .par_iter()
        .flat_map(|(arch, (text, (what, source, read)))| {
            let faults = match nvrtc.compile(text, arch) {
                Ok(cubin) if *read => {
                    let promises = broken_promises(source, &cubin);
                    spills(&cubin).into_iter().chain(promises).collect()
                }
                Ok(cubin) => spills(&cubin).into_iter().collect(),
                Err(error) => vec![error.to_string()],
            };
            let named = |fault| format!("{what} ({arch}): {fault}");
            faults.into_iter().map(named).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
