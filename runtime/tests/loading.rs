//! What `Model` accepts, and that everything else is refused in words that name the fault.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{CODE, artifact, decoder, port, row};
use ir::{
    DType,
    artifact::{Base, Header, Manifest, Section, Sections},
    feed,
};
use runtime::{Chunk, Error, Model, Options, Select, Session};

fn sections(bytes: &[u8]) -> Sections {
    Header::decode(bytes, bytes.len() as u64).unwrap().sections
}

/// Checks that loading `bytes` and making a session of it fails, in words that include `words`, through a file and
/// through memory.
fn refused(bytes: &[u8], words: &[&str]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let path = file.path().display().to_string();
    for (model, origin) in [
        (Model::open(file.path()), &*path),
        (Model::from_bytes(bytes.to_vec()), "artifact in memory"),
    ] {
        let message = match model {
            Ok(model) => Session::new(&model, Options::default())
                .unwrap_err()
                .to_string(),
            Err(error) => {
                let message = error.to_string();
                assert!(
                    message.contains(origin),
                    "{message:?} does not name {origin:?}"
                );
                message
            }
        };
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }
}

/// Checks the refusal of the decoder with a changed manifest.
fn refused_manifest(change: impl FnOnce(&mut Manifest), words: &[&str]) {
    let mut manifest = decoder();
    change(&mut manifest);
    refused(&artifact(&manifest), words);
}

#[test]
fn a_file_and_memory_load_alike() {
    let bytes = artifact(&decoder());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let mut models = vec![
        Model::open(file.path()).unwrap(),
        Model::from_bytes(bytes.clone()).unwrap(),
    ];
    // Built into a program, at whatever address.
    for start in [0, 1, 48] {
        let copy: &'static [u8] = [vec![0; start], bytes.clone()].concat().leak();
        models.push(Model::from_bytes(&copy[start..]).unwrap());
    }
    for model in models {
        assert_eq!(*model.manifest(), decoder());
        assert_eq!(model.tokenizer_json(), b"{\"tokenizer\": 1}");
        let mut session = Session::new(&model, Options::default()).unwrap();
        let chunk = Chunk {
            sequence: 0,
            tokens: &[3, 4],
            positions: None,
        };
        let logits = session.step(&[chunk], Select::Last).unwrap();
        assert_eq!(logits.data, row(&[3, 4], 1, 4, 2));
    }
}

#[test]
fn flipped_bits_are_found_wherever_they_are() {
    let bytes = artifact(&decoder());
    let s = sections(&bytes);
    let inside = |s: Section| [s.offset, s.offset + s.len / 2, s.offset + s.len - 1];
    let flipped = |at: u64, words: &[&str]| {
        for bit in [0, 7] {
            let mut bytes = bytes.clone();
            bytes[at as usize] ^= 1 << bit;
            refused(&bytes, words);
        }
    };
    flipped(0, &["not a satura artifact"]);
    flipped(7, &["not a satura artifact"]);
    flipped(
        8,
        &[
            "format version",
            &format!("this build reads {}", ir::artifact::FORMAT_VERSION),
            "compile the model again",
        ],
    );
    flipped(
        12,
        &[
            "kernel ABI version",
            &format!("this build reads {}", ir::abi::ABI_VERSION),
            "compile the model again",
        ],
    );
    // The header's sections and its own digest.
    for at in [16, 24, 100, 207, 208, 239] {
        flipped(at, &["damaged: the header has digest"]);
    }
    for (name, section) in [
        ("weights", s.weights),
        ("code", s.code),
        ("tokenizer", s.tokenizer),
        ("manifest", s.manifest),
    ] {
        for at in inside(section) {
            flipped(
                at,
                &[
                    &format!("damaged: the {name} has digest"),
                    "the header says",
                ],
            );
        }
    }
}

#[test]
fn truncated_files_are_refused() {
    let bytes = artifact(&decoder());
    let s = sections(&bytes);
    refused(&[], &["not a satura artifact"]);
    refused(&bytes[..7], &["not a satura artifact"]);
    refused(
        &bytes[..8],
        &["truncated", "the header", "0..4096 of a file of 8 bytes"],
    );
    refused(&bytes[..4095], &["truncated", "the header"]);
    for (name, end) in [
        ("the weights", 4096),
        ("the code", s.weights.offset + s.weights.len),
        ("the tokenizer", s.code.offset + s.code.len),
        ("the manifest", bytes.len() as u64 - 1),
    ] {
        let end = end as usize;
        refused(
            &bytes[..end],
            &["truncated", name, &format!("a file of {end} bytes")],
        );
    }
}

#[test]
fn a_manifest_of_other_bytes_does_not_parse() {
    let mut bytes = artifact(&decoder());
    let mut sections = sections(&bytes);
    // A whole file, only that the manifest is the tokenizer.
    sections.manifest = sections.tokenizer;
    bytes[..4096].copy_from_slice(&Header { sections }.encode());
    refused(
        &bytes,
        &["the manifest does not parse", "compile the model again"],
    );
}

#[test]
fn another_machine_is_refused_with_both_sides() {
    refused_manifest(
        |m| _ = m.images[0].target.features.insert("avx9000".into()),
        &[
            "x86_64 with avx9000, sse3",
            "this machine, ",
            "lacks avx9000;",
            "--target native",
        ],
    );
    refused_manifest(
        |m| m.images[0].target.arch = "mips".into(),
        &["compiled for mips", "this machine, x86"],
    );
}

#[test]
fn plans_beyond_their_artifact_are_refused() {
    // Written around `Writer`, which would refuse them too.
    let forged = |change: &dyn Fn(&mut Manifest), words: &[&str]| {
        let mut manifest = decoder();
        change(&mut manifest);
        let mut bytes = artifact(&decoder());
        let mut sections = sections(&bytes);
        let encoded = postcard::to_stdvec(&manifest).unwrap();
        bytes.truncate(sections.manifest.offset as usize);
        bytes.extend_from_slice(&encoded);
        sections.manifest.len = encoded.len() as u64;
        sections.manifest.digest = *blake3::hash(&encoded).as_bytes();
        bytes[..4096].copy_from_slice(&Header { sections }.encode());
        refused(&bytes, words);
    };
    let code = CODE.len() as u64;
    forged(
        &|m| m.images[0].kernels[1].0[0].entry = code,
        &["launch sum: entry", &format!("{code} is beyond {code}")],
    );
    forged(
        &|m| m.plan.launches[1].kernel = 2,
        &["launch sum: kernel 2 is beyond 2"],
    );
    forged(
        &|m| m.images[0].offset = 1,
        &["code up to", &format!("{} is beyond", code + 1)],
    );
    forged(
        &|m| m.images[0].kernels[0].0[0].rows = 7,
        &["launch store: a step of any size", "is beyond 7"],
    );
    forged(
        &|m| m.plan.states.clear(),
        &["launch store: state 0 is beyond 0"],
    );
    forged(
        &|m| m.plan.launches[1].operands[6].offset = 68,
        &["launch sum: weights offset 68 is beyond 68"],
    );
    forged(
        &|m| m.plan.layers[0].end = 3,
        &["layer all: end 3 is beyond 3"],
    );
    forged(
        &|m| m.plan.layers[0].results[0].place.base = Base::Output(1),
        &["layer all: output 1 is beyond 1"],
    );
    forged(
        &|m| {
            let mut before = m.plan.layers[0].clone();
            (before.name, before.end) = ("second".into(), 1);
            m.plan.layers.push(before);
        },
        &["layer second: end of the one before 2 is beyond 2"],
    );
}

#[test]
fn plans_that_no_session_can_run_are_refused() {
    refused_manifest(
        |m| m.plan.inputs.push(port("pixels", DType::I32, feed::T, 0)),
        &["input pixels: i32[T]", "tokens: i32[T]", "ends: i32[B]"],
    );
    refused_manifest(
        |m| m.plan.inputs[0].ty.dtype = DType::F32,
        &["input tokens: f32[T]", "tokens: i32[T]"],
    );
    refused_manifest(
        |m| m.plan.outputs[0].ty.dtype = DType::BF16,
        &["output logits: bf16[L,4]", "f32[L, n]"],
    );
    refused_manifest(
        |m| m.plan.symbols[0].name = "X".into(),
        &["symbol X", "T, L, B, R"],
    );
}

#[test]
fn missing_files_are_named() {
    for (path, words) in [
        ("/nonexistent/model.satura", "No such file"),
        ("/", "not a file"),
    ] {
        let error = Model::open(path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
        let message = error.to_string();
        assert!(
            message.starts_with(path) && message.contains(words),
            "{message}"
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn no_memory_is_writable_and_executable() {
    let model = Model::from_bytes(artifact(&decoder())).unwrap();
    let _session = Session::new(&model, Options::default()).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let rights = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_string();
    let anonymous_code = |line: &str| rights(line) == "r-xp" && !line.contains(['/', '[']);
    assert!(
        maps.lines().any(anonymous_code),
        "the code is nowhere in\n{maps}"
    );
    for line in maps.lines() {
        assert!(
            !(rights(line).contains('w') && rights(line).contains('x')),
            "{line}"
        );
    }
}
