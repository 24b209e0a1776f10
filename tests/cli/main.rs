//! The command line as its users meet it: the built program, its output, its exit codes. References are the fixtures'
//! expected outputs; a word-level tokenizer made here turns their token ids into text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod budget;
#[cfg(unix)]
mod disks;
mod files;
mod generation;
mod gpu;
mod hub;
mod inputs;
mod measure;
mod planted;
mod refusals;
mod verify;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/docs-llama-4m");

/// What a run of the program left behind.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn json(&self) -> Value {
        assert_eq!((self.code, &*self.err), (Some(0), ""), "{self:?}");
        let value: Value = serde_json::from_str(&self.out).unwrap();
        assert!(value.is_object(), "{value}");
        value
    }
}

fn command(args: &[&str], cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_satura"));
    command.args(args).env("SATURA_CACHE", cache);
    command.stdin(Stdio::null());
    command
}

fn satura_with(args: &[&str], cache: &Path) -> Run {
    let done = command(args, cache).output().unwrap();
    let run = Run {
        code: done.status.code(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    };
    assert!(!run.err.contains("panicked"), "{args:?}: {run:?}");
    for text in [&run.out, &run.err] {
        assert!(
            !text.contains('\x1b'),
            "{args:?}: an escape code in {text:?}"
        );
    }
    run
}

/// With a cache that all tests share.
fn satura(args: &[&str]) -> Run {
    satura_with(
        args,
        &Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache"),
    )
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A copy of a model's files that may be damaged.
fn copy(from: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let name = file.file_name();
        let wanted = [".json", "model.safetensors", "-of-00003.safetensors"];
        if wanted.iter().any(|w| name.to_str().unwrap().ends_with(w)) {
            fs::copy(file.path(), dir.path().join(name)).unwrap();
        }
    }
    dir
}

/// Replaces text in a file, which must have it.
fn edit(dir: &Path, file: &str, from: &str, to: &str) {
    let path = dir.join(file);
    let content = fs::read_to_string(&path).unwrap();
    assert!(content.contains(from), "{from:?} in {content}");
    fs::write(path, content.replace(from, to)).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The word for each token: `w7`, but for the given ones.
fn word(id: usize, special: &[(usize, &str)]) -> String {
    let found = special.iter().find(|(i, _)| *i == id);
    found.map_or_else(|| format!("w{id}"), |(_, word)| word.to_string())
}

/// tokenizer.json of a model whose tokens are words.
fn tokenizer(vocabulary: usize, special: &[(usize, &str)]) -> String {
    let vocab: serde_json::Map<String, Value> = (0..vocabulary)
        .map(|id| (word(id, special), json!(id)))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
    })
    .to_string()
}

/// A fixture with a tokenizer, and its reference outputs.
struct Case {
    dir: TempDir,
    expected: Vec<u8>,
    special: Vec<(usize, &'static str)>,
}

impl Case {
    fn new(name: &str, special: &[(usize, &'static str)]) -> Case {
        let dir = copy(&fixture(name));
        let config = fs::read(dir.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let vocabulary = config["vocab_size"].as_u64().unwrap() as usize;
        let json = tokenizer(vocabulary, special);
        fs::write(dir.path().join("tokenizer.json"), json).unwrap();
        Case {
            dir,
            expected: fs::read(fixture(name).join("expected.safetensors")).unwrap(),
            special: special.into(),
        }
    }

    fn path(&self) -> &str {
        text(self.dir.path())
    }

    /// Rows of an integer tensor.
    fn ids(&self, name: &str) -> Vec<Vec<usize>> {
        let file = SafeTensors::deserialize(&self.expected).unwrap();
        let tensor = file.tensor(name).unwrap();
        let ids = tensor
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()));
        let ids: Vec<usize> = ids.map(|id| id as usize).collect();
        ids.chunks(tensor.shape()[1]).map(<[_]>::to_vec).collect()
    }

    /// The last axis of the first row of a batch.
    fn first(&self, name: &str) -> Vec<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.expected).unwrap();
        let tensor = file.tensor(name).unwrap();
        let width = *tensor.shape().last().unwrap();
        let row: usize = tensor.shape()[1..].iter().product();
        let data = tensor
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let data: Vec<f32> = data.take(row).collect();
        data.chunks(width).map(<[_]>::to_vec).collect()
    }

    /// The tokens of the first row that are not padding.
    fn tokens(&self) -> Vec<usize> {
        let ids = self.ids("input_ids").remove(0);
        let file = SafeTensors::deserialize(&self.expected).unwrap();
        match file.names().contains(&"attention_mask") {
            true => {
                let mask = self.ids("attention_mask").remove(0);
                ids.into_iter()
                    .zip(mask)
                    .filter(|(_, m)| *m == 1)
                    .map(|(id, _)| id)
                    .collect()
            }
            false => ids,
        }
    }

    fn text(&self, ids: &[usize]) -> String {
        let words: Vec<String> = ids.iter().map(|id| word(*id, &self.special)).collect();
        words.join(" ")
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

fn best(scores: &[f64]) -> (usize, f64) {
    let each = scores.iter().copied().enumerate();
    each.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
}

fn close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
}

#[test]
fn the_default_model_talks() {
    let run = satura(&["run", "-n", "12"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.out.starts_with("The socket module provides access to"),
        "{run:?}"
    );
    assert!(
        run.err.contains("tokens/s") && run.err.contains("prefill"),
        "{run:?}"
    );

    let args = [
        "run",
        "-p",
        "Files are opened",
        "-n",
        "12",
        "--ignore-eos",
        "--json",
    ];
    let found = satura(&args).json();
    let result = &found["results"][0];
    assert_eq!(result["tokens"].as_array().unwrap().len(), 12, "{found}");
    assert_eq!(result["finish"], "length");
    let plain = satura(&args[..6]);
    let continued = result["text"].as_str().unwrap();
    assert_eq!(
        plain.out,
        format!("Files are opened{continued}\n"),
        "streamed and whole text differ"
    );
    for key in [
        "load_ms",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "first_token_ms",
    ] {
        assert!(
            found[key].as_f64().is_some_and(|x| x > 0.0),
            "{key} of {found}"
        );
    }
}

#[test]
fn sampling_follows_the_seed() {
    let sampled = |seed: &str, temp: &str| {
        let args = [
            "run", "-n", "24", "--temp", temp, "--top-k", "50", "--top-p", "0.95", "--seed", seed,
            "--json",
        ];
        satura(&args).json()["results"][0]["tokens"].clone()
    };
    assert_eq!(sampled("1", "1.0"), sampled("1", "1.0"));
    assert_ne!(sampled("1", "1.0"), sampled("2", "1.0"));
    assert_eq!(sampled("1", "0"), sampled("2", "0"));
}

#[test]
fn continuations_are_the_references() {
    for name in ["llama_gqa", "llama_tied_llama3"] {
        let case = Case::new(name, &[]);
        let greedy = case.ids("greedy");
        let prompts: Vec<String> = case
            .ids("input_ids")
            .iter()
            .map(|ids| case.text(ids))
            .collect();
        let mut args = vec!["run", case.path(), "-n", "16", "--ignore-eos", "--json"];
        prompts
            .iter()
            .for_each(|prompt| args.extend(["-p", prompt]));
        let found = satura(&args).json();
        for (row, greedy) in greedy.iter().enumerate() {
            assert_eq!(
                found["results"][row]["tokens"],
                json!(greedy),
                "{name}, row {row}"
            );
        }
    }
}

#[test]
fn tags_are_the_references() {
    let case = Case::new("bert_tokcls", &[]);
    let tokens = case.tokens();
    let input = case.text(&tokens);
    // Without prefixes, neighbours of one label are one entity.
    let mut expected: Vec<(usize, usize, String, Vec<f64>)> = vec![];
    let mut start = 0;
    for (id, logits) in tokens.iter().zip(case.first("logits")) {
        let end = start + word(*id, &[]).len();
        let (class, score) = best(&softmax(&logits));
        let label = format!("LABEL_{class}");
        match expected.last_mut() {
            Some((_, e, l, scores)) if *l == label => {
                *e = end;
                scores.push(score);
            }
            _ => expected.push((start, end, label, vec![score])),
        }
        start = end + 1;
    }
    let found = satura(&["run", case.path(), "-p", &input, "--json"]).json();
    assert_eq!(found["task"], "token-classification");
    let entities = found["results"][0]["entities"].as_array().unwrap();
    assert_eq!(entities.len(), expected.len(), "{found}");
    for (found, (start, end, label, scores)) in entities.iter().zip(&expected) {
        let place = json!([found["start"], found["end"], found["label"], found["text"]]);
        assert_eq!(place, json!([start, end, label, &input[*start..*end]]));
        close(
            &found["score"],
            scores.iter().sum::<f64>() / scores.len() as f64,
        );
    }
    let plain = satura(&["run", case.path(), "-p", &input]);
    let (start, end, label, _) = &expected[0];
    let marked = format!("[{}]({label})", &input[*start..*end]);
    assert!(plain.out.starts_with(&marked), "{plain:?}");
    assert_eq!(plain.out.lines().count(), 1 + expected.len(), "{plain:?}");
}

#[test]
fn classes_are_the_references() {
    let case = Case::new("roberta_seqcls", &[]);
    let input = case.text(&case.tokens());
    let scores = softmax(&case.first("logits")[0]);
    let found = satura(&["run", case.path(), "-p", &input, "--json"]).json();
    let labels = found["results"][0]["labels"].as_array().unwrap();
    assert_eq!(labels.len(), scores.len());
    assert_eq!(
        labels[0]["label"],
        format!("LABEL_{}", best(&scores).0),
        "{found}"
    );
    close(&labels[0]["score"], best(&scores).1);

    // Classes that do not exclude each other have probabilities of their own.
    let logits = case.first("logits").remove(0);
    let file = "config.json";
    edit(
        case.dir.path(),
        file,
        "{",
        r#"{"problem_type": "multi_label_classification","#,
    );
    let found = satura(&["run", case.path(), "-p", &input, "--json"]).json();
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let expected = 1.0 / (1.0 + f64::from(-highest).exp());
    close(&found["results"][0]["labels"][0]["score"], expected);
}

#[test]
fn masks_are_filled_as_by_the_reference() {
    let plain = Case::new("bert_mlm", &[]);
    let (tokens, types) = (plain.tokens(), plain.ids("token_type_ids").remove(0));
    let (first, masked) = (
        types.iter().position(|t| *t == 1).unwrap(),
        tokens.len() - 2,
    );
    let special = [(tokens[masked], "[MASK]")];
    let case = Case::new("bert_mlm", &special);
    // The tokens of type 0 come from the template, as `[CLS]` would; those of type 1 are the text.
    let words: Vec<String> = tokens[..first]
        .iter()
        .map(|id| word(*id, &special))
        .collect();
    let mut template: Vec<Value> = words
        .iter()
        .map(|word| json!({ "SpecialToken": { "id": word, "type_id": 0 } }))
        .collect();
    template.push(json!({ "Sequence": { "id": "A", "type_id": 1 } }));
    let known = tokens.iter().zip(&words);
    let known = known.map(|(id, word)| {
        (
            word.clone(),
            json!({ "id": word, "ids": [id], "tokens": [word] }),
        )
    });
    let path = case.dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": template,
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": known.collect::<serde_json::Map<_, _>>(),
    });
    fs::write(&path, json.to_string()).unwrap();

    let (class, score) = best(&softmax(&plain.first("logits")[masked]));
    let input = case.text(&tokens[first..]);
    let found = satura(&["run", case.path(), "-p", &input, "--json"]).json();
    let masks = found["results"][0]["masks"].as_array().unwrap();
    let mask = masks.iter().find(|m| m["token_index"] == masked).unwrap();
    assert_eq!(mask["candidates"][0]["id"], class, "{found}");
    close(&mask["candidates"][0]["score"], score);
    let none = Case::new("bert_mlm", &[(5, "[MASK]")]);
    let none = satura(&["run", none.path(), "-p", "w1 w2"]);
    assert!(
        none.code == Some(1) && none.err.contains("[MASK]"),
        "{none:?}"
    );
}

#[test]
fn embeddings_have_their_width() {
    let case = Case::new("bert_model", &[]);
    let found = satura(&["run", case.path(), "-p", "w5 w6 w7", "--json"]).json();
    let result = &found["results"][0];
    assert_eq!(
        result["last_hidden_state"].as_array().unwrap().len(),
        3,
        "{found}"
    );
    assert_eq!(
        result["pooler_output"].as_array().unwrap().len(),
        case.first("pooler_output")[0].len()
    );
}

#[test]
fn inputs_come_from_files_too() {
    let case = Case::new("llama_gqa", &[]);
    let file = case.dir.path().join("lines");
    fs::write(&file, "w5 w6\n\nw7\n").unwrap();
    let args = [
        "run",
        case.path(),
        "-p",
        "w4",
        "--file",
        text(&file),
        "-n",
        "1",
        "--json",
    ];
    let found = satura(&args).json();
    let prompts: Vec<&Value> = found["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["prompt"])
        .collect();
    assert_eq!(json!(prompts), json!(["w4", "w5 w6", "w7"]));
}

#[test]
fn models_are_inspected() {
    let found = satura(&["inspect", text(&fixture("llama_gqa")), "--json"]).json();
    assert_eq!(found["supported"], true);
    assert_eq!(found["parameters"], 177_984);
    // Keys and values of 3 layers, 2 heads of 16, in f32.
    assert_eq!(found["memory_bytes"]["cache_per_token"], 2 * 3 * 2 * 16 * 4);
    for (stage, word) in [
        ("built", "rms_norm"),
        ("optimized", "gemm"),
        ("scheduled", "attention"),
    ] {
        let run = satura(&["inspect", text(&fixture("llama_gqa")), "--stage", stage]);
        assert!(
            run.code == Some(0) && run.out.contains(word),
            "{stage}: {run:?}"
        );
    }
    let dir = copy(&fixture("llama_gqa"));
    edit(
        dir.path(),
        "config.json",
        "LlamaForCausalLM",
        "NovelForCausalLM",
    );
    let refused = || {
        let run = satura(&["inspect", text(dir.path()), "--json"]);
        let found: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!((run.code, &found["supported"]), (Some(1), &json!(false)));
        let why = found["why"].as_str().unwrap();
        assert!(why.contains("`NovelForCausalLM` is not supported"), "{why}");
    };
    refused();
    // From config.json alone.
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    refused();
}

#[test]
fn the_doctor_knows_the_machine() {
    let found = satura(&["doctor", "--json"]).json();
    assert_eq!(found["cpu"]["arch"], std::env::consts::ARCH);
    // Either what there is, or why there is nothing.
    for part in ["gpu", "nvrtc"] {
        let said = found[part]["problem"].as_str();
        let about = found[part].as_object().map_or(0, |part| part.len());
        assert!(
            said.is_none_or(|why| !why.is_empty()) && about > 0,
            "{found}"
        );
    }
    assert_eq!(found["cache"]["problem"], Value::Null);
    let run = satura(&["doctor"]);
    assert!(
        run.code == Some(0) && run.out.contains("kernels"),
        "{run:?}"
    );
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let case = Case::new("llama_gqa", &[]);
    let lines = case.dir.path().join("lines");
    fs::write(&lines, "w1\n".repeat(200)).unwrap();
    let args = [
        "run",
        case.path(),
        "--file",
        text(&lines),
        "-n",
        "4",
        "--ignore-eos",
    ];
    let cache = case.dir.path().join("cache");
    let mut child = command(&args, &cache)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(
        done.status.success() && !err.contains("panicked") && !err.contains("error"),
        "{err}"
    );
}
