//! `satura doctor`: what this machine has and what is used of it, and why. Opens no model.

use super::{bytes, print_json};
use satura::{
    Cache,
    compiler::backends::cuda::Nvrtc,
    ir::Target,
    nvrtc,
    runtime::{
        devices::{cpu, cuda},
        kernels, pool,
    },
};
use serde_json::json;
use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

/// Show what this machine has, what satura uses of it, and why
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let host = cpu::host();
    let level = Target::level(&host.arch, |f| host.has(f));
    let level = level.map_or_else(
        || format!("{}, no named level", host.arch),
        |l| l.to_string(),
    );
    let tables: Vec<&str> = kernels::tables()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let hardware = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = pool::default_threads();
    let memory = memory();
    let cache = Cache::of_user();
    let model = processor();
    let gpu = cuda::gpu();
    let nvrtc = nvrtc::find(None);

    if args.json {
        print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": {
                "model": model,
                "arch": host.arch,
                "features": host.features,
                "level": level,
                "hardware_threads": hardware,
                "default_threads": threads,
                "kernels": { "used": tables.first(), "available": tables },
            },
            "memory_bytes": memory,
            "cache": cache.as_ref().map(|cache| {
                let (artifacts, bytes) = cache.size();
                json!({
                    "folder": cache.folder().display().to_string(),
                    "artifacts": artifacts,
                    "bytes": bytes,
                    "problem": problem(cache.folder()),
                })
            }),
            "gpu": match &gpu {
                Ok(gpu) => json!({
                    "name": gpu.name,
                    "compute_capability": format!("{}.{}", gpu.capability.0, gpu.capability.1),
                    "target": gpu.target().features.first(),
                    "driver_cuda": format!("{}.{}", gpu.driver.0, gpu.driver.1),
                    "memory_bytes": gpu.memory,
                    "free_bytes": gpu.free,
                }),
                Err(why) => json!({ "problem": why.to_string() }),
            },
            "nvrtc": match &nvrtc {
                Ok(found) => json!({ "version": version(found) }),
                Err(why) => json!({ "problem": why.to_string() }),
            },
        }))?;
        return Ok(ExitCode::SUCCESS);
    }

    let features: Vec<&str> = host.features.iter().map(String::as_str).collect();
    let used = tables.first().copied().unwrap_or_default();
    let why = match tables.get(1..) {
        Some([_, ..]) => format!(
            "the fastest of {}, which this CPU all has",
            tables.join(", ")
        ),
        _ => "the only ones that this CPU runs: it lacks AVX2, FMA or F16C".into(),
    };
    let cache = match &cache {
        None => {
            "none: neither SATURA_CACHE, XDG_CACHE_HOME nor HOME is set; each run compiles".into()
        }
        Some(cache) => {
            let (artifacts, size) = cache.size();
            let problem =
                problem(cache.folder()).map_or(String::new(), |p| format!("; not usable: {p}"));
            let folder = cache.folder().display();
            format!(
                "{folder}, {artifacts} compiled models, {}{problem}",
                bytes(size)
            )
        }
    };
    let rows = [
        ("satura", env!("CARGO_PKG_VERSION").to_string()),
        ("CPU", model.unwrap_or_else(|| "unknown".into())),
        ("features", features.join(" ")),
        (
            "compiles for",
            format!("{level} and above, by the features (--target native)"),
        ),
        ("kernels", format!("{used}: {why}")),
        (
            "threads",
            format!("{threads} by default, one a core; {hardware} hardware threads are available"),
        ),
        ("memory", memory.map_or("unknown".into(), bytes)),
        ("cache", cache),
        (
            "GPU",
            gpu.map_or_else(
                |why| why.to_string(),
                |gpu| about(&gpu, nvrtc.as_ref().ok()),
            ),
        ),
        (
            "NVRTC",
            nvrtc.map_or_else(
                |why| why.to_string(),
                |found| format!("{}: compiles for GPUs (--device cuda)", version(&found)),
            ),
        ),
    ];
    let mut out = io::stdout().lock();
    for (name, value) in rows {
        writeln!(out, "{name:<13} {value}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A GPU in a line, and whether what is compiled here runs on it.
fn about(gpu: &cuda::Gpu, nvrtc: Option<&Nvrtc>) -> String {
    let (free, memory, (major, minor)) = (bytes(gpu.free), bytes(gpu.memory), gpu.driver);
    let mut text = format!("{gpu}, {free} of {memory} free, driver for CUDA {major}.{minor}");
    if gpu.target().features.is_empty() {
        text += "; no code is generated for it: models run on the processor";
    }
    if nvrtc.is_some_and(|found| found.version().0 > major.unsigned_abs()) {
        text += "; older than NVRTC, whose code it may refuse: update NVIDIA's driver, or install NVRTC of its version";
    }
    text
}

fn version(nvrtc: &Nvrtc) -> String {
    let (major, minor) = nvrtc.version();
    format!("{major}.{minor}")
}

/// The processor's name, as the system tells it.
fn processor() -> Option<String> {
    let about = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = about.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

/// The machine's memory in bytes.
fn memory() -> Option<u64> {
    let about = fs::read_to_string("/proc/meminfo").ok()?;
    let line = about.lines().find(|line| line.starts_with("MemTotal"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Why nothing can be kept in `folder`; asks the nearest folder that exists.
fn problem(folder: &Path) -> Option<String> {
    let there = folder.ancestors().find(|p| p.exists())?;
    let failed = |e: io::Error| format!("{}: {e}", there.display());
    tempfile::tempfile_in(there).err().map(failed)
}
