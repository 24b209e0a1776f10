//! Model families: built programs, run by the reference interpreter, give the reference implementation's outputs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod coverage;
mod pooling;
mod refusals;
mod spellings;
mod usage;

use compiler::{checkpoint::Checkpoint, models};
use indexmap::IndexMap;
use ir::{Description, Name, Operand, Positions, Program, Sym, Task, Tensor, feed};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// Names of every fixture.
fn fixtures() -> Vec<String> {
    let entries = fs::read_dir(fixture("")).unwrap();
    let dirs = entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    let name = |dir: PathBuf| dir.file_name().unwrap().to_str().unwrap().to_string();
    let mut found: Vec<String> = dirs.map(name).collect();
    found.sort();
    found
}

/// Names of every fixture and of what is tried once: `matrix/...`.
fn references() -> Vec<String> {
    let mut found = fixtures();
    let entries = fs::read_dir(fixture("matrix/")).unwrap();
    let names = entries.map(|e| e.unwrap().file_name());
    found.extend(names.map(|name| format!("matrix/{}", name.to_str().unwrap())));
    found.sort();
    found
}

/// Names of the references that are decoders, or of those that are not: decoders have a greedy continuation.
fn those(decoders: bool) -> impl Iterator<Item = String> {
    let decodes = |name: &str| manifest(&fixture(name))["outputs"].get("greedy").is_some();
    let found = references().into_iter();
    found.filter(move |name| decodes(name) == decoders)
}

fn fixture(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    match name.starts_with("matrix/") {
        true => tests.join(name),
        false => tests.join("fixtures").join(name),
    }
}

/// Tensors of a safetensors file of reference values.
fn tensors(file: &Path) -> HashMap<String, Tensor> {
    let bytes = fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |view: &safetensors::tensor::TensorView| -> Vec<f64> {
        let data = view.data();
        match view.dtype() {
            Dtype::I64 => {
                let ints = data.as_chunks().0.iter();
                ints.map(|x| i64::from_le_bytes(*x) as f64).collect()
            }
            Dtype::F32 => {
                let floats = data.as_chunks().0.iter();
                floats.map(|x| f64::from(f32::from_le_bytes(*x))).collect()
            }
            other => panic!("a reference tensor of {other:?}"),
        }
    };
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(name, view)| (name, Tensor::new(view.shape(), read(&view))))
        .collect()
}

/// A program with its weights and state.
struct Machine {
    program: Program,
    description: Description,
    weights: HashMap<Name, Tensor>,
    states: IndexMap<Name, Tensor>,
}

impl Machine {
    /// The model of a directory, with room for `rows` in its cache.
    fn load(dir: &Path, rows: usize) -> Machine {
        Machine::new(&Checkpoint::open(dir).unwrap(), rows)
    }

    fn new(checkpoint: &Checkpoint, rows: usize) -> Machine {
        let (program, description) = models::build(checkpoint.config(), checkpoint).unwrap();
        assert_eq!(program.verify(), []);
        let read = |name: &Name| {
            let view = checkpoint.tensor(name).unwrap();
            let data = view.to_f32().unwrap().into_iter().map(f64::from);
            (name.clone(), Tensor::new(view.shape, data.collect()))
        };
        let states = program.states.iter().map(|(name, ty)| {
            let shape = ty.at(&|_| rows as i64);
            (name.clone(), Tensor::from_fn(&shape, |_| 0.0))
        });
        Machine {
            weights: program.weights.keys().map(read).collect(),
            states: states.collect(),
            program,
            description,
        }
    }

    fn step(&mut self, feeds: &HashMap<&str, Vec<f64>>) -> IndexMap<Name, Tensor> {
        let wanted: Vec<&Name> = self.program.inputs.keys().collect();
        let given = |operand: &Operand| match operand {
            Operand::Input(name) => {
                let data = feeds.get(&**name).cloned()?;
                Some(match &**name {
                    feed::PATCHES => {
                        let tokens = feeds[feed::TOKENS].len();
                        Tensor::new([tokens, data.len() / tokens], data)
                    }
                    _ => Tensor::new([data.len()], data),
                })
            }
            Operand::Weight(name) => self.weights.get(name).cloned(),
            _ => None,
        };
        let rows = self.states.values().next().map_or(0, |s| s.shape[0]);
        let at = |sym: &Sym| match &*sym.name {
            feed::R => rows as i64,
            feed::T => feeds[feed::TOKENS].len() as i64,
            feed::L => feeds[feed::SELECT].len() as i64,
            feed::B => feeds[feed::STARTS].len() as i64,
            other => panic!("symbol {other} among {wanted:?}"),
        };
        self.program.eval(&given, &mut self.states, &at).unwrap()
    }
}

/// Kept columns of each row: those whose mask is not 0.
fn kept(reference: &HashMap<String, Tensor>) -> Vec<Vec<usize>> {
    let [rows, columns] = reference["input_ids"].shape[..] else {
        panic!("input_ids are a matrix");
    };
    let mask = reference.get("attention_mask");
    let keep = |r: usize, c: usize| mask.is_none_or(|m| m.data[r * columns + c] != 0.0);
    (0..rows)
        .map(|r| (0..columns).filter(|c| keep(r, *c)).collect())
        .collect()
}

/// Checks one output against its reference under the fixture's tolerance.
fn within(name: &str, tolerance: &Value, pairs: impl Iterator<Item = (f64, f64)>) {
    let [atol, rtol, largest] =
        ["atol", "rtol", "max_want"].map(|key| tolerance[key].as_f64().unwrap());
    for (got, want) in pairs {
        let error = (got - want).abs();
        assert!(
            error <= atol && (want.abs() < largest / 100.0 || error <= rtol * want.abs()),
            "{name}: {got} where the reference has {want}; tolerance {atol} and {rtol} of it"
        );
    }
}

/// Pairs of a per-token output `[tokens, width]`, packed, and its padded reference `[rows, columns, width]`.
fn pairs<'a>(
    got: &'a Tensor,
    want: &'a Tensor,
    kept: &[Vec<usize>],
) -> impl Iterator<Item = (f64, f64)> + 'a {
    let (columns, width) = (want.shape[1], want.shape[2]);
    let tokens = kept.iter().enumerate();
    let tokens = tokens.flat_map(|(r, kept)| kept.iter().map(move |c| r * columns + c));
    let wanted: Vec<usize> = tokens.collect();
    assert_eq!(got.shape, [wanted.len(), width]);
    let values = wanted
        .into_iter()
        .flat_map(move |t| &want.data[t * width..][..width]);
    got.data.iter().copied().zip(values.copied())
}

/// The feeds of an encoder's step over the kept tokens of a reference.
fn packed(
    reference: &HashMap<String, Tensor>,
    kept: &[Vec<usize>],
    positions: Positions,
) -> HashMap<&'static str, Vec<f64>> {
    let columns = reference["input_ids"].shape[1];
    let types = reference.get("token_type_ids");
    let mut feeds: HashMap<&str, Vec<f64>> = HashMap::new();
    for (r, kept) in kept.iter().enumerate() {
        let start = feeds.get(feed::TOKENS).map_or(0, Vec::len) as f64;
        let end = start + kept.len() as f64;
        let mut put = |name, x| feeds.entry(name).or_default().push(x);
        put(feed::STARTS, start);
        put(feed::ENDS, end);
        let ids = &reference["input_ids"].data[r * columns..][..columns];
        let position = |c: usize| match positions {
            Positions::Index => c as f64,
            Positions::Unmasked => kept.iter().position(|k| *k == c).unwrap() as f64,
            Positions::NonPadding { pad } => {
                let counted = ids[..=c].iter().filter(|id| **id != f64::from(pad));
                f64::from(pad) + counted.count() as f64
            }
        };
        for (i, c) in kept.iter().enumerate() {
            let (at, row) = (r * columns + c, start + i as f64);
            put(feed::TOKENS, reference["input_ids"].data[at]);
            put(feed::TOKEN_TYPES, types.map_or(0.0, |t| t.data[at]));
            put(feed::POSITIONS, position(*c));
            put(feed::ROWS, row);
            put(feed::LO, start);
            put(feed::HI, end);
        }
    }
    feeds
}

/// The feeds of a step over images: for each a token of zeros, then one for each patch.
fn seen(pixels: &Tensor, description: &Description) -> HashMap<&'static str, Vec<f64>> {
    let form = description.image.as_ref().unwrap();
    let tokens = form.patches() + 1;
    let mut feeds: HashMap<&str, Vec<f64>> = HashMap::new();
    for image in 0..pixels.shape[0] {
        let mut put = |name, x: usize| feeds.entry(name).or_default().push(x as f64);
        let start = image * tokens;
        put(feed::STARTS, start);
        put(feed::ENDS, start + tokens);
        for token in 0..tokens {
            put(feed::TOKENS, 0);
            put(feed::POSITIONS, token);
            put(feed::ROWS, start + token);
            put(feed::LO, start);
            put(feed::HI, start + tokens);
        }
        let patches = feeds.entry(feed::PATCHES).or_default();
        patches.extend(vec![0.0; form.numbers()]);
        let across = form.width / form.patch;
        for patch in 0..form.patches() {
            let (top, left) = (patch / across * form.patch, patch % across * form.patch);
            for channel in 0..form.channels {
                for (y, x) in (0..form.patch).flat_map(|y| (0..form.patch).map(move |x| (y, x))) {
                    let at = [image, channel, top + y, left + x];
                    patches.push(pixels.data[pixels.offset(&at)]);
                }
            }
        }
    }
    feeds
}

fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn encoders_agree_with_the_reference() {
    for name in those(false) {
        let dir = fixture(&name);
        let (reference, manifest) = (tensors(&dir.join("expected.safetensors")), manifest(&dir));
        let mut machine = Machine::load(&dir, 0);
        let (kept, feeds) = match reference.get("pixel_values") {
            Some(pixels) => {
                let tokens = machine.description.context;
                let kept = vec![(0..tokens).collect(); pixels.shape[0]];
                (kept, seen(pixels, &machine.description))
            }
            None => {
                let kept = kept(&reference);
                let feeds = packed(&reference, &kept, machine.description.positions);
                (kept, feeds)
            }
        };
        let outputs = machine.step(&feeds);
        let expected = manifest["outputs"].as_object().unwrap();
        assert_eq!(outputs.len(), expected.len(), "{name}");
        for output in expected.keys() {
            let (got, want) = (&outputs[output.as_str()], &reference[output]);
            let place = format!("{name}: {output}");
            let tolerance = &manifest["tolerance"][output];
            if want.shape.len() == 3 {
                within(&place, tolerance, pairs(got, want, &kept));
            } else {
                assert_eq!(got.shape, want.shape, "{place}");
                let values = got.data.iter().copied().zip(want.data.iter().copied());
                within(&place, tolerance, values);
            }
        }
    }
}

/// Sequences in a cache where each has `room` rows, one after another.
struct Sequences {
    machine: Machine,
    room: usize,
    /// Distance of neighbours' positions.
    stride: usize,
    lengths: Vec<usize>,
}

impl Sequences {
    fn new(dir: &Path, count: usize, room: usize) -> Sequences {
        Sequences::of(&Checkpoint::open(dir).unwrap(), count, room)
    }

    fn of(checkpoint: &Checkpoint, count: usize, room: usize) -> Sequences {
        Sequences {
            machine: Machine::new(checkpoint, count * room),
            stride: 1,
            room,
            lengths: vec![0; count],
        }
    }

    /// Logits of all of the new tokens of each sequence, packed.
    fn step(&mut self, new: &[Vec<f64>]) -> Tensor {
        let mut feeds: HashMap<&str, Vec<f64>> = HashMap::new();
        for (s, tokens) in new.iter().enumerate() {
            let length = self.lengths[s] + tokens.len();
            for token in tokens {
                let (first, position) = (s * self.room, self.lengths[s]);
                let mut put = |name, x: usize| feeds.entry(name).or_default().push(x as f64);
                put(feed::TOKENS, *token as usize);
                put(feed::POSITIONS, position * self.stride);
                put(feed::LO, first);
                put(feed::HI, first + position + 1);
                put(feed::ROWS, first + position);
                put(feed::LENGTHS, length);
                self.lengths[s] += 1;
            }
        }
        let all = (0..feeds[feed::TOKENS].len()).map(|t| t as f64).collect();
        feeds.insert(feed::SELECT, all);
        self.machine.step(&feeds).swap_remove("logits").unwrap()
    }
}

/// The likeliest token by row `t` of logits.
fn best(logits: &Tensor, t: usize) -> f64 {
    let width = logits.shape[1];
    let row = &logits.data[t * width..][..width];
    (0..width)
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
        .unwrap() as f64
}

/// The rows of a matrix of ids.
fn rows(ids: &Tensor) -> Vec<Vec<f64>> {
    ids.data.chunks(ids.shape[1]).map(<[f64]>::to_vec).collect()
}

#[test]
fn decoders_agree_with_the_reference() {
    for name in those(true) {
        let dir = fixture(&name);
        let (reference, manifest) = (tensors(&dir.join("expected.safetensors")), manifest(&dir));
        let kept = kept(&reference);
        let (ids, greedy) = (rows(&reference["input_ids"]), rows(&reference["greedy"]));
        let prompts = ids.iter().zip(&kept);
        let prompts: Vec<Vec<f64>> = prompts
            .map(|(ids, kept)| kept.iter().map(|c| ids[*c]).collect())
            .collect();
        let (count, length) = (prompts.len(), ids[0].len());
        let room = length + greedy[0].len();
        let mut sequences = Sequences::new(&dir, count, room);
        assert_eq!(sequences.machine.description.task, Task::CausalLm);
        assert_eq!(sequences.machine.description.eos, [2], "{name}");

        let mut logits = sequences.step(&prompts);
        let compared = pairs(&logits, &reference["logits"], &kept);
        within(&name, &manifest["tolerance"]["logits"], compared);

        let ends = prompts.iter().scan(0, |end, prompt| {
            *end += prompt.len();
            Some(*end - 1)
        });
        let mut last: Vec<usize> = ends.collect();
        for step in 0..greedy[0].len() {
            let next: Vec<f64> = last.iter().map(|t| best(&logits, *t)).collect();
            let want: Vec<f64> = greedy.iter().map(|g| g[step]).collect();
            assert_eq!(next, want, "{name}: greedy step {step}");
            let next: Vec<Vec<f64>> = next.into_iter().map(|token| vec![token]).collect();
            logits = sequences.step(&next);
            last = (0..count).collect();
        }
    }
}

#[test]
fn single_steps_give_what_one_step_gives() {
    let dir = fixture("llama_gqa");
    let prompts = rows(&tensors(&dir.join("expected.safetensors"))["input_ids"]);
    let (first, second) = (&prompts[0][..9], &prompts[1][..5]);
    let mut whole = Sequences::new(&dir, 2, 9);
    let together = whole.step(&[first.to_vec(), second.to_vec()]);
    let mut single = Sequences::new(&dir, 2, 9);
    let mut apart: Vec<Vec<f64>> = vec![];
    for token in first {
        apart.push(single.step(&[vec![*token], vec![]]).data);
    }
    for token in second {
        apart.push(single.step(&[vec![], vec![*token]]).data);
    }
    let apart = Tensor::new(together.shape.clone(), apart.concat());
    assert!(together.max_abs_diff(&apart) < 1e-9);
}

#[test]
fn linear_scaling_divides_positions() {
    let prompt = vec![
        rows(&tensors(&fixture("llama_gqa").join("expected.safetensors"))["input_ids"])[0][..12]
            .to_vec(),
    ];
    let plain = Sequences::new(&fixture("llama_gqa"), 1, 12).step(&prompt);
    let spellings = [
        json!({"rope_scaling": {"type": "linear", "factor": 4.0}}),
        json!({"rope_scaling": {"rope_type": "linear", "factor": 4}}),
        json!({"rope_theta": null,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    ];
    for changes in spellings {
        let checkpoint = Checkpoint::from_files(files("llama_gqa", &changes)).unwrap();
        let mut scaled = Sequences::of(&checkpoint, 1, 12);
        scaled.stride = 4;
        let difference = scaled.step(&prompt).max_abs_diff(&plain);
        assert!(difference < 1e-9, "{changes}: {difference}");
    }
}

#[test]
fn the_default_model_agrees_with_the_reference() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/docs-llama-4m");
    let reference = tensors(&dir.join("reference-short.safetensors"));
    let prompts = rows(&reference["input_ids"]);
    let mut sequences = Sequences::new(&dir, prompts.len(), prompts[0].len());
    let logits = sequences.step(&prompts);
    let pairs = pairs(&logits, &reference["logits"], &kept(&reference));
    let (mut error, mut size) = (0.0, 0.0);
    for (got, want) in pairs {
        error += (got - want).powi(2);
        size += want.powi(2);
    }
    let relative = (error / size).sqrt();
    assert!(relative < 2e-5, "relative error {relative}");
}

#[test]
fn depth_adds_calls_but_no_graphs() {
    for (name, layers) in [("llama_gqa", 3), ("bert_tokcls", 3)] {
        let machine = Machine::load(&fixture(name), 0);
        assert_eq!(machine.description.layers, layers);
        assert_eq!(machine.program.graphs.len(), 3, "{name}");
        assert_eq!(machine.program.calls.len(), layers + 2, "{name}");
    }
}

/// The files of a fixture, its config changed: a key's value set, or removed by null.
fn files(name: &str, changes: &Value) -> Vec<(String, Cow<'static, [u8]>)> {
    let entries = fs::read_dir(fixture(name)).unwrap();
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            if path.ends_with("config.json") {
                bytes = changed(name, changes);
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.to_string(), Cow::Owned(bytes))
        })
        .collect()
}

fn changed(name: &str, changes: &Value) -> Vec<u8> {
    let bytes = fs::read(fixture(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&bytes).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.to_string().into_bytes()
}

#[test]
fn checkpoints_of_the_bare_model_lead_to_the_same_program_and_back() {
    let bare = Machine::load(&fixture("bert_model"), 0);
    assert!(bare.program.outputs.contains_key("pooler_output"));
    assert!(bare.program.weights.keys().all(|n| !n.starts_with("bert.")));
    let files = files("bert_seqcls", &json!({"architectures": ["BertModel"]}));
    let checkpoint = Checkpoint::from_files(files).unwrap();
    let (program, description) = models::build(checkpoint.config(), &checkpoint).unwrap();
    assert!(program.outputs.contains_key("last_hidden_state"));
    assert!(program.weights.contains_key("bert.pooler.dense.weight"));
    assert_eq!(description.task, Task::Embedding { normalize: false });
    assert_eq!((description.vocabulary, description.context), (256, 64));
}

#[test]
fn built_programs_are_as_recorded_and_read_back() {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path("../../../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for name in fixtures() {
        let program = Machine::load(&fixture(&name), 0).program;
        let text = program.to_string();
        let read: Program = text.parse().unwrap();
        assert!(read == program, "{name} reads back as another program");
        settings.bind(|| insta::assert_snapshot!(format!("{name}@built"), text));
    }
}
