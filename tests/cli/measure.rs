//! What the command line measures: agreement with a reference, quality on text, speed.

use super::{Case, best, close, command, edit, fixture, satura, softmax, text, word};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Stdio,
};

#[test]
fn what_cannot_be_measured_is_refused() {
    let check = |args: &[&str], words: &[&str]| {
        let run = satura(args);
        assert_eq!((run.code, &*run.out), (Some(1), ""), "{args:?}: {run:?}");
        for word in words {
            assert!(run.err.contains(word), "{args:?}: no {word:?} in {run:?}");
        }
    };
    let (llama, bert) = (fixture("llama_gqa"), fixture("bert_model"));
    let reference = bert.join("expected.safetensors");
    let verify = |file: &str, words: &[&str]| {
        check(&["verify", text(&llama), "--reference", file], words);
    };
    verify(text(&reference), &["last_hidden_state", "logits"]);
    verify("nowhere.safetensors", &["nowhere.safetensors"]);
    verify(text(&llama.join("config.json")), &["safetensors file"]);
    verify(text(&llama.join("model.safetensors")), &["input_ids"]);

    let case = Case::new("llama_gqa", &[]);
    let file = case.dir.path().join("text.txt");
    fs::write(&file, case.text(&[5, 6, 7])).unwrap();
    let eval = |model: &str, more: &[&str], words: &[&str]| {
        let args = [&["eval", model, "--text", text(&file)], more].concat();
        check(&args, words);
    };
    eval(case.path(), &["--window", "32"], &["3 tokens", "window"]);
    eval(case.path(), &["--window", "1"], &["at least 2"]);
    eval(case.path(), &["--window", "100000"], &["context"]);
    eval(text(&bert), &[], &["BertModel"]);
    eval(text(&llama), &[], &["tokenizer.json"]);
    let tagger = Case::new("bert_tokcls", &[]);
    eval(tagger.path(), &[], &["line 1", "spans"]);
    let bench = |model: &Path, args: &[&str], words: &[&str]| {
        check(&[&["bench", text(model)], args].concat(), words);
    };
    bench(&bert, &["--batch", "0"], &["nothing to encode"]);
    bench(&bert, &["--seq", "8,0"], &["nothing to encode"]);
    let short = ["--prompt", "8", "--gen", "4"];
    let with = |args: &[&'static str]| [&short[..], args].concat();
    bench(&llama, &with(&["--batch", "0"]), &["sequences"]);
    let deep = ["context of 100011", "has 64"];
    bench(&llama, &with(&["--depth", "100000"]), &deep);
}

/// `exp` of the mean negative log-likelihood of each row's tokens but its first.
fn perplexity(case: &Case) -> f64 {
    let file = SafeTensors::deserialize(&case.expected).unwrap();
    let logits = file.tensor("logits").unwrap();
    let width = *logits.shape().last().unwrap();
    let (chunks, _) = logits.data().as_chunks();
    let logits: Vec<f32> = chunks.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let (mut rows, mut loss, mut count) = (logits.chunks(width), 0.0, 0);
    for ids in case.ids("input_ids") {
        for next in ids[1..].iter().map(Some).chain([None]) {
            let chances = softmax(rows.next().unwrap());
            if let Some(next) = next {
                loss -= chances[*next].ln();
                count += 1;
            }
        }
    }
    (loss / f64::from(count)).exp()
}

#[test]
fn eval_gives_the_perplexity_of_the_reference_s_logits() {
    let case = Case::new("llama_gqa", &[]);
    let ids = case.ids("input_ids").concat();
    let file = case.dir.path().join("text.txt");
    // The last word begins a window that is not full.
    fs::write(&file, format!("{} w9", case.text(&ids))).unwrap();
    let args = ["eval", case.path(), "--text", text(&file), "--window", "32"];
    let found = satura(&[&args[..], &["--json"]].concat()).json();
    let expected = perplexity(&case);
    let error = found["perplexity"].as_f64().unwrap() / expected - 1.0;
    assert!(error.abs() < 1e-5, "{found}, {expected} expected");
    assert_eq!(found["tokens"], 62);

    let mut against = args.to_vec();
    against.extend(["--against", case.path(), "--json"]);
    let same = satura(&against).json();
    assert_eq!(same["kl"], json!({ "mean": 0.0, "p99": 0.0, "max": 0.0 }));
    assert_eq!(same["top1_agreement"], 1.0);

    // The model is held against its files, however it is stored itself.
    let rounded = satura(&[&against[..], &["--weights", "q4"]].concat()).json();
    assert!(rounded["kl"]["mean"].as_f64().unwrap() > 0.0, "{rounded}");

    let other = Case::new("llama_gqa", &[]);
    let eps = "\"rms_norm_eps\": ";
    edit(
        other.dir.path(),
        "config.json",
        &format!("{eps}1e-05"),
        &format!("{eps}0.5"),
    );
    against[7] = other.path();
    let found = satura(&against).json();
    let [mean, p99, max] = ["mean", "p99", "max"].map(|k| found["kl"][k].as_f64().unwrap());
    assert!(0.0 < mean && mean < p99 && p99 <= max, "{found}");
}

/// A tagger of one label a class, tokens of one word, and the spans that the reference finds.
fn tagger() -> (Case, String, Vec<(usize, usize, String)>) {
    let case = Case::new("bert_tokcls", &[]);
    edit(case.dir.path(), "config.json", "LABEL_0", "O");
    for class in 1..9 {
        let (from, to) = (format!("LABEL_{class}"), format!("B-X{class}"));
        edit(case.dir.path(), "config.json", &from, &to);
    }
    let tokens = case.tokens();
    let (mut spans, mut start) = (vec![], 0);
    for (id, logits) in tokens.iter().zip(case.first("logits")) {
        let end = start + word(*id, &[]).len();
        match best(&softmax(&logits)).0 {
            0 => {}
            class => spans.push((start, end, format!("X{class}"))),
        }
        start = end + 1;
    }
    let input = case.text(&tokens);
    (case, input, spans)
}

#[test]
fn eval_scores_tags() {
    let (case, input, spans) = tagger();
    let file = case.dir.path().join("spans.jsonl");
    let score = |spans: &[(usize, usize, String)]| {
        let line = json!({ "text": input, "spans": spans });
        fs::write(&file, format!("{line}\n{line}\n")).unwrap();
        let limit = ["--limit", "1", "--json"];
        let args = ["eval", case.path(), "--text", text(&file)];
        satura(&[&args[..], &limit].concat()).json()
    };
    let (all, tokens) = (spans.len() as f64, case.tokens().len() as f64);
    assert!(
        all > 2.0,
        "the fixture finds {all} entities, too few to test with"
    );
    let found = score(&spans);
    for key in ["precision", "recall", "f1", "token_accuracy"] {
        assert_eq!(found[key], 1.0, "{key} of {found}");
    }
    // One entity more than is found, and one fewer.
    let mut wrong = spans.clone();
    wrong[1].2 = "Y".into();
    let found = score(&wrong);
    close(&found["precision"], (all - 1.0) / all);
    close(&found["recall"], (all - 1.0) / all);
    close(&found["token_accuracy"], (tokens - 1.0) / tokens);
    let found = score(&spans[1..]);
    close(&found["precision"], (all - 1.0) / all);
    close(&found["recall"], 1.0);
    close(&found["f1"], 2.0 * (all - 1.0) / (2.0 * all - 1.0));
}

#[test]
fn bench_reports_what_it_measured() {
    let check = |model: &Path, args: &[&str], keys: &[&str]| {
        let args = [
            &["bench", text(model), "--seconds", "0.05", "--threads", "2"],
            args,
        ]
        .concat();
        let found = satura(&[&args[..], &["--json"]].concat()).json();
        assert_eq!(found["threads"], 2);
        for key in ["load_ms", "peak_memory_bytes"].iter().chain(keys) {
            let value = key.split('.').fold(&found, |value, key| &value[key]);
            assert!(value.as_f64().is_some_and(|x| x > 0.0), "{key} of {found}");
        }
        let plain = satura(&args);
        assert_eq!(plain.code, Some(0), "{plain:?}");
        assert!(plain.out.contains("roofline"), "{plain:?}");
    };
    let roofline = [
        "roofline.read_gb_per_s",
        "roofline.flops_gflop_per_s",
        "roofline.fraction",
    ];
    let decoder = [
        "first_token_ms",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
    ];
    let encoder = ["latency_ms.p50", "latency_ms.p90", "latency_ms.p99"];
    let decoder = [&decoder[..], &roofline].concat();
    let encoder = [&encoder[..], &roofline].concat();
    let (llama, bert) = (fixture("llama_gqa"), fixture("bert_model"));
    let generate = ["--prompt", "8", "--gen", "4"];
    check(&llama, &generate, &decoder);
    let more = [&generate[..], &["--depth", "8", "--batch", "2"]].concat();
    check(&llama, &more, &[&decoder[..], &["depth"]].concat());
    check(&bert, &["--batch", "2", "--seq", "8"], &encoder);
    check(&bert, &["--seq", "8,3,5"], &encoder);
}

#[test]
fn bench_traces_steps_launch_by_launch() {
    let folder = tempfile::tempdir().unwrap();
    for (model, steps, kernels) in [
        (
            "llama_gqa",
            &["prompt", "decode"][..],
            ["attention", "swiglu"],
        ),
        ("bert_model", &["encode"], ["attention", "layer_norm"]),
    ] {
        let (model, file) = (fixture(model), folder.path().join("trace.json"));
        let bench = ["bench", text(&model), "--seconds", "0", "--roofline=none"];
        let lengths = ["--prompt", "5", "--gen", "2", "--seq", "5"];
        let run = satura(&[&bench[..], &lengths, &["--trace", text(&file)]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        let trace: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |ph: &'static str| events.iter().filter(move |e| e["ph"] == ph);
        let names: Vec<&str> = of("M")
            .map(|e| e["args"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, steps, "{trace}");
        let (mut step, mut end) = (0, 0.0);
        for event in of("X") {
            let pid = event["pid"].as_u64().unwrap();
            if pid != step {
                (step, end) = (pid, 0.0);
            }
            let (start, time) = (
                event["ts"].as_f64().unwrap(),
                event["dur"].as_f64().unwrap(),
            );
            assert!(start >= end - 1e-6 && time >= 0.0, "{event}");
            end = start + time;
        }
        for kernel in kernels {
            let named = |e: &&Value| e["name"].as_str().unwrap().contains(kernel);
            assert!(of("X").any(|e| named(&e)), "{kernel}: {trace}");
        }
    }
}

#[test]
fn bench_counts_the_tokens_of_all_sequences() {
    let check = |model: &str, args: &[&str], rate: &str, time: &str, tokens: f64| {
        let model = fixture(model);
        let bench = ["bench", text(&model), "--seconds", "0", "--roofline=none"];
        let found = satura(&[&bench[..], args, &["--json"]].concat()).json();
        let time = time.split('.').fold(&found, |value, key| &value[key]);
        close(
            &json!(found[rate].as_f64().unwrap() * time.as_f64().unwrap() * 1e-3),
            tokens,
        );
    };
    let decode = ["--prompt", "5", "--gen", "3", "--batch", "4"];
    let (prefill, first) = ("prefill_tokens_per_s", "first_token_ms");
    check("llama_gqa", &decode, prefill, first, 20.0);
    check(
        "llama_gqa",
        &decode,
        "decode_tokens_per_s",
        "step_ms.p50",
        4.0,
    );
    let encode = ["--seq", "8,3", "--batch", "2"];
    check(
        "bert_model",
        &encode,
        "tokens_per_s",
        "latency_ms.p50",
        22.0,
    );
}

#[test]
fn bench_takes_turns() {
    let model = fixture("bert_model");
    let args = ["bench", text(&model), "--seq", "4", "--seconds", "0"];
    let args = [&args[..], &["--roofline=none", "--turns", "--json"]].concat();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache");
    let mut child = command(&args, &cache)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut turn, mut lines) = (
        child.stdin.take().unwrap(),
        BufReader::new(child.stdout.take().unwrap()).lines(),
    );
    for _ in 0..2 {
        writeln!(turn).unwrap();
        let line = lines.next().unwrap().unwrap();
        let found: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(found["lengths"], json!([4]), "{found}");
    }
    drop(turn);
    assert!(lines.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn bench_measures_the_machine_alone() {
    let found = satura(&["bench", "--roofline", "--threads", "1", "--json"]).json();
    assert_eq!(found["threads"], 1);
    for key in ["read_gb_per_s", "f32_gflop_per_s"] {
        assert!(found[key].as_f64().is_some_and(|x| x > 0.0), "{found}");
    }
    for key in ["bf16_gflop_per_s", "i8_gop_per_s"] {
        let rate = &found[key];
        assert!(rate.is_null() || rate.as_f64() > Some(0.0), "{found}");
    }
}
