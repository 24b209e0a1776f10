//! The readers of files that may come from anywhere, on damaged ones: the fuzz targets, here on any compiler and with
//! mutations that a seed fixes. A few hundred each, or as many as FUZZ_SECONDS allow. What was found is kept in
//! fuzz/found/<target>/ and tried first.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/readers.rs"]
#[allow(
    dead_code,
    reason = "templates are rendered in a process of their own here"
)]
mod readers;

use compiler::{Options, checkpoint::Checkpoint};
use ir::random::Source;
use runtime::devices::cpu;
use satura::{chat::Message, compiler, ir, runtime};
use std::{
    collections::BTreeMap,
    env, fs,
    io::{Cursor, Write},
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Mutations of each target where no time is given.
const RUNS: usize = 300;

/// What numbers in files are confused by.
const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1e308",
    "18446744073709551615",
    "9223372036854775807",
    "4294967296",
    "16777216",
    "65536",
    "0.5",
    "null",
];

/// Words that templates and graphs are made of.
const WORDS: [&str; 16] = [
    "{% for i in range(9999) %}",
    "{% endfor %}",
    "{{ messages | tojson }}",
    "{% macro f() %}{{ f() }}{% endmacro %}",
    "{% set ns.x = 1 %}",
    " * 999999999",
    "| list",
    "| join",
    "| indent(9999)",
    "[::-1]",
    "loop",
    "(",
    "[",
    "f32[T,8]",
    "%0",
    "graph g() {",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Changes a file in a few places inside `range`.
fn mutated(file: &[u8], range: Range<usize>, seeds: &[Vec<u8>], random: &mut Source) -> Vec<u8> {
    let mut out = file.to_vec();
    for _ in 0..=random.below(4) {
        let end = range.end.min(out.len()).max(range.start.min(out.len()));
        let at = range.start.min(end) + random.below((end - range.start.min(end)).max(1));
        let at = at.min(out.len());
        let some = (at + random.below(16)).min(out.len());
        let word = |words: &[&str], random: &mut Source| {
            words[random.below(words.len())].as_bytes().to_vec()
        };
        match random.below(8) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 if at < out.len() => out[at] = random.bits() as u8,
            2 => drop(out.splice(at..some, [])),
            3 => {
                let part = out[at..some].to_vec();
                drop(out.splice(at..at, part));
            }
            4 => drop(out.splice(at..at, word(&WORDS, random))),
            // A number becomes another.
            5 | 6 => {
                let digit = |b: &u8| b.is_ascii_digit();
                let Some(first) = out[at..].iter().position(digit).map(|i| at + i) else {
                    continue;
                };
                let len = out[first..].iter().take_while(|b| digit(b)).count();
                drop(out.splice(first..first + len, word(&NUMBERS, random)));
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len().max(1));
                let part = other[from..].iter().take(1 + random.below(64)).copied();
                let part: Vec<u8> = part.collect();
                drop(out.splice(at..some, part));
            }
        }
    }
    out
}

/// Tries a reader on what was found before, on `seeds`, and on mutations of them inside `range`.
fn fuzz(name: &str, reader: fn(&[u8]), seeds: &[Vec<u8>], range: Range<usize>) {
    for (file, input) in of_folder(&format!("fuzz/found/{name}")) {
        println!("{}", file.display());
        reader(&input);
    }
    seeds.iter().for_each(|seed| reader(seed));
    let seconds = env::var("FUZZ_SECONDS").ok().map(|s| s.parse().unwrap());
    let start = Instant::now();
    let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
    for run in 0.. {
        match seconds {
            Some(seconds) if start.elapsed() > Duration::from_secs(seconds) => {
                return println!("{name}: {run} runs");
            }
            None if run == RUNS => return,
            _ => {}
        }
        let mut random = Source::new(run as u64);
        let seed = &seeds[random.below(seeds.len())];
        let input = mutated(seed, range.clone(), seeds, &mut random);
        // What kills the process can be read there.
        fs::write(&last, &input).unwrap();
        let began = Instant::now();
        reader(&input);
        // No time is asserted; who fuzzes wants to know.
        if began.elapsed() > Duration::from_secs(5) {
            let kept = last.with_extension(run.to_string());
            println!("{name}: {} took {:?}", kept.display(), began.elapsed());
            fs::write(kept, &input).unwrap();
        }
    }
}

/// The files of a folder, none where it is not there.
fn of_folder(folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(root().join(folder)).into_iter().flatten();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// Files of this name in all fixtures.
fn of_fixtures(name: &str) -> Vec<Vec<u8>> {
    let mut folders: Vec<PathBuf> = fs::read_dir(root().join("tests/fixtures"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    folders
        .iter()
        .filter_map(|folder| fs::read(folder.join(name)).ok())
        .collect()
}

#[test]
fn safetensors() {
    let seeds = [fs::read(root().join("tests/fixtures/llama_odd/model.safetensors")).unwrap()];
    // The header says its length.
    let header = u64::from_le_bytes(seeds[0][..8].try_into().unwrap()) as usize;
    fuzz("safetensors", readers::safetensors, &seeds, 0..8 + header);
}

#[test]
fn config() {
    fuzz(
        "config",
        readers::config,
        &of_fixtures("config.json"),
        0..usize::MAX,
    );
}

/// A chat template as the command line renders it: in a process that may run into its limits, but not panic.
fn rendered(data: &[u8]) {
    let Ok(template) = std::str::from_utf8(data) else {
        return;
    };
    let chat = ir::Chat {
        template: template.into(),
        tokens: vec![("eos_token".into(), "</s>".into())],
    };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "é?"),
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_satura"))
        .arg("render-template")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let input = serde_json::to_vec(&(chat, messages)).unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let status = child.wait().unwrap();
    assert!(
        matches!(status.code(), None | Some(0 | 1)),
        "{status}: {template}"
    );
}

#[test]
fn template() {
    let seeds: Vec<Vec<u8>> = of_folder("fuzz/templates").into_values().collect();
    fuzz("template", rendered, &seeds, 0..usize::MAX);
}

#[test]
fn artifact() {
    let checkpoint = Checkpoint::open(&root().join("tests/fixtures/llama_odd")).unwrap();
    let options = Options::new(cpu::host());
    let out = Cursor::new(vec![]);
    let out = compiler::compile(&checkpoint, &options, out, &|_, _, _| {}).unwrap();
    let seeds = [out.into_inner()];
    let header = ir::artifact::Header::decode(&seeds[0], seeds[0].len() as u64).unwrap();
    let manifest = header.sections.manifest.offset as usize;
    fuzz("artifact", readers::artifact, &seeds, manifest..usize::MAX);
}

#[test]
fn text() {
    let mut seeds: Vec<Vec<u8>> = of_folder("tests/ir").into_values().collect();
    seeds.extend((0..4).map(|seed| ir::random::graph(seed, 12).to_string().into_bytes()));
    fuzz("text", readers::text, &seeds, 0..usize::MAX);
}
