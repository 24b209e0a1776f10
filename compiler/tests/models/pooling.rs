//! Checkpoints of sentence-transformers: embeddings are pooled as their modules say, of the bare model; what is not covered
//! is refused by name.

use super::{Machine, files, fixture, kept, packed, tensors};
use compiler::{checkpoint::Checkpoint, models};
use ir::{Task, Tensor};
use serde_json::{Value, json};
use std::borrow::Cow;

/// Files that make an encoder an embedding model.
fn with_pooling(pooling: &Value, modules: &[&str]) -> Vec<(String, Cow<'static, [u8]>)> {
    pooled("bert_model", pooling, modules)
}

fn pooled(name: &str, pooling: &Value, modules: &[&str]) -> Vec<(String, Cow<'static, [u8]>)> {
    let modules = ["Transformer", "Pooling"].iter().chain(modules);
    let modules = modules.enumerate().map(|(i, name)| {
        let path = if i == 0 {
            String::new()
        } else {
            format!("{i}_{name}")
        };
        let kind = format!("sentence_transformers.models.{name}");
        json!({"idx": i, "name": i.to_string(), "path": path, "type": kind})
    });
    let mut files = files(name, &json!({}));
    let more = [
        ("modules.json", Value::from_iter(modules)),
        ("1_Pooling/config.json", pooling.clone()),
        ("sentence_bert_config.json", json!({"max_seq_length": 48})),
    ];
    for (name, value) in more {
        files.push((name.to_string(), Cow::Owned(value.to_string().into_bytes())));
    }
    files
}

#[test]
fn embeddings_pool_what_the_reference_pools() {
    let reference = tensors(&fixture("bert_model").join("expected.safetensors"));
    let hidden = &reference["last_hidden_state"];
    let (kept, width) = (kept(&reference), hidden.shape[2]);
    let mean = |column: &[f64]| column.iter().sum::<f64>() / column.len() as f64;
    let first = |column: &[f64]| column[0];
    let max = |column: &[f64]| column.iter().copied().fold(f64::MIN, f64::max);
    type Pool<'a> = &'a dyn Fn(&[f64]) -> f64;
    let cases: [(Value, Pool<'_>); 6] = [
        (
            json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}),
            &mean,
        ),
        (json!({"pooling_mode_cls_token": true}), &first),
        (json!({"pooling_mode_max_tokens": true}), &max),
        (json!({"pooling_mode": "mean"}), &mean),
        (json!({"pooling_mode": "cls"}), &first),
        (json!({"pooling_mode": "max"}), &max),
    ];
    for (pooling, pool) in cases {
        for modules in [&[][..], &["Normalize"][..]] {
            let checkpoint = Checkpoint::from_files(with_pooling(&pooling, modules)).unwrap();
            let mut machine = Machine::new(&checkpoint, 0);
            let normalize = !modules.is_empty();
            assert_eq!(machine.description.task, Task::Embedding { normalize });
            assert_eq!(machine.description.context, 48);
            let got = &machine.step(&packed(&reference, &kept, machine.description.positions))["embedding"];
            for (r, kept) in kept.iter().enumerate() {
                let row = |c: &usize| &hidden.data[(r * hidden.shape[1] + c) * width..][..width];
                let column = |i| kept.iter().map(|c| row(c)[i]).collect::<Vec<f64>>();
                let mut want: Vec<f64> = (0..width).map(|i| pool(&column(i))).collect();
                if normalize {
                    let norm = want.iter().map(|x| x * x).sum::<f64>().sqrt();
                    want.iter_mut().for_each(|x| *x /= norm);
                }
                let want = Tensor::new([width], want);
                let got = Tensor::new([width], got.data[r * width..][..width].to_vec());
                let difference = got.max_abs_diff(&want);
                assert!(difference < 2e-5, "{pooling}, {modules:?}: {difference}");
            }
        }
    }
}

#[test]
fn what_pools_is_the_bare_model_whatever_head_its_config_names() {
    let pooling = json!({"pooling_mode_mean_tokens": true});
    let built = |files| {
        let checkpoint = Checkpoint::from_files(files).unwrap();
        models::build(checkpoint.config(), &checkpoint)
    };
    for (name, bare) in [
        ("bert_mlm", "BertModel"),
        ("mpnet_mlm", "MPNetModel"),
        ("roberta_seqcls", "RobertaModel"),
    ] {
        let (program, description) = built(pooled(name, &pooling, &["Normalize"])).unwrap();
        assert_eq!(description.architecture, bare);
        assert_eq!(description.task, Task::Embedding { normalize: true });
        assert!(program.outputs.contains_key("embedding"), "{name}");
    }
    // Decoders have no rows to pool yet.
    let error = built(pooled("llama_gqa", &pooling, &[])).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("`LlamaModel` is not supported"), "{error}");
}

#[test]
fn what_sentence_transformers_does_to_texts_is_refused() {
    let check = |file: &str, content: Value, expected: &str| {
        let mut files = with_pooling(&json!({"pooling_mode_mean_tokens": true}), &[]);
        files.retain(|(name, _)| name != file);
        files.push((file.into(), content.to_string().into_bytes().into()));
        let checkpoint = Checkpoint::from_files(files).unwrap();
        let error = models::build(checkpoint.config(), &checkpoint)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(file) && error.contains(expected), "{error}");
    };
    let limits = "sentence_bert_config.json";
    check(
        limits,
        json!({"max_seq_length": 8, "do_lower_case": true}),
        "do_lower_case",
    );
    let prompts = "config_sentence_transformers.json";
    check(
        prompts,
        json!({"default_prompt_name": "query"}),
        "default_prompt_name",
    );
}

#[test]
fn poolings_that_are_not_covered_are_refused() {
    let check = |pooling: Value, modules: &[&str], expected: &[&str]| {
        let checkpoint = Checkpoint::from_files(with_pooling(&pooling, modules)).unwrap();
        let error = models::build(checkpoint.config(), &checkpoint)
            .err()
            .unwrap();
        for part in expected {
            let message = error.to_string();
            assert!(
                message.contains(part),
                "{pooling}: no `{part}` in: {message}"
            );
        }
    };
    let mean = json!({"pooling_mode_mean_tokens": true});
    check(
        mean,
        &["Dense"],
        &["modules.json", "sentence_transformers.models.Dense"],
    );
    let weighted = json!({"pooling_mode_weightedmean_tokens": true});
    check(
        weighted,
        &[],
        &[
            "1_Pooling/config.json",
            "pooling_mode_weightedmean_tokens",
            "mean, cls or max",
        ],
    );
    let both = json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true});
    check(both, &[], &["pooling_mode_cls_token", "one of them"]);
    check(
        json!({"pooling_mode": "lasttoken"}),
        &[],
        &["`pooling_mode` is \"lasttoken\""],
    );
    check(json!({}), &[], &["pooling_mode_mean_tokens"]);
}
