//! Whole models, compiled in memory and run, against the reference implementation and against themselves: outputs,
//! continuations, and what must not change them (threads, neighbours in a batch, how a prompt is cut, compiling again).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use compiler::{
    CompileError, Options, Precision, Weights,
    checkpoint::Checkpoint,
    compress::{ActivationType, CacheType, Rounding},
};
use ir::{DType, Element};
use runtime::{Chunk, EncoderInput, Model, Select, Session, devices::cpu};
use satura::{
    compiler, ir,
    measure::{Reference, compare},
    runtime,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// Every checkpoint with reference outputs, and the file that holds them.
fn references() -> Vec<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let of = |folder| std::fs::read_dir(root.join(folder)).unwrap();
    let folders = ["tests/fixtures", "tests/matrix"].into_iter().flat_map(of);
    let mut cases: Vec<(PathBuf, PathBuf)> = folders
        .map(|entry| entry.unwrap().path())
        .filter(|dir| dir.is_dir())
        .map(|dir| (dir.clone(), dir.join("expected.safetensors")))
        .collect();
    cases.sort();
    assert!(cases.len() >= 6, "fixtures are missing: {cases:?}");
    let default = root.join("examples/docs-llama-4m");
    cases.push((default.clone(), default.join("reference-short.safetensors")));
    cases
}

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn compile(dir: &Path, weights: Weights) -> Vec<u8> {
    let options = Options {
        precision: Precision {
            weights,
            ..Precision::default()
        },
        ..Options::new(cpu::host())
    };
    try_compile(dir, &options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn try_compile(dir: &Path, options: &Options) -> Result<Vec<u8>, CompileError> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let out = compiler::compile(&checkpoint, options, Cursor::new(vec![]), &|_, _, _| {})?;
    Ok(out.into_inner())
}

const fn rounded(element: Element, activations: Option<Element>) -> Weights {
    Weights::Rounded(Rounding {
        element,
        group: 32,
        activations,
    })
}

/// As they are, and of few bits.
const WEIGHTS: [Weights; 3] = [
    Weights::Stored,
    rounded(Element::Q8, Some(Element::Q8)),
    rounded(Element::U4, None),
];

/// The artifact of a model, compiled once for all tests.
fn artifact(dir: &Path, weights: Weights) -> Vec<u8> {
    static ARTIFACTS: Mutex<BTreeMap<(PathBuf, String), Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut artifacts = ARTIFACTS.lock().unwrap();
    let compiled = artifacts
        .entry((dir.into(), format!("{weights:?}")))
        .or_insert_with(|| compile(dir, weights));
    compiled.clone()
}

fn model(dir: &Path, weights: Weights) -> Arc<Model> {
    Model::from_bytes(artifact(dir, weights)).unwrap()
}

/// Every checkpoint with its reference, stored in every way.
fn models() -> impl Iterator<Item = (String, Arc<Model>, Reference)> {
    let stored = |(dir, file): (PathBuf, PathBuf)| {
        WEIGHTS.map(|weights| {
            let what = format!("{} ({weights:?})", dir.display());
            (what, model(&dir, weights), Reference::open(&file).unwrap())
        })
    };
    references().into_iter().flat_map(stored)
}

fn session(model: &Arc<Model>, threads: usize, sequences: usize) -> Session {
    let options = runtime::Options {
        threads: Some(threads),
        sequences,
        context: None,
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

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn outputs_are_the_reference_s() {
    for (dir, file) in references() {
        for weights in [Weights::Stored, Weights::F32] {
            let model = Model::from_bytes(compile(&dir, weights)).unwrap();
            let reference = Reference::open(&file).unwrap();
            let found = compare(&model, &reference, Some(2), &|_, _| {}).unwrap();
            assert!(
                found.passes(),
                "{} ({weights:?}): {found:#?}",
                dir.display()
            );
        }
    }
}

/// What gives the logits of text changes by as much as the bits that are missing, and no more.
#[test]
fn few_bits_give_nearly_the_same() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/docs-llama-4m");
    let reference = Reference::open(&dir.join("reference-short.safetensors")).unwrap();
    let exact = outputs(&model(&dir, Weights::Stored), &reference, 2);
    let size = exact.iter().map(|x| x * x).sum::<f32>().sqrt();
    let (q8, q16) = (Some(Element::Q8), Some(Element::Q16));
    let u8 = Element::Int {
        bits: 8,
        zero: true,
    };
    for (element, activations, least, most) in [
        (Element::Q16, None, 1e-7, 1e-3),
        (Element::Q8, None, 1e-4, 0.03),
        (Element::Q8, q16, 1e-4, 0.03),
        (Element::Q8, q8, 1e-4, 0.05),
        (u8, q8, 1e-4, 0.05),
        (Element::E4M3, None, 1e-3, 0.2),
        (Element::U4, None, 1e-3, 0.4),
        (Element::Q4, None, 1e-3, 0.4),
        (Element::Q4, q8, 1e-3, 0.4),
        (Element::U3, q16, 1e-2, 0.9),
        (Element::Q3, None, 1e-2, 0.9),
    ] {
        let model = Model::from_bytes(compile(&dir, rounded(element, activations))).unwrap();
        let found = outputs(&model, &reference, 2);
        let error = found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2));
        let error = error.sum::<f32>().sqrt() / size;
        println!("{element}, activations {activations:?}: {error}");
        assert!(
            error > least,
            "{element}: nothing was rounded, the error is {error}"
        );
        assert!(
            error <= most,
            "{element}, activations {activations:?}: relative error {error}"
        );
    }
}

/// Weights of f32 as floats of 16 bits take half the bytes, and change outputs by about what a weight is rounded by.
#[test]
fn weights_of_16_bits_give_nearly_the_same() {
    let dir = case("bert_model");
    let reference = Reference::open(&dir.join("expected.safetensors")).unwrap();
    let exact = outputs(&model(&dir, Weights::Stored), &reference, 2);
    let size = exact.iter().map(|x| x * x).sum::<f32>().sqrt();
    let bytes = |weights| compile(&dir, weights).len() as f64;
    for (dtype, least, most) in [(DType::F16, 1e-5, 2e-3), (DType::BF16, 1e-4, 2e-2)] {
        let weights = Weights::Float(dtype);
        let model = Model::from_bytes(compile(&dir, weights)).unwrap();
        let found = outputs(&model, &reference, 2);
        let error = found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2));
        let error = error.sum::<f32>().sqrt() / size;
        assert!(
            (least..most).contains(&error),
            "{dtype}: relative error {error}"
        );
        assert!(bytes(weights) < 0.9 * bytes(Weights::Stored), "{dtype}");
    }
}

/// Rounded to 8 bits of significand, what products multiply changes logits by about as much.
#[test]
fn narrow_activations_give_nearly_the_same() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/docs-llama-4m");
    let reference = Reference::open(&dir.join("reference-short.safetensors")).unwrap();
    let exact = outputs(&model(&dir, Weights::Stored), &reference, 2);
    let options = Options {
        precision: Precision {
            activations: ActivationType::Bf16,
            ..Precision::default()
        },
        ..Options::new(cpu::host())
    };
    let narrow = Model::from_bytes(try_compile(&dir, &options).unwrap()).unwrap();
    let found = outputs(&narrow, &reference, 2);
    let size = exact.iter().map(|x| x * x).sum::<f32>().sqrt();
    let error = found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2));
    let error = error.sum::<f32>().sqrt() / size;
    assert!((1e-4..0.02).contains(&error), "relative error {error}");
}

/// Rounded to 11 and to 8 bits, and to integers up to 127, keys and values change logits by about as much, or tenfold where a norm divides by a small
/// difference (two layers of a few random weights, as OLMo 2 of the matrix is); where keys hold positions they are not
/// rounded, and what keeps nothing has nothing to round.
#[test]
fn narrow_caches_give_nearly_the_same() {
    let mut refused = vec![];
    for (dir, file) in references() {
        let (name, exact) = (dir.display(), model(&dir, Weights::Stored));
        let reference = Reference::open(&file).unwrap();
        let kinds = [
            (CacheType::F16, 3e-3),
            (CacheType::Bf16, 3e-2),
            (CacheType::Int8, 3e-2),
        ];
        for (cache, most) in kinds {
            let options = Options {
                precision: Precision {
                    cache,
                    ..Precision::default()
                },
                ..Options::new(cpu::host())
            };
            let artifact = match try_compile(&dir, &options) {
                Ok(artifact) => artifact,
                Err(e) => {
                    let decodes = exact.description().task == ir::Task::CausalLm;
                    let why = if decodes {
                        "ALiBi"
                    } else {
                        "no key/value cache"
                    };
                    assert!(e.to_string().contains(why), "{name}: {e}");
                    refused.push((decodes, dir.file_name().unwrap().to_owned()));
                    continue;
                }
            };
            let narrow = Model::from_bytes(artifact).unwrap();
            let states = &narrow.manifest().plan.states;
            let coded = states.iter().filter(|s| s.layout.coded()).count();
            let all = (cache == CacheType::Int8) as usize * states.len();
            assert_eq!(coded, all, "{name} {cache:?}: states of integers");
            let [one, two] = [1, 2].map(|threads| outputs(&narrow, &reference, threads));
            assert!(bits(&one) == bits(&two), "{name} {cache:?}: threads");
            let expected = outputs(&exact, &reference, 2);
            let size = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
            let error = two.iter().zip(&expected).map(|(a, b)| (a - b).powi(2));
            let error = error.sum::<f32>().sqrt() / size;
            println!("{name} {cache:?}: {error}");
            assert!(
                error > 0.0 && error <= most,
                "{name} {cache:?}: relative error {error}"
            );
        }
    }
    refused.retain(|(decodes, _)| *decodes);
    let refused: BTreeSet<_> = refused
        .iter()
        .filter_map(|(_, name)| name.to_str())
        .collect();
    assert_eq!(refused, BTreeSet::from(["bloom", "falcon_alibi"]));
}

#[test]
fn caches_of_integers_are_refused_for_gpus() {
    let (dir, _) = references().swap_remove(0);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let options = Options {
        precision: Precision {
            cache: CacheType::Int8,
            ..Precision::default()
        },
        ..Options::new("sm_90a".parse().unwrap())
    };
    let refused = compiler::Compilation::new(&checkpoint, &options, &|_, _, _| {});
    let why = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        why.contains("compile with a cache of f32, f16 or bf16"),
        "{why}"
    );
}

#[test]
fn compiling_again_gives_the_same_bytes() {
    for ((dir, _), weights) in references().into_iter().zip(WEIGHTS.into_iter().cycle()) {
        assert!(
            artifact(&dir, weights) == compile(&dir, weights),
            "{} ({weights:?}): compiled twice, two artifacts",
            dir.display()
        );
    }
}

/// Everything a model says about a reference's inputs: logits of all tokens, or all outputs.
fn outputs(model: &Arc<Model>, reference: &Reference, threads: usize) -> Vec<f32> {
    let rows = reference.ids.chunks(reference.length);
    let masks = |i: usize| {
        reference
            .mask
            .as_ref()
            .map(|m| &m[i * reference.length..][..reference.length])
    };
    if model.description().task == ir::Task::CausalLm {
        let mut session = session(model, threads, reference.sequences);
        let batch: Vec<Chunk<'_>> = rows.enumerate().map(|(i, ids)| chunk(i, ids)).collect();
        return session.step(&batch, Select::All).unwrap().data.to_vec();
    }
    let mut session = session(model, threads, 1);
    if let Some(pixels) = &reference.pixels {
        let images = pixels.chunks(pixels.len() / reference.sequences);
        let outputs = session.encode_images(&images.collect::<Vec<_>>()).unwrap();
        let rows = outputs.iter().flat_map(|o| o.iter().map(|(_, rows)| rows));
        return rows.flat_map(|rows| rows.data.clone()).collect();
    }
    let input = |(i, ids)| EncoderInput {
        ids,
        mask: masks(i),
        ..EncoderInput::default()
    };
    let inputs: Vec<EncoderInput<'_>> = rows.enumerate().map(input).collect();
    let outputs = session.encode(&inputs).unwrap();
    let data = outputs
        .iter()
        .flat_map(|o| o.iter().flat_map(|(_, rows)| rows.data.clone()));
    data.collect()
}

#[test]
fn threads_do_not_change_a_bit() {
    for (what, model, reference) in models() {
        let one = outputs(&model, &reference, 1);
        for threads in [2, 3] {
            let more = outputs(&model, &reference, threads);
            assert!(bits(&one) == bits(&more), "{what}: {threads} threads");
        }
    }
}

#[test]
fn neighbours_do_not_change_a_bit() {
    for (what, model, reference) in models() {
        let together = outputs(&model, &reference, 2);
        let mut alone = vec![];
        for sequence in 0..reference.sequences {
            let range = sequence * reference.length..(sequence + 1) * reference.length;
            let image = |p: &Vec<f32>| {
                let size = p.len() / reference.sequences;
                p[sequence * size..][..size].to_vec()
            };
            let row = Reference {
                sequences: 1,
                ids: reference
                    .ids
                    .get(range.clone())
                    .unwrap_or_default()
                    .to_vec(),
                pixels: reference.pixels.as_ref().map(image),
                mask: reference.mask.as_ref().map(|m| m[range].to_vec()),
                ..reference.clone()
            };
            alone.extend(outputs(&model, &row, 2));
        }
        assert!(bits(&together) == bits(&alone), "{what}");
    }
}

#[test]
fn a_prompt_at_once_and_token_by_token_give_the_same_logits() {
    for dir in [case("llama_gqa"), case("llama_tied_llama3")] {
        let (model, reference) = (
            model(&dir, Weights::Stored),
            Reference::open(&dir.join("expected.safetensors")).unwrap(),
        );
        for ids in reference.ids.chunks(reference.length) {
            let mut session = session(&model, 2, 1);
            let whole = session
                .step(&[chunk(0, ids)], Select::All)
                .unwrap()
                .data
                .to_vec();
            session.reset(0).unwrap();
            let mut single = vec![];
            for token in ids {
                let logits = session.step(&[chunk(0, &[*token])], Select::Last).unwrap();
                single.extend_from_slice(logits.data);
            }
            let difference = whole
                .iter()
                .zip(&single)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(
                difference <= 1e-5,
                "{}: logits differ by {difference}",
                dir.display()
            );
        }
    }
}

#[test]
fn a_sequence_goes_on_where_it_was_cut() {
    let dir = case("llama_gqa");
    let (model, reference) = (
        model(&dir, rounded(Element::Q8, Some(Element::Q8))),
        Reference::open(&dir.join("expected.safetensors")).unwrap(),
    );
    let (first, second) = (
        &reference.ids[..reference.length],
        &reference.ids[reference.length..][..9],
    );
    let mut session = session(&model, 2, 2);
    let whole = session
        .step(&[chunk(0, first)], Select::Last)
        .unwrap()
        .data
        .to_vec();
    session.reset(0).unwrap();
    session
        .step(&[chunk(1, second), chunk(0, &first[..5])], Select::Last)
        .unwrap();
    session
        .step(&[chunk(0, &first[5..6])], Select::Last)
        .unwrap();
    let rest = session
        .step(&[chunk(0, &first[6..])], Select::Last)
        .unwrap()
        .data
        .to_vec();
    assert_eq!(bits(&whole), bits(&rest), "cut in three, with a neighbour");
    session.truncate(0, 6).unwrap();
    let again = session
        .step(&[chunk(0, &first[6..])], Select::Last)
        .unwrap()
        .data
        .to_vec();
    assert_eq!(bits(&whole), bits(&again), "taken back and given again");
}
