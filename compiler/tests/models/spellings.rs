//! A config means the same in the spelling of transformers 4 and in that of 5: every reference of every family, respelled
//! both ways, is the same program.

use super::{files, references};
use compiler::{checkpoint::Checkpoint, models};
use serde_json::{Map, Value, json};

/// The model's program, as text.
fn program(name: &str, config: &Map<String, Value>) -> String {
    let mut all = files(name, &json!({}));
    for (file, bytes) in &mut all {
        if file == "config.json" {
            *bytes = serde_json::to_vec(config).unwrap().into();
        }
    }
    let checkpoint = Checkpoint::from_files(all).unwrap();
    let built = models::build(checkpoint.config(), &checkpoint);
    let (program, description) = built.unwrap_or_else(|e| panic!("{name}: {e}\n{config:?}"));
    format!("{program}{description:?}")
}

/// The first of these keys that is there, taken out.
fn take(config: &mut Map<String, Value>, keys: &[&str]) -> Option<Value> {
    keys.iter()
        .find_map(|key| config.remove(*key))
        .filter(|value| !value.is_null())
}

/// `rope_theta` and its like, `rope_scaling` and `torch_dtype`; layers are of types that other keys imply.
fn fourth(mut config: Map<String, Value>) -> Map<String, Value> {
    config.remove("layer_types");
    if let Some(dtype) = config.remove("dtype") {
        config.insert("torch_dtype".into(), dtype);
    }
    let Some(Value::Object(mut rope)) = config.remove("rope_parameters") else {
        return config;
    };
    let modern = config["model_type"] == "modernbert";
    if let Some(Value::Object(mut local)) = rope.remove("sliding_attention") {
        let key = if modern {
            "local_rope_theta"
        } else {
            "rope_local_base_freq"
        };
        config.insert(key.into(), local.remove("rope_theta").unwrap());
        rope = rope
            .remove("full_attention")
            .unwrap()
            .as_object()
            .unwrap()
            .clone();
    }
    let theta = match config["model_type"].as_str() {
        Some("modernbert") => "global_rope_theta",
        Some("gpt_neox") => "rotary_emb_base",
        _ => "rope_theta",
    };
    if let Some(value) = rope.remove("rope_theta") {
        config.insert(theta.into(), value);
    }
    if let Some(partial) = rope.remove("partial_rotary_factor") {
        let neox = config["model_type"] == "gpt_neox";
        let key = if neox {
            "rotary_pct"
        } else {
            "partial_rotary_factor"
        };
        config.insert(key.into(), partial);
    }
    let kind = rope.remove("rope_type").filter(|kind| kind != "default");
    if let Some(kind) = kind {
        rope.insert("type".into(), kind);
        config.insert("rope_scaling".into(), rope.into());
    }
    config
}

/// `rope_parameters` and `dtype`.
fn fifth(mut config: Map<String, Value>) -> Map<String, Value> {
    if let Some(dtype) = config.remove("torch_dtype") {
        config.insert("dtype".into(), dtype);
    }
    if config.contains_key("rope_parameters") {
        return config;
    }
    let theta = take(
        &mut config,
        &["rope_theta", "rotary_emb_base", "global_rope_theta"],
    );
    let local = take(&mut config, &["rope_local_base_freq", "local_rope_theta"]);
    let partial = take(&mut config, &["partial_rotary_factor", "rotary_pct"]);
    let scaling = take(&mut config, &["rope_scaling"]);
    if theta.is_none() && scaling.is_none() && partial.is_none() {
        return config;
    }
    let mut rope: Map<String, Value> =
        scaling.map_or(Map::new(), |s| s.as_object().unwrap().clone());
    let kind = take(&mut rope, &["rope_type", "type"]).unwrap_or(json!("default"));
    rope.insert("rope_type".into(), kind);
    rope.extend(theta.map(|theta| ("rope_theta".to_string(), theta)));
    rope.extend(partial.map(|partial| ("partial_rotary_factor".to_string(), partial)));
    let rope = match local {
        Some(local) => json!({
            "full_attention": rope,
            "sliding_attention": { "rope_type": "default", "rope_theta": local },
        }),
        None => rope.into(),
    };
    config.insert("rope_parameters".into(), rope);
    config
}

#[test]
fn both_spellings_are_the_same_model() {
    let (mut fourths, mut fifths) = (0, 0);
    for name in references() {
        let all = files(&name, &json!({}));
        let (_, bytes) = all.iter().find(|(file, _)| file == "config.json").unwrap();
        let config: Map<String, Value> = serde_json::from_slice(bytes).unwrap();
        let expected = program(&name, &config);
        let (old, new) = (fourth(config.clone()), fifth(config.clone()));
        fourths += usize::from(old != config);
        fifths += usize::from(new != config);
        assert_eq!(
            program(&name, &old),
            expected,
            "{name} as transformers 4 says it: {old:?}"
        );
        assert_eq!(
            program(&name, &new),
            expected,
            "{name} as transformers 5 says it: {new:?}"
        );
        assert_eq!(
            program(&name, &fifth(old)),
            expected,
            "{name}, there and back"
        );
    }
    assert!(
        fourths > 10 && fifths > 10,
        "{fourths} and {fifths} respelled"
    );
}
