//! Plans under a budget, by the command line: what is promised is measured, what is written is explained, what cannot be
//! is said. On the default model with the README as its text.

use super::{DEFAULT, fixture, satura, satura_with, text};
use serde_json::Value;
use std::{fs, path::Path};
use tempfile::TempDir;

const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// Options that all share: little text, so that tests are quick.
const CALIBRATE: [&str; 4] = ["--calibrate", TEXT, "--calibration-tokens", "1024"];

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn a_plan_keeps_its_budget_and_says_so() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("m.satura");
    let args = [
        "compile",
        DEFAULT,
        "-o",
        text(&file),
        "--budget",
        "kl=0.05",
        "--json",
    ];
    let compiled = satura(&[&args[..], &CALIBRATE].concat()).json();
    let certificate = &compiled["certificate"];
    let kl = &certificate["quality"]["kl"];
    assert_eq!(certificate["budget"], "kl=0.05");
    assert!(number(&kl["mean"]) + number(&kl["half"]) <= 0.05, "{kl}");
    assert!(number(&kl["mean"]) > 0.0 && number(&certificate["used"]) <= 1.0);
    let rows = certificate["rows"].as_array().unwrap();
    // Seven weights a layer, and the head.
    assert_eq!(rows.len(), 6 * 7 + 1);
    assert!(rows.iter().any(|r| r["method"] != "stored"), "{rows:?}");
    let digest = blake3::hash(&fs::read(TEXT).unwrap());
    assert_eq!(certificate["text"], digest.to_hex().as_str());
    assert!(number(&certificate["bytes"][1]) < number(&certificate["bytes"][0]));

    let explained = satura(&["explain", text(&file), "--json"]).json();
    assert_eq!(explained["certificate"], *certificate);
    let explained = satura(&["explain", text(&file)]).out;
    for word in [
        "certificate for kl=0.05",
        "model.layers.0.self_attn.q_proj.weight",
        "95 %",
    ] {
        assert!(explained.contains(word), "no {word:?} in {explained}");
    }
    assert!(
        !explained.contains("\"rows\""),
        "JSON is for programs: {explained}"
    );

    // What was measured is not measured again: not even times differ.
    let again = satura(&[&args[..], &CALIBRATE].concat()).json();
    for part in ["rows", "latency", "quality"] {
        assert_eq!(again["certificate"][part], certificate[part], "{part}");
    }

    // On text of which the search saw a part, the command that measures finds about the same.
    let args = [
        "eval",
        text(&file),
        "--against",
        DEFAULT,
        "--text",
        TEXT,
        "--window",
        "256",
        "--json",
    ];
    let found = number(&satura(&args).json()["kl"]["mean"]);
    let wanted = number(&kl["mean"]);
    assert!(
        (0.3 * wanted..3.0 * wanted).contains(&found),
        "{found}, certified {wanted}"
    );
}

#[test]
fn what_no_plan_can_do_is_said() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("m.satura");
    let check = |more: &[&str], words: &[&str]| {
        let run = satura(&[&["compile", DEFAULT, "-o", text(&file)], more].concat());
        assert!(
            run.code.is_some_and(|c| c != 0) && run.out.is_empty(),
            "{more:?}: {run:?}"
        );
        assert!(
            words.iter().all(|w| run.err.contains(w)),
            "{more:?}: {words:?} in {run:?}"
        );
        assert!(!file.exists(), "{more:?}");
    };
    let budget = |budget: &'static str, words: &[&str]| {
        check(&[&CALIBRATE[..], &["--budget", budget]].concat(), words);
    };
    budget("kl=-1", &["kl=-1", "no budget", "latency=12ms"]);
    budget("f1=-0.5", &["f1=-0.5", "token classifiers"]);
    budget(
        "latency=1us",
        &["latency=0.001ms", "reachable is about", "ms"],
    );
    budget("bytes=1kB", &["reachable is about bytes="]);
    check(&["--budget", "kl=0.1"], &["--calibrate"]);
    let both = [&CALIBRATE[..], &["--budget", "kl=0.1", "--weights", "q8"]].concat();
    check(&both, &["--budget chooses", "--weights"]);
    let short = dir.path().join("short.txt");
    fs::write(&short, "a").unwrap();
    check(
        &["--calibrate", text(&short), "--budget", "kl=0.1"],
        &["short.txt", "sequences"],
    );
    let bert = fixture("bert_model");
    let run = satura(
        &[
            &[
                "compile",
                text(&bert),
                "-o",
                text(&file),
                "--budget",
                "kl=0.1",
            ],
            &CALIBRATE[..],
        ]
        .concat(),
    );
    assert!(
        run.code == Some(1) && run.err.contains("tokenizer.json"),
        "{run:?}"
    );
}

#[test]
fn the_page_shows_every_plan_and_needs_nothing_else() {
    let dir = TempDir::new().unwrap();
    let page = dir.path().join("report.html");
    let args = [
        "pareto",
        DEFAULT,
        "--plans",
        "2",
        "--html",
        text(&page),
        "--json",
    ];
    let survey = satura(&[&args[..], &CALIBRATE].concat()).json();
    let points = survey["points"].as_array().unwrap();
    let kinds = |kind: &str| points.iter().filter(|p| p["kind"] == kind).count();
    assert_eq!(kinds("original"), 1);
    assert!(kinds("uniform") >= 4 && kinds("mixed") >= 1, "{points:?}");
    let original = points.iter().find(|p| p["kind"] == "original").unwrap();
    assert_eq!(number(&original["kl"]["mean"]), 0.0);
    let html = fs::read_to_string(&page).unwrap();
    for outside in ["http:", "https:", "<script", "<link", "src=", "url("] {
        assert!(!html.contains(outside), "{outside} in the page");
    }
    let count = |what: &str| html.matches(what).count();
    assert_eq!((count("<svg "), count("</svg>")), (4, 4));
    // A point for each plan, but for the original where divergence is drawn.
    assert_eq!(count("<circle "), 2 * points.len() + 2 * (points.len() - 1));
    for point in points {
        let name = point["name"].as_str().unwrap();
        assert!(
            html.contains(&format!(
                "<td class=\"{}\">{name}</td>",
                point["kind"].as_str().unwrap()
            )),
            "{name}"
        );
    }
    assert!(
        !html.contains("NaN") && !html.contains("inf"),
        "a number that is none"
    );
    let layers = (0..6).map(|l| format!("<th>model.layers.{l}</th>"));
    assert!(
        layers.into_iter().all(|l| html.contains(&l)),
        "a layer is missing from the heat map"
    );
}

#[test]
fn a_pass_that_was_interrupted_goes_on() {
    let dir = TempDir::new().unwrap();
    let cache = dir.path().join("cache");
    let file = dir.path().join("m.satura");
    let args = [
        "compile",
        DEFAULT,
        "-o",
        text(&file),
        "--budget",
        "bytes=6MB",
        "--json",
    ];
    let args = [&args[..], &CALIBRATE].concat();
    let first = satura_with(&args, &cache).json();
    let mut calibrations = fs::read_dir(cache.join("calibrations")).unwrap();
    let folder = calibrations.next().unwrap().unwrap().path();
    assert!(calibrations.next().is_none());
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let (moments, sensitivities) = (read("call-0003.safetensors"), read("sensitivity.json"));
    // As if it had been stopped before these were written, offers and plans too.
    let offers = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path());
    let offers = offers.filter(|p| {
        p.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(['o', 'p']))
    });
    offers.for_each(|path| fs::remove_file(path).unwrap());
    for name in ["call-0003.safetensors", "sensitivity.json"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    let again = satura_with(&args, &cache).json();
    assert_eq!(
        (read("call-0003.safetensors"), read("sensitivity.json")),
        (moments, sensitivities)
    );
    // What is known of each weight; its form also depends on times, which are measured anew.
    let known = |run: &Value| {
        let rows = run["certificate"]["rows"].as_array().unwrap();
        let of = |row: &Value| (row["weight"].clone(), row["sensitivity"].clone());
        rows.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(known(&first), known(&again));
    assert!(number(&first["bytes"]) <= 6.1e6, "{first}");
    assert!(Path::new(&file).exists());
}
