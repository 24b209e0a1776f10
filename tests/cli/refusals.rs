//! What the command line refuses: damaged models and requests that make no sense, each with a message that helps.

use super::{Case, copy, edit, fixture, satura, text, tokenizer};
use safetensors::{Dtype, tensor::TensorView};
use std::{fs, path::Path};

/// Changes the header of model.safetensors, which must stay as long as it is.
fn edit_header(dir: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = dir.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{from:?} in the header"));
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn bad_models_are_refused() {
    let check_of = |model: &str, what: &str, damage: &dyn Fn(&Path), words: &[&str]| {
        let dir = copy(&fixture(model));
        damage(dir.path());
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("m.satura");
        let compile = satura(&["compile", text(dir.path()), "-o", text(&output)]);
        let run = satura(&["run", text(dir.path()), "-p", "w1"]);
        for done in [compile, run] {
            assert_eq!(done.code, Some(1), "{what}: {done:?}");
            assert!(
                done.out.is_empty() && done.err.starts_with("error: "),
                "{what}: {done:?}"
            );
            for word in words {
                assert!(
                    done.err.contains(word),
                    "{what}: no {word:?} in {:?}",
                    done.err
                );
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{what}");
    };
    let check = |what: &str, damage: &dyn Fn(&Path), words: &[&str]| {
        check_of("llama_gqa", what, damage, words)
    };
    let config =
        |from: &'static str, to: &'static str| move |dir: &Path| edit(dir, "config.json", from, to);
    let weights = |change: fn(&mut Vec<u8>)| {
        move |dir: &Path| {
            let path = dir.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
    };

    check(
        "truncated weights",
        &weights(|b| b.truncate(b.len() - 100)),
        &["model.safetensors", "truncated"],
    );
    check(
        "header bomb",
        &weights(|b| b[..8].fill(0x7f)),
        &["model.safetensors", "header of"],
    );
    check(
        "flipped bit in the header",
        &weights(|b| b[9] ^= 0x20),
        &["model.safetensors"],
    );
    let nan = &weights(|b| {
        let last = b.len() - 2;
        b[last..].copy_from_slice(&0x7fc0u16.to_le_bytes());
    });
    check(
        "a weight that is no number",
        nan,
        &["model.safetensors", "NaN"],
    );
    check(
        "empty weights",
        &weights(Vec::clear),
        &["model.safetensors", "empty"],
    );
    let gone = |name: &'static str| move |dir: &Path| fs::remove_file(dir.join(name)).unwrap();
    check(
        "no weights",
        &gone("model.safetensors"),
        &["model.safetensors"],
    );
    check("no config", &gone("config.json"), &["config.json"]);
    let missing = &gone("model-00002-of-00003.safetensors");
    check_of(
        "llama_tied_llama3",
        "missing shard",
        missing,
        &["model-00002-of-00003.safetensors"],
    );
    check(
        "overlapping offsets",
        &|dir| edit_header(dir, "\"data_offsets\":[0,", "\"data_offsets\":[8,"),
        &["model.safetensors"],
    );
    check("broken config", &config("{", "{,"), &["config.json"]);
    check(
        "unknown architecture",
        &config("LlamaForCausalLM", "NovelForCausalLM"),
        &[
            "NovelForCausalLM",
            "supported are",
            "BertModel",
            "LlamaForCausalLM",
        ],
    );
    check(
        "wrong shape",
        &config("\"intermediate_size\": 176", "\"intermediate_size\": 160"),
        &["176", "160"],
    );
    check(
        "no heads",
        &config("\"num_attention_heads\": 4", "\"num_attention_heads\": 0"),
        &["num_attention_heads"],
    );
    check(
        "too many layers",
        &config(
            "\"num_hidden_layers\": 3",
            "\"num_hidden_layers\": 1000000000",
        ),
        &["num_hidden_layers"],
    );
    check(
        "another vocabulary",
        &config("\"vocab_size\": 307", "\"vocab_size\": 300"),
        &["vocab_size", "307", "300"],
    );
    let broken =
        |json: &'static str| move |dir: &Path| fs::write(dir.join("tokenizer.json"), json).unwrap();
    check(
        "broken tokenizer",
        &broken("{\"model\":"),
        &["tokenizer.json"],
    );
    check(
        "no tokenizer at all in it",
        &broken("[]"),
        &["tokenizer.json"],
    );
}

#[test]
fn bad_requests_are_refused() {
    let case = Case::new("llama_gqa", &[]);
    let model = case.path();
    let foreign = Case::new("llama_gqa", &[]);
    fs::write(
        foreign.dir.path().join("tokenizer.json"),
        tokenizer(400, &[]),
    )
    .unwrap();
    let mute = copy(&fixture("llama_gqa"));
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("m.satura");
    let file = folder.path().join("notes.txt");
    fs::write(&file, "mine").unwrap();
    let long = vec!["w1"; 65].join(" ");
    let below_file = file.join("m.satura");
    let nowhere = folder.path().join("none/m.satura");

    let check = |code: i32, args: &[&str], words: &[&str]| {
        let done = satura(args);
        assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
        assert!(
            done.out.is_empty() && done.err.starts_with("error: "),
            "{args:?}: {done:?}"
        );
        for word in words {
            assert!(
                done.err.contains(word),
                "{args:?}: no {word:?} in {:?}",
                done.err
            );
        }
    };
    check(1, &["run", model], &["no text", "-p"]);
    check(1, &["run", model, "-p", ""], &["prompt is empty"]);
    check(1, &["run", model, "-p", "  "], &["empty"]);
    check(
        1,
        &["run", model, "-p", &long],
        &["65 tokens", "context of 64"],
    );
    check(
        1,
        &["run", model, "-p", "w1", "--context", "65"],
        &["context", "65", "64"],
    );
    check(
        1,
        &["run", model, "-p", "w1", "--context", "0"],
        &["context", "0"],
    );
    check(
        1,
        &["run", model, "-p", "w1", "--threads", "0"],
        &["threads", "0"],
    );
    check(
        1,
        &["run", model, "-p", "w1", "--temp", "-1"],
        &["temperature", "-1"],
    );
    check(
        1,
        &["run", model, "-p", "w1", "--top-p", "0"],
        &["top_p", "0"],
    );
    check(
        1,
        &["run", model, "--file", text(&nowhere)],
        &["none/m.satura"],
    );
    check(
        1,
        &["run", foreign.path(), "-p", "w399"],
        &["399", "306", "different models"],
    );
    check(
        1,
        &["run", text(mute.path()), "-p", "w1"],
        &["no tokenizer.json"],
    );
    check(
        1,
        &["run", "none", "-p", "w1"],
        &["none", "no such file or directory"],
    );
    check(
        1,
        &["run", "org/model", "-p", "w1", "--offline"],
        &["org/model", "never fetched", "without --offline"],
    );
    check(
        1,
        &["run", text(&file), "-p", "w1"],
        &["notes.txt", "not a satura artifact"],
    );
    check(
        1,
        &["compile", text(&file), "-o", text(&artifact)],
        &["notes.txt", "model directory"],
    );
    check(
        1,
        &["compile", model, "-o", text(&nowhere)],
        &["none/m.satura", "No such file"],
    );
    check(
        1,
        &["compile", model, "-o", text(&below_file)],
        &["notes.txt/m.satura", "Not a directory"],
    );
    check(
        1,
        &["compile", model, "-o", text(&file)],
        &["notes.txt", "not an artifact"],
    );
    check(
        1,
        &["compile", model, "-o", text(folder.path())],
        &["not an artifact"],
    );
    check(
        1,
        &["explain", text(&file)],
        &["notes.txt", "not a satura artifact"],
    );
    check(
        1,
        &["inspect", text(&file)],
        &["notes.txt", "model directory"],
    );
    check(
        2,
        &["compile", model, "-o", text(&artifact), "--target", "z80"],
        &["z80", "x86-64-v3"],
    );
    check(2, &["compile", model], &["--output"]);
    check(2, &["run", model, "-n", "many"], &["many"]);
    check(2, &["walk"], &["walk"]);
    assert!(!artifact.exists());
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn tokens_that_a_model_does_not_have_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reference.safetensors");
    let check = |model: &str, ids: [i64; 3], words: &[&str]| {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let tensor = |dtype, data| TensorView::new(dtype, vec![1, 3], data).unwrap();
        let greedy = 5i64.to_le_bytes().repeat(3);
        let states = [0; 12];
        let tensors = [
            ("input_ids", tensor(Dtype::I64, &ids)),
            match model {
                "llama_gqa" => ("greedy", tensor(Dtype::I64, &greedy)),
                _ => ("pooler_output", tensor(Dtype::F32, &states)),
            },
        ];
        fs::write(&file, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let model = fixture(model);
        let run = satura(&["verify", text(&model), "--reference", text(&file)]);
        assert_eq!((run.code, &*run.out), (Some(1), ""), "{run:?}");
        for word in ["error: "].iter().chain(words) {
            assert!(run.err.contains(word), "no {word:?} in {run:?}");
        }
    };
    for (model, vocabulary) in [("llama_gqa", 307), ("bert_model", 301)] {
        let limit =
            format!("token {vocabulary} at position 1 is not in the vocabulary of {vocabulary}");
        check(model, [5, vocabulary, 6], &[&limit]);
        let most = i64::from(u32::MAX);
        check(
            model,
            [5, 6, most],
            &[&format!("token {most} at position 2")],
        );
        for id in [-1, i64::MIN, most + 1, i64::MAX] {
            let words = [
                "reference.safetensors",
                "`input_ids`",
                &id.to_string(),
                "out of range",
            ];
            check(model, [id, 5, 6], &words);
        }
    }
}

#[test]
fn texts_that_do_not_fit_an_encoder_are_refused() {
    let case = Case::new("bert_tokcls", &[]);
    let check = |text: &str, words: &[&str]| {
        let run = satura(&["run", case.path(), "-p", text]);
        assert_eq!((run.code, &*run.out), (Some(1), ""), "{run:?}");
        for word in words {
            assert!(run.err.contains(word), "no {word:?} in {run:?}");
        }
    };
    check("", &["prompt is empty"]);
    check("  ", &["no tokens"]);
    check(&vec!["w5"; 65].join(" "), &["65 tokens", "64"]);
}
