//! Every fault of weights, index and directory is a clear error.

use super::*;

#[test]
fn faults_of_weights_are_named() {
    let path = |dir: &Path| dir.join("model.safetensors");
    let put = |bytes: Vec<u8>| move |dir: &Path| fs::write(path(dir), bytes).unwrap();
    let good = || safetensors(&[embed(), norm(), head()]);
    let check = |name: &str, bytes: Vec<u8>, words: &[&str]| {
        check(
            name,
            single,
            put(bytes),
            &[&["model.safetensors"], words].concat(),
        );
    };
    let header = |text: &str| file(text, &[0; 16]);

    check("empty file", vec![], &["is empty"]);
    check("seven bytes", vec![1; 7], &["7 bytes", "at least 8"]);
    check(
        "git lfs pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n".to_vec(),
        &["git lfs pull"],
    );
    check(
        "header bomb",
        [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
        &["header of 18446744073709551615", "100000000"],
    );
    check(
        "header over the cap",
        [&100_000_001u64.to_le_bytes()[..], b"{}"].concat(),
        &["header of 100000001"],
    );
    check(
        "header past the end",
        [&500u64.to_le_bytes()[..], b"{}"].concat(),
        &["truncated", "500", "2"],
    );
    check("header no json", header("{]"), &["header is not valid"]);
    check(
        "header not an object",
        header("[1, 2]"),
        &["does not start with `{`"],
    );
    check(
        "header not utf-8",
        [&4u64.to_le_bytes()[..], b"{\"\xff\""].concat(),
        &["header is not valid"],
    );
    check(
        "deep json",
        header(&format!(r#"{{"a":{}1"#, "[".repeat(100_000))),
        &["header is not valid", "recursion"],
    );
    check(
        "tensor given twice",
        header(
            r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#,
        ),
        &["`a`", "twice"],
    );
    check(
        "truncated data",
        good()[..good().len() - 3].to_vec(),
        &["truncated", "lm_head.weight"],
    );
    check(
        "data after the end",
        [good(), vec![0; 5]].concat(),
        &["belongs to no tensor"],
    );
    check(
        "offset past the end",
        header(r#"{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}}"#),
        &["`a`", "20", "16"],
    );
    check(
        "offset near 2^64",
        header(
            r#"{"a":{"dtype":"U8","shape":[16],"data_offsets":[18446744073709551599,18446744073709551615]}}"#,
        ),
        &["`a`", "truncated"],
    );
    check(
        "offsets backwards",
        header(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#),
        &["`a`", "[16, 0]"],
    );
    check(
        "negative shape",
        header(r#"{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#),
        &["`a`", "-4"],
    );
    check(
        "size unlike shape",
        header(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}}"#),
        &["`a`", "takes 12 bytes", "hold 16"],
    );
    check(
        "shape overflow",
        header(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16]}}"#),
        &["`a`", "overflows", "4294967296"],
    );
    check(
        "shape overflow to zero bits",
        header(r#"{"a":{"dtype":"F32","shape":[9223372036854775808,2],"data_offsets":[0,0]}}"#),
        &["`a`", "overflows"],
    );
    check(
        "no element",
        header(r#"{"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}"#),
        &["`a`", "[0, 4]", "no element"],
    );
    check(
        "unknown dtype",
        header(r#"{"a":{"dtype":"F31","shape":[4],"data_offsets":[0,16]}}"#),
        &["`a`", "F31"],
    );
    check(
        "no dtype",
        header(r#"{"a":{"shape":[4],"data_offsets":[0,16]}}"#),
        &["`a`", "dtype"],
    );
    check(
        "overlap",
        header(
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        ),
        &["`b`", "overlaps", "offset 8", "12"],
    );
    check(
        "hole",
        header(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        ),
        &["`b`", "hole", "offset 8", "4"],
    );
    check(
        "missing tensor",
        safetensors(&[embed(), head()]),
        &["norm.weight", "missing", "`model.`", "model.embed.weight"],
    );
    let misspelt = ("model.nrom.weight", "BF16", norm().2, norm().3);
    check(
        "misspelt tensor",
        safetensors(&[embed(), misspelt, head()]),
        &["`norm.weight` is missing", "`model.nrom.weight`"],
    );
    let twin = ("norm.weight", "BF16", norm().2, norm().3);
    check(
        "ambiguous tensor",
        safetensors(&[embed(), norm(), twin, head()]),
        &["ambiguous", "`model.norm.weight`", "`norm.weight`"],
    );
    let narrow = (
        "model.embed.weight",
        "F32",
        vec![VOCAB, 3],
        vec![0; VOCAB * 3 * 4],
    );
    check(
        "wrong shape",
        safetensors(&[narrow, norm(), head()]),
        &[
            "model.embed.weight",
            "[5, 3]",
            "[5, 4]",
            "hidden_size = 4",
            "config.json",
        ],
    );
    let flat = ("model.embed.weight", "F32", vec![VOCAB * HIDDEN], embed().3);
    check(
        "wrong rank",
        safetensors(&[flat, norm(), head()]),
        &["[20]", "[5, 4]"],
    );
    let small = (
        "model.embed.weight",
        "F32",
        vec![VOCAB - 1, HIDDEN],
        vec![0; (VOCAB - 1) * HIDDEN * 4],
    );
    check(
        "vocabulary mismatch",
        safetensors(&[small, norm(), head()]),
        &["[4, 4]", "vocab_size = 5"],
    );
    let ints = (
        "model.norm.weight",
        "I32",
        vec![HIDDEN],
        vec![0; HIDDEN * 4],
    );
    check(
        "integer weight",
        safetensors(&[embed(), ints, head()]),
        &["model.norm.weight", "I32", "BF16"],
    );
}

#[test]
fn weights_that_are_not_finite_are_named() {
    type Encode = fn(f32) -> Vec<u8>;
    let types: [(&'static str, usize, Encode); 3] = [
        ("F32", 4, |x| x.to_le_bytes().to_vec()),
        ("F16", 2, |x| f16::from_f32(x).to_le_bytes().to_vec()),
        ("BF16", 2, |x| bf16::from_f32(x).to_le_bytes().to_vec()),
    ];
    for (dtype, size, encode) in types {
        for (bad, word) in [
            (f32::NAN, "NaN"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
        ] {
            for (row, column) in [(0, 0), (2, 1), (4, 3)] {
                let mut data: Vec<u8> = counting(VOCAB * HIDDEN)
                    .into_iter()
                    .flat_map(encode)
                    .collect();
                let at = (row * HIDDEN + column) * size;
                data[at..at + size].copy_from_slice(&encode(bad));
                let bytes = safetensors(&[
                    ("model.embed.weight", dtype, vec![VOCAB, HIDDEN], data),
                    norm(),
                    head(),
                ]);
                let place = format!("{word} at index [{row}, {column}]");
                let words = ["model.safetensors", "`model.embed.weight`", &place];
                check(
                    dtype,
                    single,
                    |dir| write(dir, "model.safetensors", bytes),
                    &words,
                );
            }
        }
        // The largest finite numbers and subnormals are no fault.
        let largest = match dtype {
            "F32" => f32::MAX,
            "F16" => f16::MAX.to_f32(),
            _ => bf16::MAX.to_f32(),
        };
        let edge = [largest, -largest, 1e-7, -0.0]
            .repeat(VOCAB)
            .into_iter()
            .flat_map(encode)
            .collect();
        let dir = single();
        let bytes = safetensors(&[
            ("model.embed.weight", dtype, vec![VOCAB, HIDDEN], edge),
            norm(),
            head(),
        ]);
        write(&dir, "model.safetensors", bytes);
        load(dir.path()).unwrap();
    }
}

#[test]
fn the_first_bad_weight_of_a_large_tensor_is_found() {
    let n = 3_000_001;
    let mut data = vec![1.0f32; n];
    (data[2_000_003], data[2_999_999]) = (f32::INFINITY, f32::NAN);
    let files = [
        ("config.json", config().to_string().into_bytes()),
        (
            "model.safetensors",
            safetensors(&[("w", "F32", vec![n], f32s(&data))]),
        ),
    ];
    let checkpoint =
        Checkpoint::from_files(files.map(|(name, bytes)| (name.to_string(), Cow::Owned(bytes))))
            .unwrap();
    let message = checkpoint.check_finite(["w"]).unwrap_err().to_string();
    assert!(message.contains("inf at index [2000003]"), "{message}");
}

#[test]
fn faults_of_the_index_are_named() {
    let check = |name: &str, map: &[(&str, &str)], words: &[&str]| {
        let text = index(map);
        check(
            name,
            sharded,
            |dir| write(dir, "model.safetensors.index.json", text),
            words,
        );
    };
    let embed = ("model.embed.weight", ONE);
    check(
        "shard named but absent",
        &[embed, ("x", "model-00003-of-00003.safetensors")],
        &["model-00003-of-00003.safetensors", "missing"],
    );
    check(
        "tensor not in its shard",
        &[embed, ("model.norm.weight", ONE)],
        &["`model.norm.weight`", ONE, "does not hold"],
    );
    check(
        "tensor nowhere",
        &[embed, ("model.extra.weight", TWO)],
        &["`model.extra.weight`", TWO],
    );
    check("no shards", &[], &["weight_map is empty"]);
    check(
        "path traversal",
        &[("x", "../model.safetensors")],
        &["refused", "../model.safetensors"],
    );
    check(
        "absolute path",
        &[("x", "/etc/model.safetensors")],
        &["refused", "/etc/model.safetensors"],
    );
    check(
        "subdirectory",
        &[("x", "sub/model.safetensors")],
        &["refused", "sub/model.safetensors"],
    );
    check(
        "windows path",
        &[("x", "..\\model.safetensors")],
        &["refused"],
    );
    check("parent", &[("x", "..")], &["refused"]);
    check(
        "pickle shard",
        &[("x", "pytorch_model-1.bin")],
        &["refused", "pytorch_model-1.bin"],
    );
}

#[test]
fn faults_of_the_directory_are_named() {
    check(
        "missing shard",
        sharded,
        |dir| fs::remove_file(dir.join(TWO)).unwrap(),
        &[TWO, "missing"],
    );
    check(
        "truncated shard",
        sharded,
        |dir| {
            let bytes = fs::read(dir.join(TWO)).unwrap();
            write(dir, TWO, &bytes[..bytes.len() - 1]);
        },
        &[TWO, "truncated"],
    );
    check(
        "tensor in two shards",
        sharded,
        |dir| write(dir, ONE, safetensors(&[embed(), norm()])),
        &[ONE, TWO, "`model.norm.weight`"],
    );
    check(
        "index no json",
        sharded,
        |dir| write(dir, "model.safetensors.index.json", "{"),
        &["index.json", "not a valid index"],
    );
    check(
        "index without map",
        sharded,
        |dir| write(dir, "model.safetensors.index.json", "{}"),
        &["index.json", "weight_map"],
    );
    check(
        "name twice in index",
        sharded,
        |dir| {
            let text = format!(r#"{{"weight_map":{{"a":"{ONE}","a":"{TWO}"}}}}"#);
            write(dir, "model.safetensors.index.json", text);
        },
        &["index.json", "`a`", "twice"],
    );
    check(
        "no directory",
        single,
        |dir| fs::remove_dir_all(dir).unwrap(),
        &["config.json", "No such file"],
    );
    check(
        "no weights",
        single,
        |dir| fs::remove_file(dir.join("model.safetensors")).unwrap(),
        &["neither model.safetensors nor"],
    );
    check(
        "other name",
        single,
        |dir| {
            fs::rename(
                dir.join("model.safetensors"),
                dir.join("consolidated.safetensors"),
            )
            .unwrap();
        },
        &[
            "neither model.safetensors nor",
            "there is consolidated.safetensors",
        ],
    );
    for pickle in ["pytorch_model.bin", "model.pt", "consolidated.00.pth"] {
        check(
            pickle,
            single,
            |dir| {
                fs::rename(dir.join("model.safetensors"), dir.join(pickle)).unwrap();
            },
            &[
                pickle,
                "refused",
                "run any code",
                "convert it to safetensors",
            ],
        );
    }
    check(
        "directory for a file",
        single,
        |dir| {
            fs::remove_file(dir.join("model.safetensors")).unwrap();
            fs::create_dir(dir.join("model.safetensors")).unwrap();
        },
        &["model.safetensors", "not a regular file"],
    );
    let file = single().path().join("config.json");
    let message = Checkpoint::open(&file).unwrap_err().to_string();
    assert!(message.contains("does not exist"), "{message}");
}

#[cfg(unix)]
#[test]
fn links_out_of_the_directory_are_refused_and_those_of_the_hub_cache_followed() {
    use std::os::unix::fs::symlink;

    let outside = single();
    for name in ["model.safetensors", "config.json"] {
        check(
            name,
            single,
            |dir| {
                fs::remove_file(dir.join(name)).unwrap();
                symlink(outside.path().join(name), dir.join(name)).unwrap();
            },
            &[name, "refused", "symbolic link", "outside"],
        );
    }
    check(
        "device",
        single,
        |dir| {
            fs::remove_file(dir.join("model.safetensors")).unwrap();
            symlink("/dev/zero", dir.join("model.safetensors")).unwrap();
        },
        &["refused"],
    );

    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (
        cache.path().join("blobs"),
        cache.path().join("snapshots/abc"),
    );
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(&blobs).unwrap();
    for name in ["model.safetensors", "config.json"] {
        fs::copy(outside.path().join(name), blobs.join(name)).unwrap();
        symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
    }
    load(&snapshot).unwrap();
}
