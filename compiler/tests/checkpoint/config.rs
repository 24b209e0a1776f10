//! What is read from config.json in the spellings that occur, and its faults.

use super::*;

#[test]
fn faults_of_the_config_are_named() {
    let check = |name: &str, text: String, words: &[&str]| {
        check(
            name,
            single,
            |dir| write(dir, "config.json", text),
            &[&["config.json"], words].concat(),
        );
    };
    let with = |key: &str, value: Value| {
        let mut config = config();
        config[key] = value;
        config.to_string()
    };
    check("empty", String::new(), &["is not valid"]);
    check(
        "not json",
        "{\"hidden_size\": }".into(),
        &["is not valid", "line 1"],
    );
    check(
        "not an object",
        "[]".into(),
        &["is not valid", "a JSON object"],
    );
    check(
        "deep",
        format!("{{\"a\":{}", "[".repeat(100_000)),
        &["recursion limit"],
    );
    check(
        "too long",
        format!("{{\"a\":\"{}\"}}", "x".repeat(17 << 20)),
        &["17825800 bytes", "16777216"],
    );
    check(
        "key twice",
        r#"{"hidden_size":4,"hidden_size":5}"#.into(),
        &["`hidden_size`", "twice"],
    );
    check(
        "no heads",
        with("num_attention_heads", json!(0)),
        &["`num_attention_heads` is 0", "1 to 65536"],
    );
    check(
        "a billion layers",
        with("num_hidden_layers", json!(1_000_000_000)),
        &["`num_hidden_layers` is 1000000000", "1 to 4096"],
    );
    check(
        "layers as a float",
        with("num_hidden_layers", json!(1e9)),
        &["`num_hidden_layers` is 1000000000.0", "integer"],
    );
    check(
        "negative",
        with("hidden_size", json!(-4)),
        &["`hidden_size` is -4"],
    );
    check(
        "text",
        with("hidden_size", json!("four")),
        &["`hidden_size` is \"four\"", "integer"],
    );
    check(
        "null",
        with("hidden_size", Value::Null),
        &["`hidden_size` is missing", "integer"],
    );
    check(
        "huge vocabulary",
        with("vocab_size", json!(u64::MAX)),
        &["`vocab_size` is 18446744073709551615"],
    );
    check(
        "heads do not divide",
        with("num_attention_heads", json!(3)),
        &[
            "`hidden_size` is 4",
            "multiple of `num_attention_heads`, which is 3",
        ],
    );
    check(
        "no architectures",
        with("architectures", json!([])),
        &["`architectures` is []", "LlamaForCausalLM"],
    );
    check(
        "architectures no list",
        with("architectures", json!("Llama")),
        &["`architectures` is \"Llama\"", "list of strings"],
    );
    check(
        "long value",
        with("architectures", json!("x".repeat(10_000))),
        &["..."],
    );
}

#[test]
fn config_understands_both_generations() {
    let config = |value: Value| {
        Config::parse(Path::new("config.json"), value.to_string().as_bytes()).unwrap()
    };
    let rope = |value: Value, layer: &str| {
        let rope = config(value).rope(layer, 10_000.0).unwrap();
        (
            rope.theta,
            rope.kind,
            rope.partial.unwrap_or(1.0),
            rope.scaling.opt_f64("factor").unwrap(),
        )
    };
    let plain = |theta: f64| (theta, "default".to_string(), 1.0, None);

    assert_eq!(rope(json!({}), "full_attention"), plain(1e4));
    assert_eq!(
        rope(
            json!({"rope_theta": 5e5, "rope_scaling": null}),
            "full_attention"
        ),
        plain(5e5)
    );
    assert_eq!(
        rope(
            json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
            "full_attention"
        ),
        plain(5e5)
    );
    let llama3 = (5e5, "llama3".to_string(), 1.0, Some(8.0));
    assert_eq!(
        rope(
            json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            "full_attention"
        ),
        llama3
    );
    assert_eq!(
        rope(
            json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8}}),
            "full_attention"
        ),
        llama3
    );
    let linear = (1e4, "linear".to_string(), 1.0, Some(2.0));
    assert_eq!(
        rope(
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "full_attention"
        ),
        linear
    );
    let quarter = (1e4, "default".to_string(), 0.25, None);
    assert_eq!(
        rope(
            json!({"rotary_pct": 0.25, "rotary_emb_base": 10000}),
            "full_attention"
        ),
        quarter
    );
    assert_eq!(
        rope(
            json!({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}),
            "full_attention"
        ),
        quarter
    );
    let four = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let five = json!({"rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }});
    for gemma3 in [four, five] {
        assert_eq!(
            rope(gemma3.clone(), "full_attention"),
            (1e6, "linear".to_string(), 1.0, Some(8.0))
        );
        assert_eq!(rope(gemma3, "sliding_attention"), plain(1e4));
    }

    assert_eq!(
        config(json!({"torch_dtype": "torch.bfloat16"}))
            .dtype()
            .unwrap(),
        Some("bfloat16")
    );
    assert_eq!(
        config(json!({"dtype": "float32"})).dtype().unwrap(),
        Some("float32")
    );
    assert_eq!(
        config(json!({"id2label": {"1": "B", "0": "A"}}))
            .labels()
            .unwrap(),
        ["A", "B"]
    );
    assert_eq!(
        config(json!({"num_labels": 3})).labels().unwrap(),
        ["LABEL_0", "LABEL_1", "LABEL_2"]
    );
    assert_eq!(
        config(json!({"layer_types": ["a", "b"]}))
            .layer_types(2)
            .unwrap()
            .unwrap(),
        ["a", "b"]
    );
    assert!(config(json!({"auto_map": {"AutoModel": "x.Y"}})).has_remote_code());
    assert!(!config(json!({"auto_map": null})).has_remote_code());
    assert_eq!(
        config(json!({"quantization_config": {"quant_method": "gptq"}}))
            .quantization()
            .unwrap()
            .unwrap(),
        "gptq"
    );
    // Another model's list under a name that is a number elsewhere is not judged before anyone asks for it.
    assert!(
        config(json!({"num_key_value_heads": [1, 2]}))
            .usize("num_key_value_heads")
            .is_err()
    );
}

#[test]
fn config_values_of_the_wrong_kind_are_named() {
    fn check<T: std::fmt::Debug>(
        value: Value,
        read: fn(&Config) -> Result<T, CheckpointError>,
        words: &[&str],
    ) {
        let config =
            Config::parse(Path::new("dir/config.json"), value.to_string().as_bytes()).unwrap();
        let message = read(&config).unwrap_err().to_string();
        for word in ["dir/config.json"].iter().chain(words) {
            assert!(message.contains(word), "no {word:?} in {message:?}");
        }
    }
    check(
        json!({"x": "1"}),
        |c| c.f64("x"),
        &["`x` is \"1\"", "a number"],
    );
    check(json!({}), |c| c.f64("x"), &["`x` is missing", "a number"]);
    check(
        json!({"x": 1}),
        |c| c.bool_or("x", true),
        &["`x` is 1", "true or false"],
    );
    check(
        json!({"x": 1}),
        |c| c.str("x").map(str::to_string),
        &["`x` is 1", "a string"],
    );
    check(
        json!({}),
        |c| c.model_type().map(str::to_string),
        &["`model_type` is missing"],
    );
    check(
        json!({"rope_theta": -1}),
        |c| c.rope("full_attention", 1e4),
        &["`rope_theta` is -1", "positive"],
    );
    check(
        json!({"rotary_pct": 1.5}),
        |c| c.rope("full_attention", 1e4),
        &["`rotary_pct` is 1.5", "at most 1"],
    );
    check(
        json!({"rope_scaling": {"factor": "8"}}),
        |c| c.rope("full_attention", 1e4)?.scaling.f64("factor"),
        &["`rope_scaling.factor` is \"8\""],
    );
    check(
        json!({"rope_parameters": {"sliding_attention": {}}}),
        |c| c.rope("full_attention", 1e4),
        &["`rope_parameters.full_attention` is missing"],
    );
    check(
        json!({"id2label": {"0": "A", "2": "B"}}),
        |c| c.labels(),
        &["`id2label`", "0 to 1"],
    );
    check(json!({"id2label": {}}), |c| c.labels(), &["`id2label`"]);
    check(
        json!({"layer_types": ["a"]}),
        |c| c.layer_types(2).map(|_| ()),
        &["`layer_types`", "list of 2", "not 1"],
    );
}

proptest! {
    #[test]
    fn damaged_configs_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = fs::read(fixtures().join("llama_tied_llama3/config.json")).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(config) = Config::parse(Path::new("config.json"), &bytes) {
            let _ = (config.architecture(), config.rope("full_attention", 1e4), config.labels(), config.layer_types(2));
        }
    }
}
