//! Nothing that is called supported goes untested.

use super::{fixture, fixtures, references};
use compiler::models;
use serde_json::Value;
use std::{collections::BTreeSet, fs};

/// A key of a reference's config.
fn said(name: &str, key: &str) -> String {
    let bytes = fs::read(fixture(name).join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&bytes).unwrap();
    let value = match &config[key] {
        Value::Array(list) => &list[0],
        value => value,
    };
    value.as_str().unwrap().to_string()
}

#[test]
fn every_architecture_has_a_reference() {
    let all = |names: Vec<String>, key: &str| -> BTreeSet<String> {
        names.iter().map(|name| said(name, key)).collect()
    };
    let types = all(fixtures(), "model_type");
    let architectures = all(references(), "architectures");
    for family in models::FAMILIES {
        // Which has snapshots of each stage, too.
        assert!(types.contains(family.name), "{}: no fixture", family.name);
        for architecture in family.architectures {
            // XLM-RoBERTa is RoBERTa by another name.
            let plain = architecture.trim_start_matches("XLM");
            let there = architectures.contains(*architecture) || architectures.contains(plain);
            assert!(there, "{architecture}: no reference");
        }
    }
}
