//! How decoders generate: as their authors say, unless whoever runs them says otherwise.

use super::{Case, Run, satura};
use serde_json::{Value, json};
use std::fs;

/// Greedy continuation of the first prompt of llama_gqa by transformers, with `repetition_penalty=2.0`.
const PENALISED: [usize; 16] = [
    69, 78, 126, 297, 259, 301, 62, 263, 241, 284, 8, 194, 135, 174, 148, 93,
];

#[test]
fn generation_config_says_how_to_generate() {
    let case = Case::new("llama_gqa", &[]);
    let prompt = case.text(&case.ids("input_ids")[0]);
    let plain = json!(case.ids("greedy")[0]);
    let generate = |config: Value, more: &[&str]| {
        let file = case.dir.path().join("generation_config.json");
        fs::write(file, config.to_string()).unwrap();
        let args = ["run", case.path(), "-p", &prompt, "--json"];
        satura(&[&args, more].concat())
    };
    let tokens = |run: &Run| {
        let found: Value = serde_json::from_str(&run.out).unwrap();
        found["results"][0]["tokens"].clone()
    };
    let penalised = json!({"max_new_tokens": 16, "repetition_penalty": 2.0});
    let found = generate(penalised.clone(), &[]);
    assert_eq!((tokens(&found), &*found.err), (json!(PENALISED), ""));
    // Whoever runs the model has the last word.
    let none = ["--repetition-penalty", "1", "-n", "16"];
    assert_eq!(tokens(&generate(penalised, &none)), plain);
    let asked = ["--repeat-penalty", "2", "-n", "16"];
    assert_eq!(tokens(&generate(json!({}), &asked)), json!(PENALISED));
    // Only the most probable token is as probable as that.
    let least = ["--temp", "5", "--min-p", "1", "-n", "16"];
    assert_eq!(tokens(&generate(json!({}), &least)), plain);

    // A length counts the prompt; any of several tokens ends.
    let length = tokens(&generate(json!({"max_length": 32 + 5}), &[]));
    assert_eq!(length, json!(case.ids("greedy")[0][..5]));
    let ends = json!({"eos_token_id": [1, case.ids("greedy")[0][3]], "max_new_tokens": 16});
    assert_eq!(
        tokens(&generate(ends, &[])),
        json!(case.ids("greedy")[0][..3])
    );

    // What is not followed is named, and does not stop.
    let found = generate(
        json!({"num_beams": 4, "no_repeat_ngram_size": 2, "max_new_tokens": 16}),
        &[],
    );
    assert_eq!(tokens(&found), plain);
    let warning = "warning: generation_config.json also asks for num_beams = 4, no_repeat_ngram_size = 2, which";
    assert!(found.err.starts_with(warning), "{found:?}");
}
