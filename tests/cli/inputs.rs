//! What users give models to run on: many texts at once, conversations. A text's result is its own, whatever it is run
//! with.

use super::{Case, fixture, satura, text};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Runs a model on texts; the results without what was measured.
fn results(case: &Case, texts: &[String], more: &[&str]) -> Vec<Value> {
    let mut args = vec!["run", case.path(), "--json"];
    args.extend(more);
    texts.iter().for_each(|text| args.extend(["-p", text]));
    let mut found = satura(&args).json();
    serde_json::from_value(found["results"].take()).unwrap()
}

/// Texts of many lengths, more than are run at once.
fn texts(vocabulary: usize, special: &str) -> Vec<String> {
    let word = |i: usize, j: usize| format!("w{}", 3 + (7 * i + 5 * j + i * j) % (vocabulary - 3));
    let text = |i: usize| -> Vec<String> { (0..1 + (i * 5) % 13).map(|j| word(i, j)).collect() };
    (0..21)
        .map(|i| format!("{}{special}", text(i).join(" ")))
        .collect()
}

#[test]
fn a_batch_gives_what_single_runs_give() {
    // Sampling tells logits apart that greed does not; tokens that end a text end it alone.
    let sampled: &[&str] = &["-n", "12", "--temp", "1.5", "--seed", "3"];
    let windows: &[&str] = &["-n", "20", "--temp", "1.0", "--ignore-eos", "--stop", "w9"];
    let plain: &[&str] = &[];
    for (model, special, more) in [
        ("llama_gqa", "", sampled),
        ("mistral_window", "", windows),
        ("mixtral", "", sampled),
        ("bloom", "", sampled),
        ("opt", "", sampled),
        ("bert_model", "", plain),
        ("roberta_seqcls", "", plain),
        ("bert_mlm", " [MASK]", plain),
        ("modernbert_tokcls", "", plain),
    ] {
        let case = Case::new(model, &[(2, "[MASK]")]);
        let texts = texts(90, special);
        let together = results(&case, &texts, more);
        assert_eq!(together.len(), texts.len(), "{model}");
        for (i, found) in together.iter().enumerate() {
            if i % 3 == 0 {
                let alone = results(&case, &texts[i..=i], more);
                assert_eq!(*found, alone[0], "{model}, text {i}");
            }
        }
        // As lines of a file, too.
        let file = case.dir.path().join("lines.txt");
        fs::write(&file, texts.join("\n\n")).unwrap();
        let args = [&["run", case.path(), "--json", "--file", text(&file)], more].concat();
        assert_eq!(satura(&args).json()["results"], json!(together), "{model}");
    }
}

#[test]
fn texts_come_out_in_the_order_they_went_in() {
    let case = Case::new("llama_gqa", &[]);
    let prompts: Vec<String> = (5..25).map(|i| format!("w{i} w{}", i + 1)).collect();
    let mut args = vec!["run", case.path(), "-n", "3", "--ignore-eos"];
    prompts
        .iter()
        .for_each(|prompt| args.extend(["-p", prompt]));
    let found = satura(&args);
    let lines: Vec<&str> = found.out.lines().collect();
    assert_eq!(lines.len(), prompts.len(), "{found:?}");
    for ((line, prompt), result) in
        lines
            .iter()
            .zip(&prompts)
            .zip(results(&case, &prompts, &["-n", "3", "--ignore-eos"]))
    {
        let continued = format!("{prompt}{}", result["text"].as_str().unwrap());
        assert_eq!(*line, continued.trim_end_matches('\n'));
    }
}

#[test]
fn conversations_have_the_form_of_the_template() {
    let case = Case::new("llama_gqa", &[]);
    let template = "{% for m in messages %}{{ 'w4 ' if m.role == 'system' else 'w5 ' }}{{ m.content }} {% endfor %}w6";
    fs::write(case.dir.path().join("chat_template.jinja"), template).unwrap();
    let text = |words: &str| vec![words.to_string()];
    let chat = results(&case, &text("w9"), &["--chat", "--system", "w8", "-n", "5"]);
    let plain = results(&case, &text("w4 w8 w5 w9 w6"), &["-n", "5"]);
    assert_eq!(chat[0]["tokens"], plain[0]["tokens"]);

    // What a generation ends before is no part of it.
    let tokens: Vec<u64> = serde_json::from_value(plain[0]["tokens"].clone()).unwrap();
    let third = format!("w{}", tokens[2]);
    let stopped = results(
        &case,
        &text("w4 w8 w5 w9 w6"),
        &["-n", "5", "--stop", &third],
    );
    assert_eq!(stopped[0]["finish"], "stop");
    assert!(!stopped[0]["text"].as_str().unwrap().contains(&third));
}

#[test]
fn templates_cannot_take_what_they_like() {
    let case = Case::new("llama_gqa", &[]);
    let check = |template: &str, words: &str| {
        fs::write(case.dir.path().join("chat_template.jinja"), template).unwrap();
        let done = satura(&["run", case.path(), "--chat", "-p", "w5", "-n", "1"]);
        assert_eq!(
            (done.code, &*done.out),
            (Some(1), ""),
            "{template}: {done:?}"
        );
        assert!(done.err.contains(words), "{template}: {done:?}");
    };
    check(
        "{{ raise_exception('only w6') }}",
        "refuses this conversation: only w6",
    );
    check("{% for m in messages %}", "chat template fails");
    check(
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ i }}{% endfor %}{% endfor %}",
        "may never end",
    );
    // Neither counts instructions nor writes: only the process's limits hold these.
    if cfg!(target_os = "linux") {
        let limits = "takes more than 5 s or 1024 MB of memory";
        check(
            "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            limits,
        );
        check("{{ (messages * 99999999999) | list | length }}", limits);
        check("{{ 'a' | indent(99999999999, true) }}", limits);
        let itself = "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}";
        check(itself, "nests without end");
    }
}

#[test]
fn images_are_classified_or_refused() {
    let model = fixture("vit");
    let dir = tempfile::tempdir().unwrap();
    let picture = |name: &str| fixture("../pictures").join(name);
    let see = |files: &[&Path]| {
        let mut args = vec!["run", text(&model), "--json"];
        files
            .iter()
            .for_each(|file| args.extend(["--image", text(file)]));
        satura(&args)
    };
    // Each by itself, whatever its format; the labels of all classes share one.
    let (wide, turned) = (picture("wide.png"), picture("turned.jpg"));
    let both = see(&[&wide, &turned]).json();
    for (i, file) in [wide, turned.clone()].iter().enumerate() {
        let result = &both["results"][i];
        assert_eq!(*result, see(&[file]).json()["results"][0]);
        let labels = result["labels"].as_array().unwrap();
        let sum: f64 = labels.iter().map(|l| l["score"].as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{result}");
    }

    let damaged = dir.path().join("picture");
    let check = |content: &[u8], words: &[&str]| {
        fs::write(&damaged, content).unwrap();
        let done = see(&[&turned, &damaged]);
        assert_eq!(done.code, Some(1), "{done:?}");
        for word in words {
            assert!(done.err.contains(word), "no {word:?} in {done:?}");
        }
    };
    let refused = ["no image that can be read", "PNG, JPEG", "picture"];
    for name in ["wide.png", "turned.jpg", "tall.webp", "few.gif"] {
        let whole = fs::read(picture(name)).unwrap();
        for parts in 1..8 {
            check(&whole[..whole.len() * parts / 8], &refused);
        }
    }
    check(b"II*\0TIFF", &refused);
    check(b"", &refused);
    // A header that claims more than is decoded.
    let mut huge = fs::read(picture("wide.png")).unwrap();
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    check(&huge, &refused);
    fs::File::create(&damaged)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let long = see(&[&damaged]);
    assert!(long.err.contains("1073741824 bytes long"), "{long:?}");
    for more in [&[][..], &["-p", "w5"]] {
        let none = satura(&[&["run", text(&model)], more].concat());
        assert!(none.err.contains("--image FILE"), "{none:?}");
    }
    let both = satura(&["run", text(&model), "--image", text(&damaged), "-p", "w5"]);
    assert!(both.err.contains("reads no text"), "{both:?}");
}
