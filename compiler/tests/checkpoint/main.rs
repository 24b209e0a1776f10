//! Checkpoints: the fixtures load, every fault of config.json, index and weights is a clear error, and no damage panics.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config;
mod faults;

use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use compiler::checkpoint::{Checkpoint, CheckpointError, Config};
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

const VOCAB: usize = 5;
const HIDDEN: usize = 4;

/// A tensor to write: name, dtype, shape, bytes.
type Tensor = (&'static str, &'static str, Vec<usize>, Vec<u8>);

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn counting(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 - 3.0).collect()
}

fn embed() -> Tensor {
    (
        "model.embed.weight",
        "F32",
        vec![VOCAB, HIDDEN],
        f32s(&counting(VOCAB * HIDDEN)),
    )
}

fn norm() -> Tensor {
    let data = counting(HIDDEN)
        .iter()
        .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
        .collect();
    ("model.norm.weight", "BF16", vec![HIDDEN], data)
}

fn head() -> Tensor {
    let data = counting(VOCAB * HIDDEN)
        .iter()
        .flat_map(|&x| f16::from_f32(x).to_le_bytes())
        .collect();
    ("lm_head.weight", "F16", vec![VOCAB, HIDDEN], data)
}

/// A header and data of a safetensors file, put together.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut entries = vec![r#""__metadata__":{"format":"pt"}"#.to_string()];
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend(bytes);
        entries.push(format!(
            r#""{name}":{}"#,
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets})
        ));
    }
    file(&format!("{{{}}}", entries.join(",")), &data)
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCAB,
        "num_hidden_layers": 1, "num_attention_heads": 2
    })
}

fn index(of: &[(&str, &str)]) -> String {
    let map: serde_json::Map<_, _> = of
        .iter()
        .map(|(name, file)| (name.to_string(), json!(file)))
        .collect();
    json!({"metadata": {"total_size": 0}, "weight_map": map}).to_string()
}

/// A good checkpoint in one file.
fn single() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "config.json", config().to_string());
    write(
        &dir,
        "model.safetensors",
        safetensors(&[embed(), norm(), head()]),
    );
    dir
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

/// The same in two shards.
fn sharded() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "config.json", config().to_string());
    write(&dir, ONE, safetensors(&[embed()]));
    write(&dir, TWO, safetensors(&[norm(), head()]));
    let map = [
        ("model.embed.weight", ONE),
        ("model.norm.weight", TWO),
        ("lm_head.weight", TWO),
    ];
    write(&dir, "model.safetensors.index.json", index(&map));
    dir
}

fn write(dir: impl AsRef<Path>, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(dir.as_ref().join(name), bytes).unwrap();
}

/// All that a model family does before it compiles.
fn load(dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let config = Config::read(dir)?;
    config.architecture()?;
    config.usize("num_hidden_layers")?;
    config.quotient("hidden_size", "num_attention_heads")?;
    let (hidden, vocab) = (config.usize("hidden_size")?, config.usize("vocab_size")?);
    let checkpoint = Checkpoint::open(dir)?.with_prefixes(&["model."]);
    for name in ["embed.weight", "lm_head.weight"] {
        checkpoint.expect(
            name,
            &[vocab, hidden],
            &format!("vocab_size = {vocab}, hidden_size = {hidden}"),
        )?;
    }
    checkpoint.expect("norm.weight", &[hidden], &format!("hidden_size = {hidden}"))?;
    checkpoint.check_finite(["embed.weight", "norm.weight", "lm_head.weight"])?;
    Ok(checkpoint)
}

/// `fault` breaks a good directory; loading it must then fail with a message that has all of `words`.
fn check(name: &str, good: fn() -> TempDir, fault: impl FnOnce(&Path), words: &[&str]) {
    let dir = good();
    load(dir.path()).unwrap_or_else(|e| panic!("{name}: the good one fails: {e}"));
    fault(dir.path());
    let Err(error) = load(dir.path()) else {
        panic!("{name}: loads in spite of the fault")
    };
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{name}: no {word:?} in {message:?}");
    }
}

#[test]
fn names_are_found_in_every_spelling() {
    let name = |name: &'static str| -> Tensor { (name, "F32", vec![1], f32s(&[1.0])) };
    for (there, asked) in [
        ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.weight"),
        (
            "bert.embeddings.LayerNorm.weight",
            "embeddings.LayerNorm.weight",
        ),
        (
            "bert.embeddings.LayerNorm.gamma",
            "embeddings.LayerNorm.weight",
        ),
        ("embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias"),
        (
            "embeddings.LayerNorm.weight",
            "bert.embeddings.LayerNorm.weight",
        ),
        ("module.bert.pooler.dense.bias", "pooler.dense.bias"),
        ("_orig_mod.classifier.bias", "classifier.bias"),
    ] {
        let dir = single();
        write(
            &dir,
            "model.safetensors",
            safetensors(&[name(there), name("other.weight")]),
        );
        let checkpoint = Checkpoint::open(dir.path())
            .unwrap()
            .with_prefixes(&["bert."]);
        assert_eq!(checkpoint.tensor(asked).unwrap().name, there);
        assert_eq!(checkpoint.unused([asked]), ["other.weight"]);
        assert!(checkpoint.find("absent.weight").unwrap().is_none());
    }
}

#[test]
fn a_header_of_odd_length_gives_the_same_numbers() {
    let spaces = |n: usize| {
        let header = format!(
            r#"{{"w":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}{}}}"#,
            " ".repeat(n)
        );
        let files = [
            ("config.json", config().to_string().into_bytes()),
            ("model.safetensors", file(&header, &f32s(&counting(4)))),
        ];
        let checkpoint = Checkpoint::from_files(
            files.map(|(name, bytes)| (name.to_string(), Cow::Owned(bytes))),
        )
        .unwrap();
        checkpoint.tensor("w").unwrap().to_f32().unwrap()
    };
    for n in 0..8 {
        assert_eq!(spaces(n), counting(4));
    }
}

#[test]
fn the_digest_is_of_content_and_the_fingerprint_of_times() {
    let dir = sharded();
    let open = || Checkpoint::open(dir.path()).unwrap();
    let digest = open().digest().unwrap();
    let fingerprint = open().fingerprint().unwrap();
    assert_eq!(open().digest().unwrap(), digest);
    assert_eq!(open().fingerprint().unwrap(), fingerprint);
    assert_eq!(
        sharded_digest(),
        digest,
        "another directory with the same content"
    );

    let mut shard = fs::read(dir.path().join(TWO)).unwrap();
    *shard.last_mut().unwrap() ^= 1;
    write(&dir, TWO, shard);
    let flipped = open().digest().unwrap();
    assert_ne!(flipped, digest);
    assert_ne!(open().fingerprint().unwrap(), fingerprint);
    for name in [
        "tokenizer.json",
        "generation_config.json",
        "1_Pooling/config.json",
    ] {
        fs::create_dir_all(dir.path().join("1_Pooling")).unwrap();
        let before = open().digest().unwrap();
        write(&dir, name, "{}");
        assert_ne!(open().digest().unwrap(), before, "{name}");
    }

    fn sharded_digest() -> [u8; 32] {
        Checkpoint::open(sharded().path())
            .unwrap()
            .digest()
            .unwrap()
    }
}

#[test]
fn files_that_change_after_opening_are_named() {
    let check = |change: &dyn Fn(&Path), file: &str, how: &str| {
        let dir = sharded();
        write(&dir, "tokenizer.json", "{}");
        // Long enough for the next change to have another time.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let fingerprint = checkpoint.fingerprint().unwrap();
        checkpoint.unchanged().unwrap();
        change(dir.path());
        let error = checkpoint.unchanged().unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, CheckpointError::Changed { .. }),
            "{message}"
        );
        assert!(message.contains(file) && message.contains(how), "{message}");
        // What was opened is what it was; opened again it is something else, or cannot be.
        assert_eq!(checkpoint.fingerprint().unwrap(), fingerprint);
        if let Ok(again) = Checkpoint::open(dir.path()) {
            assert_ne!(again.fingerprint().unwrap(), fingerprint, "{message}");
            again.unchanged().unwrap();
        }
    };
    let rewrite = |name: &'static str| {
        move |dir: &Path| {
            // Other bytes, the same size, the same modification time.
            let path = dir.join(name);
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            let mut file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all(&bytes).unwrap();
            file.set_modified(before).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        }
    };
    if cfg!(unix) {
        check(&rewrite(TWO), TWO, "it was written to");
        check(
            &rewrite("tokenizer.json"),
            "tokenizer.json",
            "it was written to",
        );
    }
    let replace = |dir: &Path| {
        fs::copy(dir.join(ONE), dir.join("new")).unwrap();
        fs::rename(dir.join("new"), dir.join(ONE)).unwrap();
    };
    check(&replace, ONE, "another file is in its place");
    let grow = |dir: &Path| {
        let mut file = fs::File::options()
            .append(true)
            .open(dir.join("config.json"))
            .unwrap();
        file.write_all(b"\n").unwrap();
    };
    check(&grow, "config.json", "bytes long and is");
    check(
        &|dir| fs::remove_file(dir.join(ONE)).unwrap(),
        ONE,
        "it is gone",
    );
    let appear = |dir: &Path| fs::write(dir.join("generation_config.json"), "{}").unwrap();
    check(&appear, "generation_config.json", "it was not there");
}

#[test]
fn files_beside_the_weights_are_read() {
    let dir = single();
    let open = || Checkpoint::open(dir.path()).unwrap();
    assert!(open().file("tokenizer.json").unwrap().is_none());
    assert!(open().settings("generation_config.json").unwrap().is_none());
    write(&dir, "tokenizer.json", "{}");
    write(&dir, "generation_config.json", r#"{"eos_token_id": 2}"#);
    assert_eq!(open().file("tokenizer.json").unwrap().unwrap(), &b"{}"[..]);
    assert_eq!(
        open()
            .settings("generation_config.json")
            .unwrap()
            .unwrap()
            .usize("eos_token_id")
            .unwrap(),
        2
    );
    assert!(open().file("../x").unwrap_or(None).is_none());
    write(&dir, "generation_config.json", "{");
    let message = open()
        .settings("generation_config.json")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("generation_config.json: is not valid"),
        "{message}"
    );
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

#[test]
fn fixtures_load_and_agree_with_their_manifests() {
    for case in fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
    {
        let checkpoint = Checkpoint::open(&case).unwrap();
        let manifest: Value =
            serde_json::from_slice(&fs::read(case.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(
            checkpoint.config().architecture().unwrap(),
            manifest["class"].as_str().unwrap()
        );
        let names: Vec<_> = checkpoint.names().collect();
        checkpoint.check_finite(names.iter().copied()).unwrap();
        let dtype = match manifest["checkpoint_dtype"].as_str().unwrap() {
            "f32" => Dtype::F32,
            "f16" => Dtype::F16,
            "bf16" => Dtype::BF16,
            other => panic!("{other}"),
        };
        let tensors: Vec<_> = names
            .iter()
            .map(|name| checkpoint.tensor(name).unwrap())
            .collect();
        assert!(
            tensors.iter().all(|tensor| tensor.dtype == dtype),
            "{}",
            case.display()
        );
        let parameters: usize = tensors.iter().map(|tensor| tensor.numel()).sum();
        assert_eq!(
            parameters,
            manifest["parameters"].as_u64().unwrap() as usize,
            "{}",
            case.display()
        );
        assert_eq!(tensors[0].to_f32().unwrap().len(), tensors[0].numel());
    }
}

proptest! {
    /// Whatever happens to the bytes, the answer is a checkpoint or an error.
    #[test]
    fn damage_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), keep in any::<prop::sample::Index>()) {
        let mut bytes = safetensors(&[embed(), norm(), head()]);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let cut = keep.index(2 * bytes.len());
        bytes.truncate(cut);
        let files = [("config.json", config().to_string().into_bytes()), ("model.safetensors", bytes)];
        if let Ok(checkpoint) = Checkpoint::from_files(files.map(|(name, bytes)| (name.to_string(), Cow::Owned(bytes)))) {
            let names: Vec<_> = checkpoint.names().collect();
            let _ = checkpoint.check_finite(names.iter().copied());
            for name in names {
                let tensor = checkpoint.tensor(name).unwrap();
                prop_assert!(tensor.bytes.len() * 8 >= tensor.numel());
            }
        }
    }
}
