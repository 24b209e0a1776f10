//! Whole models on the GPU: outputs are the reference's, and do not depend on how a prompt is cut, on the neighbours in a
//! batch, or on whether a step runs for the first time.

use crate::{stored, targets};
use compiler::{
    Weights,
    checkpoint::Checkpoint,
    compress::{ActivationType, CacheType, Rounding},
    models,
};
use ir::{Element, Name, Tensor};
use runtime::{Chunk, Model, Select, Session};
use satura::measure::{Reference, compare, compare_layers};
use std::{
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Every checkpoint with reference outputs, and the file that holds them.
fn references() -> Vec<(PathBuf, PathBuf)> {
    let of = |folder| root().join(folder).read_dir().unwrap();
    let folders = ["tests/fixtures", "tests/matrix"].into_iter().flat_map(of);
    let mut cases: Vec<(PathBuf, PathBuf)> = folders
        .map(|entry| entry.unwrap().path())
        .filter(|dir| dir.is_dir())
        .map(|dir| (dir.clone(), dir.join("expected.safetensors")))
        .collect();
    cases.sort();
    assert!(cases.len() >= 6, "fixtures are missing: {cases:?}");
    let default = root().join("examples/docs-llama-4m");
    cases.push((default.clone(), default.join("reference-short.safetensors")));
    cases
}

fn model(
    dir: &Path,
    weights: Weights,
    activations: ActivationType,
    cache: CacheType,
) -> Arc<Model> {
    let options = compiler::Options {
        precision: compiler::Precision {
            weights,
            activations,
            cache,
        },
        ..stored(&targets()[0])
    };
    let checkpoint = Checkpoint::open(dir).unwrap();
    let out = Cursor::new(vec![]);
    let artifact = compiler::compile(&checkpoint, &options, out, &|_, _, _| {});
    let artifact = artifact.unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    Model::from_bytes(artifact.into_inner()).unwrap()
}

fn session(model: &Arc<Model>, sequences: usize) -> Session {
    let options = runtime::Options {
        sequences,
        ..runtime::Options::default()
    };
    Session::new(model, options).unwrap()
}

fn chunk(sequence: usize, tokens: &[u32]) -> Chunk<'_> {
    Chunk {
        sequence,
        tokens,
        positions: None,
    }
}

#[test]
fn outputs_are_the_reference_s() {
    let mut wrong = vec![];
    for (dir, file) in references() {
        for weights in [Weights::Stored, Weights::F32] {
            let model = model(&dir, weights, ActivationType::F32, CacheType::F32);
            let reference = Reference::open(&file).unwrap();
            let found = compare(&model, &reference, None, &|_, _| {}).unwrap();
            println!("{} ({weights:?}): {found:?}", dir.display());
            if !found.passes() {
                wrong.push(format!("{} ({weights:?}): {found:#?}", dir.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Largest difference, and the largest number.
fn distance(a: &[f32], b: &[f32]) -> (f32, f32) {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.fold((0.0, 0.0), |(d, m), (x, y)| {
        // Whatever is no number is as far as can be.
        let apart = (x - y).abs();
        let apart = if apart.is_nan() { f32::INFINITY } else { apart };
        (f32::max(d, apart), f32::max(m, y.abs()))
    })
}

#[test]
fn a_prompt_at_once_and_token_by_token_give_the_same_logits() {
    // Their rotation depends on how long the sequence is by then, so that keys of earlier steps were rotated otherwise: the
    // reference's too (`dynamic_frequency_update` and `longrope_frequency_update` in transformers/modeling_rope_utils.py).
    let lengths = ["llama_dynamic", "phi3_longrope_beyond"];
    let depends = |dir: &Path| lengths.iter().any(|name| dir.ends_with(name));
    for (dir, file) in references().into_iter().filter(|(dir, _)| !depends(dir)) {
        let model = model(&dir, Weights::Stored, ActivationType::F32, CacheType::F32);
        if model.description().task != ir::Task::CausalLm {
            continue;
        }
        let reference = Reference::open(&file).unwrap();
        let ids = &reference.ids[..reference.length];
        // With a neighbour, which is not to be seen.
        let mut session = session(&model, 2);
        let neighbour = &ids[..ids.len().min(3)];
        let whole = session.step(&[chunk(1, neighbour), chunk(0, ids)], Select::All);
        let whole = whole.unwrap();
        let whole = whole.data[neighbour.len() * whole.vocabulary..].to_vec();
        session.reset(0).unwrap();
        let mut single = vec![];
        for token in ids {
            let logits = session.step(&[chunk(0, &[*token])], Select::Last).unwrap();
            single.extend_from_slice(logits.data);
        }
        let (apart, most) = distance(&whole, &single);
        println!("{}: {apart} of {most}", dir.display());
        assert!(apart <= 1e-4 * most.max(1.0), "{}: {apart}", dir.display());
    }
}

#[test]
fn a_step_repeated_gives_the_same_bits() {
    let dir = root().join("tests/fixtures/llama_gqa");
    let model = model(&dir, Weights::Stored, ActivationType::F32, CacheType::F32);
    let reference = Reference::open(&dir.join("expected.safetensors")).unwrap();
    let ids = &reference.ids[..reference.length];
    let mut session = session(&model, 1);
    let mut step = |tokens: &[u32]| {
        let logits = session.step(&[chunk(0, tokens)], Select::Last).unwrap();
        let bits = logits.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        session.truncate(0, 8).unwrap();
        bits
    };
    step(&ids[..8]);
    // Queued, then recorded, then replayed.
    for tokens in [&ids[8..9], &ids[8..13]] {
        let first = step(tokens);
        for _ in 0..3 {
            assert!(step(tokens) == first, "{} tokens", tokens.len());
        }
    }
}

#[test]
fn each_layer_is_the_program_s() {
    for name in ["llama_gqa", "bert_model"] {
        let dir = root().join("tests/fixtures").join(name);
        let model = model(&dir, Weights::Stored, ActivationType::F32, CacheType::F32);
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let (program, _) = models::build(checkpoint.config(), &checkpoint).unwrap();
        let weight = |name: &Name| {
            let view = checkpoint.tensor(name).ok()?;
            let data = view.to_f32()?.into_iter().map(f64::from).collect();
            Some(Tensor::new(view.shape, data))
        };
        // With the reference's hidden states, which are seen layer by layer too.
        let reference = Reference::open(&dir.join("hidden.safetensors")).unwrap();
        let found = compare(&model, &reference, None, &|_, _| {}).unwrap();
        assert!(
            found.passes() && found.outputs.len() > 3,
            "{name}: {found:#?}"
        );
        let outputs = (&reference, &found);
        let layers = compare_layers(&model, &program, &weight, outputs, None, &|_, _| {}).unwrap();
        assert!(layers.first_divergence().is_none(), "{name}: {layers:#?}");
    }
}

#[test]
fn what_is_rounded_gives_what_the_program_says() {
    let rounded = |element, activations: bool| {
        Weights::Rounded(Rounding {
            element,
            group: 32,
            activations: activations.then_some(Element::Q8),
        })
    };
    let (wide, narrow) = (ActivationType::F32, ActivationType::Bf16);
    for name in ["llama_gqa", "bert_tokcls", "qwen2", "gpt2_leftpad"] {
        for (weights, activations, cache) in [
            (rounded(Element::Q8, false), wide, CacheType::F32),
            (rounded(Element::Q8, true), wide, CacheType::F32),
            (rounded(Element::Q4, false), wide, CacheType::F32),
            (rounded(Element::Q4, false), narrow, CacheType::F32),
            (rounded(Element::E4M3, false), wide, CacheType::F32),
            (rounded(Element::E4M3, false), narrow, CacheType::F32),
            (Weights::Stored, narrow, CacheType::F32),
            (Weights::Stored, narrow, CacheType::Bf16),
            (Weights::Stored, wide, CacheType::F16),
        ] {
            let dir = root().join("tests/fixtures").join(name);
            let cache = match name.starts_with("bert") {
                true => CacheType::F32,
                false => cache,
            };
            let model = model(&dir, weights, activations, cache);
            let checkpoint = Checkpoint::open(&dir).unwrap();
            let (mut program, description) =
                models::build(checkpoint.config(), &checkpoint).unwrap();
            let precision = compiler::Precision {
                weights,
                activations,
                cache,
            };
            let vocabulary = description.vocabulary;
            precision.apply(&mut program, vocabulary).unwrap();
            let weight = |name: &Name| {
                let view = checkpoint.tensor(name).ok()?;
                let data = view.to_f32()?.into_iter().map(f64::from).collect();
                Some(Tensor::new(view.shape, data))
            };
            let reference = Reference::open(&dir.join("expected.safetensors")).unwrap();
            let found = compare(&model, &reference, None, &|_, _| {}).unwrap();
            let outputs = (&reference, &found);
            let layers = compare_layers(&model, &program, &weight, outputs, None, &|_, _| {});
            let layers = layers.unwrap();
            assert!(
                layers.first_divergence().is_none(),
                "{name}, {weights:?}, {activations:?}, {cache:?}: {layers:#?}"
            );
        }
    }
}
