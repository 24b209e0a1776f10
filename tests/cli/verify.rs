//! `satura verify`: outputs beside a reference's, and the layer where they part, for faults of both kinds: in the
//! model's files, and in what was compiled from them.

use super::{close, copy, fixture, satura, satura_with, text};
use ir::artifact::{Base, HEADER_BYTES, Header, Manifest};
use safetensors::SafeTensors;
use satura::ir;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A copy of a fixture's reference and manifest, with one element of an output changed.
fn changed(name: &str, output: &str, element: usize, by: f32) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(fixture(name).join("expected.safetensors")).unwrap();
    let at = {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = file.tensor(output).unwrap().data().as_ptr().addr();
        data - bytes.as_ptr().addr() + 4 * element
    };
    let value = f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) + by;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let path = dir.path().join("expected.safetensors");
    fs::write(&path, bytes).unwrap();
    let manifest = fixture(name).join("manifest.json");
    fs::copy(manifest, dir.path().join("manifest.json")).unwrap();
    (dir, path)
}

#[test]
fn verify_compares_everything_that_a_reference_holds() {
    for (name, outputs) in [
        ("bert_model", &["last_hidden_state", "pooler_output"][..]),
        ("llama_gqa", &["logits"]),
    ] {
        let model = fixture(name);
        let reference = model.join("expected.safetensors");
        let args = ["verify", text(&model), "--reference", text(&reference)];
        let found = satura(&[&args[..], &["--json"]].concat()).json();
        assert_eq!(found["passes"], true, "{found}");
        let names: Vec<&Value> = found["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| &o["name"])
            .collect();
        assert_eq!(names, outputs, "{name}");
        let continues = name == "llama_gqa";
        assert_eq!(found["greedy"]["equal"] == true, continues, "{found}");
        let plain = satura(&args);
        assert_eq!(plain.code, Some(0), "{plain:?}");
        assert!(plain.out.contains("within tolerance"), "{plain:?}");
    }
}

#[test]
fn verify_names_the_first_element_past_its_tolerance() {
    let check = |name: &str, output: &str, element: usize, place: Value| {
        let (_dir, reference) = changed(name, output, element, 0.5);
        let model = fixture(name);
        let args = ["verify", text(&model), "--reference", text(&reference)];
        let run = satura(&[&args[..], &["--json"]].concat());
        assert_eq!(run.code, Some(1), "{run:?}");
        let found: Value = serde_json::from_str(&run.out).unwrap();
        assert_eq!(found["passes"], false);
        let outputs = found["outputs"].as_array().unwrap();
        let output = outputs.iter().find(|o| o["name"] == output).unwrap();
        let first = &output["first_divergence"];
        let found = json!([first["sequence"], first["position"], first["element"]]);
        assert_eq!(found, place, "{output}");
        close(&output["max_absolute_error"], 0.5);
        let plain = satura(&args);
        assert_eq!((plain.code, &*plain.err), (Some(1), ""), "{plain:?}");
        assert!(plain.out.contains("PAST TOLERANCE"), "{plain:?}");
    };
    // Rows of 32 tokens and 307 logits; rows of 64 elements.
    check("llama_gqa", "logits", (32 + 5) * 307 + 7, json!([1, 5, 7]));
    check("bert_model", "pooler_output", 64 + 3, json!([1, null, 3]));
}

/// Doubles a tensor of f32 or bf16.
fn double(dir: &Path, tensor: &str) {
    let file = dir.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let (at, len, f32) = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let view = tensors.tensor(tensor).unwrap();
        let at = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        (
            at,
            view.data().len(),
            view.dtype() == safetensors::Dtype::F32,
        )
    };
    let data = &mut bytes[at..at + len];
    if f32 {
        for x in data.as_chunks_mut().0 {
            *x = (2.0 * f32::from_le_bytes(*x)).to_le_bytes();
        }
    } else {
        for x in data.as_chunks_mut().0 {
            *x = half::bf16::from_f32(2.0 * half::bf16::from_le_bytes(*x).to_f32()).to_le_bytes();
        }
    }
    fs::write(file, bytes).unwrap();
}

/// What `verify --json` says of a model that is not the reference's.
fn failing(model: &Path, reference: &Path, cache: &Path) -> Value {
    let args = [
        "verify",
        text(model),
        "--reference",
        text(reference),
        "--json",
    ];
    let run = satura_with(&args, cache);
    assert_eq!((run.code, &*run.err), (Some(1), ""), "{run:?}");
    serde_json::from_str(&run.out).unwrap()
}

#[test]
fn a_layer_whose_weights_are_not_the_reference_s_is_named() {
    let check = |name: &str, tensor: &str, expected: Value| {
        let (dir, cache) = (copy(&fixture(name)), tempfile::tempdir().unwrap());
        double(dir.path(), tensor);
        let reference = |file: &str| fixture(name).join(file);
        let found = failing(dir.path(), &reference("hidden.safetensors"), cache.path());
        let parting = &found["parts_from_reference"];
        let place = json!([parting["layers"], parting["within"], parting["past"]]);
        assert_eq!(place, expected, "{tensor}: {found:#}");
        // The fault is in the checkpoint: compiled code does what it says.
        let layers = &found["layers_against_program"];
        assert_eq!(
            layers["first_divergence"],
            Value::Null,
            "{tensor}: {found:#}"
        );
        assert_eq!(layers["tokens"], layers["of"]);

        // Without hidden states nothing can be said of where, and nothing is.
        let found = failing(dir.path(), &reference("expected.safetensors"), cache.path());
        assert_eq!(found["parts_from_reference"], Value::Null, "{found:#}");
        assert_eq!(
            found["layers_against_program"]["first_divergence"],
            Value::Null
        );
    };
    let states = |n: usize| format!("hidden_states.{n}");
    check(
        "llama_gqa",
        "model.embed_tokens.weight",
        json!([["embed"], null, states(0)]),
    );
    for n in 0..2 {
        check(
            "llama_gqa",
            &format!("model.layers.{n}.mlp.down_proj.weight"),
            json!([[format!("model.layers.{n}")], states(n), states(n + 1)]),
        );
    }
    // The last hidden state of a decoder is normalised, so nothing lies between its last layer and its head.
    for tensor in ["model.layers.2.self_attn.o_proj.weight", "lm_head.weight"] {
        let expected = json!([["model.layers.2", "head"], states(2), "logits"]);
        check("llama_gqa", tensor, expected);
    }
    for n in 0..2 {
        check(
            "bert_model",
            &format!("encoder.layer.{n}.attention.output.dense.weight"),
            json!([[format!("encoder.layer.{n}")], states(n), states(n + 1)]),
        );
    }
    check(
        "bert_model",
        "pooler.dense.weight",
        json!([["pooler"], states(2), "pooler_output"]),
    );
}

#[test]
fn verify_says_in_words_where_a_model_parts_from_its_reference() {
    let check = |reference: &str, words: &[&str], others: &[&str]| {
        let dir = copy(&fixture("llama_gqa"));
        double(dir.path(), "model.layers.1.mlp.up_proj.weight");
        let reference = fixture("llama_gqa").join(reference);
        let args = ["verify", text(dir.path()), "--reference", text(&reference)];
        let run = satura(&args);
        assert_eq!((run.code, &*run.err), (Some(1), ""), "{run:?}");
        for word in words {
            assert!(run.out.contains(word), "no {word:?} in {run:?}");
        }
        for word in others {
            assert!(!run.out.contains(word), "{word:?} in {run:?}");
        }
    };
    let meant = "compiled code does what the model's program says";
    check(
        "hidden.safetensors",
        &["from the reference: model.layers.1;", meant],
        &["report", "would tell"],
    );
    check(
        "expected.safetensors",
        &["hidden_states.0, hidden_states.1, ...", meant],
        &["report", "from the reference"],
    );
}

/// Doubles the first weight that layer `index` of a compiled model reads, as a compiler that packs weights wrongly
/// might, and signs the file anew.
fn miscompile(artifact: &Path, index: usize) {
    let mut bytes = fs::read(artifact).unwrap();
    let header = Header::decode(&bytes[..HEADER_BYTES], bytes.len() as u64).unwrap();
    let mut sections = header.sections;
    let manifest = sections.manifest.of("manifest", &bytes).unwrap();
    let plan = Manifest::decode(manifest).unwrap().plan;
    let layers = &plan.layers;
    let mut launches =
        plan.launches[layers[index - 1].end as usize..layers[index].end as usize].iter();
    let weight = launches.find_map(|l| l.operands.iter().find(|o| o.base == Base::Weights));
    let at = (sections.weights.offset + weight.unwrap().offset) as usize;
    for x in bytes[at..at + 64].as_chunks_mut().0 {
        *x = half::bf16::from_f32(2.0 * half::bf16::from_le_bytes(*x).to_f32()).to_le_bytes();
    }
    let weights = sections.weights.of("weights", &bytes).unwrap();
    sections.weights.digest = *blake3::hash(weights).as_bytes();
    bytes[..HEADER_BYTES].copy_from_slice(&Header { sections }.encode());
    fs::write(artifact, bytes).unwrap();
}

#[test]
fn a_layer_that_is_compiled_wrongly_is_named() {
    let (model, cache) = (fixture("llama_gqa"), tempfile::tempdir().unwrap());
    let reference = model.join("expected.safetensors");
    let args = ["verify", text(&model), "--reference", text(&reference)];
    let layers = [&args[..], &["--layers"]].concat();
    let sound = satura_with(&layers, cache.path());
    assert_eq!((sound.code, &*sound.err), (Some(0), ""), "{sound:?}");
    for layer in ["embed", "model.layers.0", "model.layers.2", "head"] {
        assert!(sound.out.contains(&format!("\n  {layer} ")), "{sound:?}");
    }
    let file = fs::read_dir(cache.path()).unwrap().next().unwrap();
    let file = file.unwrap().path();
    let whole = fs::read(&file).unwrap();
    for (index, layer) in [
        (1, "model.layers.0"),
        (2, "model.layers.1"),
        (3, "model.layers.2"),
    ] {
        fs::write(&file, &whole).unwrap();
        miscompile(&file, index);
        let found = failing(&model, &reference, cache.path());
        let compared = &found["layers_against_program"];
        assert_eq!(compared["first_divergence"], layer, "{found:#}");
        // Each layer is judged by what it was given, so those after it are sound.
        let each = compared["each"].as_array().unwrap().iter();
        let past = each.filter(|l| l["within_tolerance"] == false);
        assert_eq!(past.count(), 1, "{found:#}");
        let run = satura_with(&args, cache.path());
        let named = format!("from the model's program: {layer};");
        assert!(run.out.contains(&named), "{run:?}");
        assert!(
            run.out.contains("Please report") && !run.out.contains("weights"),
            "{run:?}"
        );
    }
}

#[test]
fn an_artifact_is_compared_with_hidden_states_alone() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("m.satura");
    let dir = copy(&fixture("llama_gqa"));
    double(dir.path(), "model.layers.1.mlp.gate_proj.weight");
    satura(&["compile", text(dir.path()), "-o", text(&artifact)]);
    let reference = fixture("llama_gqa").join("hidden.safetensors");
    let found = failing(&artifact, &reference, folder.path());
    assert_eq!(
        found["parts_from_reference"]["layers"],
        json!(["model.layers.1"])
    );
    assert_eq!(found["layers_against_program"], Value::Null);
    let args = ["verify", text(&artifact), "--reference", text(&reference)];
    let plain = satura(&args);
    assert!(plain.out.contains("an artifact holds none"), "{plain:?}");
    let asked = satura(&[&args[..], &["--layers"]].concat());
    assert_eq!((asked.code, &*asked.out), (Some(1), ""), "{asked:?}");
    assert!(
        asked.err.contains("give --layers the model's directory"),
        "{asked:?}"
    );
}

/// Writes a reference of these tensors beside those of llama_gqa's `hidden.safetensors` of these names.
fn reference(
    dir: &Path,
    kept: &[&str],
    renamed: Option<(&str, &str)>,
    shape: Option<Vec<usize>>,
) -> PathBuf {
    let bytes = fs::read(fixture("llama_gqa").join("hidden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut all = vec![];
    for name in kept {
        all.push((name.to_string(), tensors.tensor(name).unwrap()));
    }
    if let Some((from, to)) = renamed {
        let view = tensors.tensor(from).unwrap();
        let shape = shape.unwrap_or(view.shape().to_vec());
        let view = safetensors::tensor::TensorView::new(view.dtype(), shape, view.data());
        all.push((to.to_string(), view.unwrap()));
    }
    let file = dir.join("reference.safetensors");
    fs::write(&file, safetensors::serialize(all, None).unwrap()).unwrap();
    file
}

#[test]
fn hidden_states_that_a_model_does_not_have_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("llama_gqa");
    let check = |kept: &[&str], renamed, shape, words: &[&str]| {
        let reference = reference(dir.path(), kept, renamed, shape);
        let run = satura(&["verify", text(&model), "--reference", text(&reference)]);
        assert_eq!((run.code, &*run.out), (Some(1), ""), "{run:?}");
        for word in words {
            assert!(run.err.contains(word), "no {word:?} in {run:?}");
        }
    };
    let beyond = Some(("hidden_states.1", "hidden_states.4"));
    check(
        &["input_ids"],
        beyond,
        None,
        &["`hidden_states.4`", "hidden_states.0 to hidden_states.3"],
    );
    let stacked = Some(("hidden_states.1", "hidden_states"));
    check(
        &["input_ids"],
        stacked,
        Some(vec![1, 2, 32, 64]),
        &["`hidden_states.0`, `hidden_states.1`"],
    );
    let wide = Some(("logits", "hidden_states.2"));
    check(&["input_ids"], wide, None, &["64 elements", "307"]);
    let last = Some(("hidden_states.3", "hidden_states.3"));
    check(
        &["input_ids"],
        last,
        None,
        &["only hidden_states.3", "final norm"],
    );
}

#[test]
fn a_rounded_model_is_compared_with_the_program_that_rounds() {
    let model = fixture("llama_gqa");
    let reference = model.join("expected.safetensors");
    for activations in ["f32", "q8"] {
        let args = [
            "verify",
            text(&model),
            "--reference",
            text(&reference),
            "--weights",
            "q4",
        ];
        let args = [&args[..], &["--activations", activations]].concat();
        let run = satura(&[&args[..], &["--json"]].concat());
        assert_eq!((run.code, &*run.err), (Some(1), ""), "{run:?}");
        let found: Value = serde_json::from_str(&run.out).unwrap();
        let layers = &found["layers_against_program"];
        assert_eq!(layers["first_divergence"], Value::Null, "{found:#}");
        let plain = satura(&args);
        assert!(
            plain.out.contains("the cause is in the rounding"),
            "{plain:?}"
        );
    }
}
