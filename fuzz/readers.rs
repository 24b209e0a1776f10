//! What is fuzzed: each function hands bytes to a reader of files that may come from anywhere. It may refuse them in
//! words; it must not panic, hang, or take memory without bounds. Used by libFuzzer (targets/) and by tests/fuzz.rs.

use satura::{
    chat::{self, Message},
    compiler::{
        checkpoint::{Checkpoint, Config},
        models,
    },
    ir::{
        Chat, Graph, Program,
        artifact::{Header, Section},
    },
    runtime::{Model, Options, Session},
};
use std::{borrow::Cow, path::Path};

/// A decoder of a few weights.
const CONFIG: &[u8] = include_bytes!("../tests/fixtures/llama_odd/config.json");

/// Its weights.
const WEIGHTS: &[u8] = include_bytes!("../tests/fixtures/llama_odd/model.safetensors");

/// The weights of a checkpoint, and all that is done with them before they are computed with.
pub fn safetensors(data: &[u8]) {
    build(CONFIG, data);
}

/// A config.json: whether its model is supported, and whether these weights are its own.
pub fn config(data: &[u8]) {
    if let Ok(config) = Config::parse(Path::new("config.json"), data) {
        let _ = models::supported(&config).map_err(|e| e.to_string());
        build(data, WEIGHTS);
    }
}

/// A chat template, with a conversation. In this process, where long lists and values that hold themselves are known to
/// take memory and stack; the command line and tests/fuzz.rs render in one that has limits.
pub fn template(data: &[u8]) {
    let Ok(template) = std::str::from_utf8(data) else {
        return;
    };
    let chat = Chat {
        template: template.into(),
        tokens: vec![("eos_token".into(), "</s>".into())],
    };
    let messages = [
        Message::new("system", "Be brief."),
        Message::new("user", "é?"),
    ];
    let _ = chat::render(&chat, &messages).map_err(|e| e.to_string());
}

/// An artifact, up to a session that could run it. Its digests are made right first, or little else would be reached.
pub fn artifact(data: &[u8]) {
    let Ok(model) = Model::from_bytes(sealed(data.to_vec())).map_err(|e| e.to_string()) else {
        return;
    };
    let options = Options {
        threads: Some(1),
        ..Options::default()
    };
    let _ = Session::new(&model, options).map_err(|e| e.to_string());
}

/// A graph, and a program, as text: what is read prints, and reads as the same again.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(graph) = text.parse::<Graph>() {
        assert!(
            graph
                .to_string()
                .parse::<Graph>()
                .is_ok_and(|again| again.to_string() == graph.to_string())
        );
        graph.verify();
    }
    if let Ok(program) = text.parse::<Program>() {
        let printed = program.to_string();
        assert!(
            printed
                .parse::<Program>()
                .is_ok_and(|again| again.to_string() == printed)
        );
        program.verify();
    }
}

fn build(config: &[u8], weights: &[u8]) {
    let file = |name: &str, bytes: &[u8]| (name.to_string(), Cow::Owned(bytes.to_vec()));
    let files = [
        file(Config::FILE, config),
        file("model.safetensors", weights),
    ];
    let opened = Checkpoint::from_files(files).map_err(|e| e.to_string());
    if let Ok(checkpoint) = opened {
        let _ = checkpoint
            .check_finite(checkpoint.names())
            .map_err(|e| e.to_string());
        let _ = models::build(checkpoint.config(), &checkpoint).map_err(|e| e.to_string());
    }
}

/// The same with the digests that its parts now have.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let Ok(mut header) = Header::decode(&bytes, bytes.len() as u64) else {
        return bytes;
    };
    let parts = &mut header.sections;
    for part in [
        &mut parts.weights,
        &mut parts.code,
        &mut parts.tokenizer,
        &mut parts.manifest,
    ] {
        reseal(part, &bytes);
    }
    let header = header.encode();
    bytes[..header.len()].copy_from_slice(&header);
    bytes
}

fn reseal(section: &mut Section, file: &[u8]) {
    let end = section.offset.saturating_add(section.len);
    let (start, end) = (section.offset as usize, end as usize);
    if let Some(bytes) = file.get(start..end) {
        section.digest = *blake3::hash(bytes).as_bytes();
    }
}
