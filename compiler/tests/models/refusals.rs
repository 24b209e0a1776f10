//! Models that are not covered are refused by name: from the config alone where that shows it, else from the weights'
//! names and shapes.

use super::{changed, files};
use compiler::{
    checkpoint::{Checkpoint, Config},
    models,
};
use serde_json::{Value, json};
use std::path::Path;

/// The message with which the config alone is refused.
fn refused(name: &str, changes: &Value) -> String {
    let config = Config::parse(Path::new("m/config.json"), &changed(name, changes));
    match config {
        Err(error) => error.to_string(),
        Ok(config) => models::supported(&config).unwrap_err().to_string(),
    }
}

#[test]
fn what_is_not_covered_is_refused_from_the_config_alone() {
    let check = |fixture: &str, changes: Value, expected: &[&str]| {
        let message = refused(fixture, &changes);
        for part in expected.iter().chain(&["m/config.json"]) {
            assert!(
                message.contains(part),
                "{changes}: no `{part}` in: {message}"
            );
        }
    };
    check(
        "llama_gqa",
        json!({"architectures": ["FooForCausalLM"]}),
        &[
            "`FooForCausalLM` is not supported",
            "LlamaForCausalLM",
            "BertModel",
        ],
    );
    check(
        "llama_gqa",
        json!({"architectures": ["Foo"], "auto_map": {"AutoModel": "foo.Foo"}}),
        &["Foo", "never run"],
    );
    check(
        "llama_gqa",
        json!({"architectures": []}),
        &["architectures"],
    );
    check(
        "llama_gqa",
        json!({"quantization_config": {"quant_method": "gptq"}}),
        &["quantization_config", "gptq", "f16"],
    );
    let llama: &[(Value, &[&str])] = &[
        (
            json!({"rope_scaling": {"rope_type": "foo"}}),
            &["`rope_scaling.rope_type` is \"foo\"", "llama3"],
        ),
        (
            json!({"rope_scaling": {"type": "mrope", "factor": 2.0}}),
            &["`rope_scaling.type` is \"mrope\"", "longrope"],
        ),
        (
            json!({"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}),
            &["`rope_parameters.rope_type` is \"proportional\""],
        ),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 1e9}}),
            &["rope_scaling.factor", "at most"],
        ),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
            &["rope_scaling.short_factor", "a list of 8 positive numbers"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}),
            &["`rope_scaling.factor` is 0", "positive"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}),
            &["high_freq_factor", "above low_freq_factor"],
        ),
        (json!({"rope_theta": -1.0}), &["rope_theta", "positive"]),
        (
            json!({"hidden_act": "mish"}),
            &["`hidden_act` is \"mish\"", "silu"],
        ),
        (json!({"rms_norm_eps": 0.0}), &["rms_norm_eps", "positive"]),
        (json!({"num_attention_heads": 0}), &["num_attention_heads"]),
        (json!({"num_hidden_layers": 1e9}), &["num_hidden_layers"]),
        (
            json!({"num_hidden_layers": 1_000_000_000}),
            &["num_hidden_layers"],
        ),
        (
            json!({"num_key_value_heads": 3}),
            &["`num_key_value_heads` is 3", "which is 4"],
        ),
        (json!({"head_dim": 15}), &["head_dim", "even"]),
        (
            json!({"head_dim": null, "hidden_size": 63}),
            &["`hidden_size` is 63", "multiple"],
        ),
        (json!({"vocab_size": null}), &["`vocab_size` is missing"]),
        (json!({"hidden_size": "big"}), &["`hidden_size` is \"big\""]),
        (
            json!({"attention_bias": 1}),
            &["attention_bias", "true or false"],
        ),
    ];
    for (changes, expected) in llama {
        check("llama_gqa", changes.clone(), expected);
    }
    check(
        "mpnet",
        json!({"max_position_embeddings": 1_000_000}),
        &["`max_position_embeddings` is 1000000", "at most 2048"],
    );
    check("gemma", json!({"head_dim": null}), &["head_dim", "integer"]);
    check(
        "roberta_seqcls",
        json!({"problem_type": "ranking"}),
        &["`problem_type` is \"ranking\"", "regression"],
    );
    check(
        "vit",
        json!({"architectures": ["ViTModel"], "pooler_output_size": 7}),
        &["pooler_output_size", "48"],
    );
    check(
        "vit",
        json!({"architectures": ["ViTModel"], "pooler_act": "relu"}),
        &["`pooler_act` is \"relu\"", "tanh"],
    );
    let bert: &[(Value, &[&str])] = &[
        (
            json!({"position_embedding_type": "relative_key"}),
            &["`position_embedding_type` is \"relative_key\"", "absolute"],
        ),
        (json!({"is_decoder": true}), &["is_decoder", "encoder only"]),
        (
            json!({"add_cross_attention": true}),
            &["add_cross_attention"],
        ),
        (
            json!({"num_attention_heads": 5}),
            &["`hidden_size` is 48", "multiple"],
        ),
        (json!({"hidden_act": "gelu_python"}), &["hidden_act"]),
        (json!({"id2label": {"0": "A", "7": "B"}}), &["id2label"]),
    ];
    for (changes, expected) in bert {
        check("bert_tokcls", changes.clone(), expected);
    }
}

/// The message with which a fixture is refused whose config was changed to belong to other weights.
fn unbuilt(name: &str, changes: &Value) -> String {
    let checkpoint = Checkpoint::from_files(files(name, changes)).unwrap();
    let error = models::build(checkpoint.config(), &checkpoint);
    error.err().unwrap().to_string()
}

#[test]
fn weights_that_the_config_does_not_describe_are_refused() {
    let check = |fixture: &str, changes: Value, expected: &[&str]| {
        let message = unbuilt(fixture, &changes);
        for part in expected {
            assert!(
                message.contains(part),
                "{changes}: no `{part}` in: {message}"
            );
        }
    };
    check(
        "llama_gqa",
        json!({"vocab_size": 308}),
        &[
            "model.embed_tokens.weight",
            "[307, 64]",
            "[308, 64]",
            "vocab_size = 308",
        ],
    );
    check(
        "llama_gqa",
        json!({"intermediate_size": 177}),
        &[
            "model.layers.0.mlp.gate_proj.weight",
            "intermediate_size = 177",
        ],
    );
    check(
        "llama_gqa",
        json!({"num_hidden_layers": 4}),
        &["model.layers.3.input_layernorm.weight", "missing"],
    );
    check(
        "llama_gqa",
        json!({"num_hidden_layers": 2}),
        &["model.layers.2.", "fewer layers"],
    );
    check(
        "llama_gqa",
        json!({"attention_bias": true}),
        &["model.layers.0.self_attn.q_proj.bias", "missing"],
    );
    check(
        "llama_tied_llama3",
        json!({"tie_word_embeddings": false}),
        &["lm_head.weight", "missing"],
    );
    check(
        "bert_tokcls",
        json!({"num_labels": 3, "id2label": {"0": "A", "1": "B", "2": "C"}}),
        &["classifier.weight", "[9, 48]", "classes in id2label = 3"],
    );
    check(
        "bert_tokcls",
        json!({"architectures": ["BertForSequenceClassification"]}),
        &["bert.pooler.dense.weight", "missing"],
    );
    check(
        "bert_tokcls",
        json!({"num_hidden_layers": 2}),
        &["bert.encoder.layer.2."],
    );
}

#[test]
fn what_the_other_sizes_do_not_imply_is_asked_for() {
    for name in [
        "mistral_window",
        "mixtral",
        "qwen2",
        "qwen3",
        "gemma2",
        "stablelm",
        "smollm3",
    ] {
        let mut config: Value = serde_json::from_slice(&changed(name, &json!({}))).unwrap();
        config
            .as_object_mut()
            .unwrap()
            .remove("num_key_value_heads");
        let config = Config::parse(Path::new("config.json"), config.to_string().as_bytes());
        let error = models::supported(&config.unwrap()).unwrap_err().to_string();
        assert!(
            error.contains("`num_key_value_heads` is missing"),
            "{name}: {error}"
        );
    }
}

#[test]
fn the_first_gemma_means_another_gelu_than_it_says() {
    let program = |changes: Value| {
        let checkpoint = Checkpoint::from_files(files("gemma", &changes)).unwrap();
        models::build(checkpoint.config(), &checkpoint).unwrap().0
    };
    let tanh = program(json!({"hidden_activation": "gelu_pytorch_tanh"}));
    assert!(program(json!({"hidden_activation": null, "hidden_act": "gelu"})) == tanh);
    assert!(program(json!({"hidden_activation": "gelu"})) != tanh);
}
