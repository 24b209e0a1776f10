//! What a checkpoint's files say of its use becomes the model's description.

use super::files;
use compiler::{checkpoint::Checkpoint, models};
use ir::{Float, Generation};
use serde_json::{Value, json};

/// What a decoder with this generation_config.json is described by, or why it is refused.
fn described(config: &Value, generation: Option<&Value>) -> Result<(Generation, Vec<u32>), String> {
    let mut all = files("llama_odd", config);
    all.retain(|(name, _)| name != "generation_config.json");
    let bytes = |value: &Value| value.to_string().into_bytes().into();
    all.extend(generation.map(|g| ("generation_config.json".to_string(), bytes(g))));
    let checkpoint = Checkpoint::from_files(all).unwrap();
    let built = models::build(checkpoint.config(), &checkpoint);
    let (_, description) = built.map_err(|e| e.to_string())?;
    Ok((description.generation, description.eos))
}

fn float(x: f64) -> Option<Float> {
    Some(x.into())
}

#[test]
fn authors_options_are_the_defaults() {
    let check = |generation: Value, expected: Generation, eos: &[u32]| {
        let found = described(&json!({}), Some(&generation));
        assert_eq!(found, Ok((expected, eos.to_vec())), "{generation}");
    };
    // The fixture's config.json ends by 2.
    check(json!({}), Generation::default(), &[2]);
    check(
        json!({"eos_token_id": [7, 9], "max_new_tokens": 12, "max_length": 40, "stop_strings": "\n"}),
        Generation {
            max_tokens: Some(12),
            max_length: Some(40),
            stop: vec!["\n".into()],
            ..Generation::default()
        },
        &[7, 9],
    );
    check(
        json!({"do_sample": true}),
        Generation {
            temperature: float(1.0),
            top_k: Some(50),
            ..Generation::default()
        },
        &[2],
    );
    check(
        json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "repetition_penalty": 1.05}),
        Generation {
            temperature: float(0.6),
            top_k: Some(20),
            top_p: float(0.95),
            min_p: float(0.0),
            repetition_penalty: float(1.05),
            ..Generation::default()
        },
        &[2],
    );
    // Kept for users who ask for a temperature; the penalty holds without.
    check(
        json!({"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2}),
        Generation {
            top_p: float(0.9),
            repetition_penalty: float(1.2),
            ..Generation::default()
        },
        &[2],
    );
}

#[test]
fn what_is_not_followed_is_named() {
    let check = |generation: Value, expected: &[&str]| {
        let (found, _) = described(&json!({}), Some(&generation)).unwrap();
        assert_eq!(found.ignored, expected, "{generation}");
    };
    // As older checkpoints spell out the defaults.
    check(
        json!({"num_beams": 1, "no_repeat_ngram_size": 0, "typical_p": 1.0, "min_length": 0, "bad_words_ids": null,
            "suppress_tokens": [], "token_healing": false, "guidance_scale": null, "length_penalty": 1.0}),
        &[],
    );
    check(
        json!({"num_beams": 4, "no_repeat_ngram_size": 3, "bad_words_ids": [[5], [6, 7]]}),
        &[
            "num_beams = 4",
            "no_repeat_ngram_size = 3",
            "bad_words_ids = [[5],[6,7]]",
        ],
    );
    let many: Vec<u32> = (0..99).collect();
    check(
        json!({"suppress_tokens": many, "forced_bos_token_id": 0}),
        &[
            "forced_bos_token_id = 0",
            "suppress_tokens = [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,1...",
        ],
    );
    // Heeded by sampling alone.
    check(json!({"typical_p": 0.9}), &[]);
    let sampled = json!({"typical_p": 0.9, "do_sample": true});
    check(sampled, &["typical_p = 0.9"]);
}

#[test]
fn older_checkpoints_say_it_in_their_config() {
    let config = json!({"do_sample": true, "temperature": 0.5, "num_beams": 3});
    let (found, _) = described(&config, None).unwrap();
    assert_eq!((found.temperature, found.top_k), (float(0.5), Some(50)));
    assert_eq!(found.ignored, ["num_beams = 3"]);
    let (found, _) = described(&config, Some(&json!({}))).unwrap();
    assert_eq!(found, Generation::default());
}

#[test]
fn values_without_meaning_are_refused() {
    let check = |key: &str, value: Value, expected: &str| {
        let message = described(&json!({}), Some(&json!({ key: value }))).unwrap_err();
        for part in ["generation_config.json", key, expected] {
            assert!(message.contains(part), "{message}");
        }
    };
    check("temperature", json!(-1), "from 0 up");
    check("top_p", json!(0), "above 0, at most 1");
    check("min_p", json!(1.5), "from 0 to 1");
    check("repetition_penalty", json!(0), "above 0");
    check("repetition_penalty", json!("high"), "number");
    check(
        "eos_token_id",
        json!([1, -2]),
        "a token id or a list of them",
    );
}

#[test]
fn the_template_of_conversations_is_found_where_it_is() {
    let check = |written: &[(&str, Value)], template: Option<&str>| {
        let mut all = files("llama_odd", &json!({}));
        all.extend(written.iter().map(|(name, value)| {
            let text = value.as_str().map(str::to_string);
            let bytes = text.unwrap_or_else(|| value.to_string()).into_bytes();
            (name.to_string(), bytes.into())
        }));
        let checkpoint = Checkpoint::from_files(all).unwrap();
        let built = models::build(checkpoint.config(), &checkpoint);
        let chat = built.unwrap().1.chat;
        let found = chat.as_ref().map(|chat| chat.template.as_str());
        assert_eq!(found, template, "{written:?}");
        chat
    };
    let settings = "tokenizer_config.json";
    check(&[], None);
    check(&[(settings, json!({"eos_token": "</s>"}))], None);
    // A token is its text, or an object that holds it.
    let one = json!({"chat_template": "one", "eos_token": {"content": "</s>"}, "bos_token": "<s>"});
    let chat = check(&[(settings, one.clone())], Some("one")).unwrap();
    let token = |name: &str, text: &str| (name.to_string(), text.to_string());
    assert_eq!(
        chat.tokens,
        [token("bos_token", "<s>"), token("eos_token", "</s>")]
    );
    let named = json!({"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"},
    ]});
    check(&[(settings, named)], Some("plain"));
    let own = ("chat_template.jinja", json!("own"));
    check(&[(settings, one), own.clone()], Some("own"));
    check(&[own], Some("own"));
}
