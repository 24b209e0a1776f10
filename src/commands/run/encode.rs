//! Running texts through an encoder and saying what it found: entities, labels, words for masks, embeddings.

use super::{Args, about, origin};
use crate::commands::{note, print_json};
use runtime::{
    EncoderInput, Outputs, Rows, Session,
    tokenizer::{Encoding, Tokenizer},
};
use satura::{
    Opened, entities,
    ir::{Classes, Task},
    probabilities, runtime,
};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::{Duration, Instant},
};

/// Texts that are run at once, at most.
const BATCH: usize = 16;

/// Tokens that are run at once, unless one text has more: outputs of all of them are in memory together.
const TOKENS: usize = 2048;

/// Candidates shown for a mask.
const CANDIDATES: usize = 5;

/// Most tokens of an answer.
const ANSWER: usize = 30;

/// Numbers of an embedding that are shown to people.
const SHOWN: usize = 8;

/// Spellings of the token that stands for a word to be found.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];

/// What is found in a text: for people, and as JSON.
struct Finding {
    text: String,
    json: Value,
}

pub(super) fn run(
    args: &Args,
    opened: &Opened,
    tokenizer: &Tokenizer,
    texts: &[String],
) -> anyhow::Result<()> {
    let task = opened.model.description().task.clone();
    let (mut tokens, mut time) = (0, Duration::ZERO);
    let mut results = vec![];
    let mut session = Session::new(&opened.model, args.options())?;
    let encoded = |text: &'_ String| -> anyhow::Result<Encoding> {
        match (&task, &args.passage) {
            (Task::QuestionAnswering, Some(passage)) => {
                Ok(tokenizer.encode_pair(text, passage, true)?)
            }
            (Task::QuestionAnswering, None) => Err(anyhow::anyhow!(
                "this model answers questions from a text; give that with --passage TEXT"
            )),
            _ => Ok(tokenizer.encode(text, true)?),
        }
    };
    let mut waiting = texts.iter().map(|text| (text, encoded(text))).peekable();
    while waiting.peek().is_some() {
        let (mut batch, mut encodings) = (vec![], vec![]);
        let mut room = TOKENS;
        // The first goes whatever its length.
        while let Some((text, encoding)) = waiting.next_if(|(_, encoding)| {
            let length = encoding.as_ref().map_or(0, Encoding::len);
            batch.is_empty() || batch.len() < BATCH && length <= room
        }) {
            let encoding = encoding?;
            room = room.saturating_sub(encoding.len());
            batch.push(text);
            encodings.push(encoding);
        }
        let types = opened.model.description().token_types > 0;
        let inputs: Vec<EncoderInput<'_>> = encodings
            .iter()
            .map(|encoding| EncoderInput {
                ids: &encoding.ids,
                token_types: types.then_some(&*encoding.type_ids),
                ..EncoderInput::default()
            })
            .collect();
        let start = Instant::now();
        let outputs = session.encode(&inputs)?;
        time += start.elapsed();
        tokens += encodings.iter().map(Encoding::len).sum::<usize>();
        for ((text, encoding), outputs) in batch.into_iter().zip(&encodings).zip(&outputs) {
            let finding = match (&task, &args.passage) {
                (Task::QuestionAnswering, Some(passage)) => {
                    answered(text, passage, encoding, outputs)?
                }
                _ => find(&task, tokenizer, text, encoding, outputs)?,
            };
            if args.json {
                results.push(finding.json);
            } else {
                io::stdout().lock().write_all(finding.text.as_bytes())?;
            }
        }
    }
    if args.json {
        let mut object = about(opened, &session);
        let speed = tokens as f64 / time.as_secs_f64();
        object.insert("tokens".into(), json!(tokens));
        object.insert("tokens_per_s".into(), json!((speed * 10.0).round() / 10.0));
        object.insert("results".into(), json!(results));
        return print_json(&Value::Object(object));
    }
    note(&format!(
        "{}; {tokens} tokens in {} ({:.0} tokens/s); {} threads",
        origin(opened),
        crate::commands::time(time),
        tokens as f64 / time.as_secs_f64(),
        session.threads()
    ));
    Ok(())
}

/// Runs images through a model that sees them.
pub(super) fn see(args: &Args, opened: &Opened) -> anyhow::Result<()> {
    let description = opened.model.description();
    let form = description.image.as_ref();
    let form = form.ok_or_else(|| anyhow::anyhow!("the model sees no images"))?;
    anyhow::ensure!(
        !args.image.is_empty(),
        "this model sees images; give one with --image FILE"
    );
    let mut session = Session::new(&opened.model, args.options())?;
    let mut time = Duration::ZERO;
    let mut results = vec![];
    for file in &args.image {
        let pixels = satura::picture(file, form)?;
        let start = Instant::now();
        let outputs = session.encode_images(&[&pixels])?.swap_remove(0);
        time += start.elapsed();
        let name = file.display().to_string();
        let finding = match &description.task {
            Task::SequenceClassification { labels, classes } => {
                classified(labels, *classes, &name, logits(&outputs)?)
            }
            _ => embedded(&name, &outputs),
        };
        if args.json {
            results.push(finding.json);
        } else {
            io::stdout().lock().write_all(finding.text.as_bytes())?;
        }
    }
    if args.json {
        let mut object = about(opened, &session);
        object.insert("results".into(), json!(results));
        return print_json(&Value::Object(object));
    }
    note(&format!(
        "{}; {} image{} in {}; {} threads",
        origin(opened),
        args.image.len(),
        if args.image.len() == 1 { "" } else { "s" },
        crate::commands::time(time),
        session.threads()
    ));
    Ok(())
}

fn find(
    task: &Task,
    tokenizer: &Tokenizer,
    text: &str,
    encoding: &Encoding,
    outputs: &Outputs,
) -> anyhow::Result<Finding> {
    let logits = || logits(outputs);
    match task {
        Task::TokenClassification { labels } => Ok(tagged(labels, text, encoding, logits()?)),
        Task::SequenceClassification { labels, classes } => {
            Ok(classified(labels, *classes, text, logits()?))
        }
        Task::MaskedLm => filled(tokenizer, text, encoding, logits()?),
        Task::Embedding { .. } | Task::CausalLm | Task::QuestionAnswering => {
            Ok(embedded(text, outputs))
        }
    }
}

fn logits(outputs: &Outputs) -> anyhow::Result<&Rows> {
    let logits = outputs.get("logits");
    logits.ok_or_else(|| anyhow::anyhow!("the model gives no logits"))
}

/// The span of the passage that most probably answers the question.
fn answered(
    question: &str,
    passage: &str,
    encoding: &Encoding,
    outputs: &Outputs,
) -> anyhow::Result<Finding> {
    let logits = logits(outputs)?;
    let inside: Vec<usize> = (0..encoding.len())
        .filter(|i| encoding.text[*i] == Some(1))
        .collect();
    anyhow::ensure!(
        !inside.is_empty(),
        "the passage is empty; give it some text"
    );
    // Over all tokens, as the reference does: what is left is the probability that the passage has no answer.
    let column = |which: usize| -> Vec<f32> { logits.rows().map(|row| row[which]).collect() };
    let (starts, ends) = (probabilities(&column(0)), probabilities(&column(1)));
    let mut best = (inside[0], inside[0], f32::NEG_INFINITY);
    for (n, start) in inside.iter().enumerate() {
        for end in inside[n..].iter().take(ANSWER) {
            let score = starts[*start] * ends[*end];
            if score > best.2 {
                best = (*start, *end, score);
            }
        }
    }
    let (start, end, score) = best;
    let bytes = encoding.bytes[start].start..encoding.bytes[end].end;
    let answer = passage.get(bytes).unwrap_or_default();
    let (first, last) = (encoding.chars[start].start, encoding.chars[end].end);
    Ok(Finding {
        text: format!("{question}\n  {score:.4}  {answer}\n"),
        json: json!({
            "text": question, "answer": answer, "score": score, "start": first, "end": last,
        }),
    })
}

/// The text with its entities marked, then one line each.
fn tagged(labels: &[String], text: &str, encoding: &Encoding, logits: &Rows) -> Finding {
    let found = entities(labels, logits, encoding);
    let part = |range: &std::ops::Range<usize>| text.get(range.clone()).unwrap_or_default();
    let (mut marked, mut end) = (String::new(), 0);
    for entity in &found {
        marked += part(&(end..entity.bytes.start));
        let _ = write!(marked, "[{}]({})", part(&entity.bytes), entity.label);
        end = entity.bytes.end;
    }
    marked += part(&(end..text.len()));
    marked += "\n";
    for entity in &found {
        let span = format!("{}..{}", entity.chars.start, entity.chars.end);
        let _ = writeln!(
            marked,
            "  {span:>9}  {:<12}  {:.3}  {}",
            entity.label,
            entity.score,
            part(&entity.bytes)
        );
    }
    let json = found.iter().map(|entity| {
        json!({
            "start": entity.chars.start,
            "end": entity.chars.end,
            "label": entity.label,
            "score": entity.score,
            "text": part(&entity.bytes),
        })
    });
    Finding {
        json: json!({ "text": text, "entities": json.collect::<Vec<_>>() }),
        text: marked,
    }
}

/// The labels and their probabilities, the most probable first. A model of one label gives a number instead.
fn classified(labels: &[String], classes: Classes, text: &str, logits: &Rows) -> Finding {
    if logits.width == 1 {
        let score = logits.row(0)[0];
        return Finding {
            text: format!("{text}\n  score {score:.4}\n"),
            json: json!({ "text": text, "score": score }),
        };
    }
    let scores = match classes {
        Classes::Exclusive => probabilities(logits.row(0)),
        Classes::Independent => {
            let sigmoid = |x: &f32| 1.0 / (1.0 + (-x).exp());
            logits.row(0).iter().map(sigmoid).collect()
        }
        Classes::Numbers => logits.row(0).to_vec(),
    };
    let mut scores: Vec<(&str, f32)> = labels.iter().map(String::as_str).zip(scores).collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut shown = format!("{text}\n");
    for (label, score) in &scores {
        let _ = writeln!(shown, "  {score:.4}  {label}");
    }
    let json = scores
        .iter()
        .map(|(label, score)| json!({ "label": label, "score": score }));
    Finding {
        text: shown,
        json: json!({ "text": text, "labels": json.collect::<Vec<_>>() }),
    }
}

/// The most probable tokens for each mask in the text.
fn filled(
    tokenizer: &Tokenizer,
    text: &str,
    encoding: &Encoding,
    logits: &Rows,
) -> anyhow::Result<Finding> {
    let known = MASKS
        .iter()
        .find_map(|mask| Some((*mask, tokenizer.id(mask)?)));
    let (mask, id) = known.ok_or_else(|| {
        anyhow::anyhow!(
            "the tokenizer has neither {} as a token, so there is nothing to fill",
            MASKS.join(" nor ")
        )
    })?;
    let places: Vec<usize> = (0..encoding.len())
        .filter(|i| encoding.ids[*i] == id)
        .collect();
    anyhow::ensure!(
        !places.is_empty(),
        "nothing to fill in {text:?}; put {mask} where a word is missing"
    );
    let (mut shown, mut masks) = (format!("{text}\n"), vec![]);
    for place in places {
        let mut scores: Vec<(usize, f32)> = probabilities(logits.row(place))
            .into_iter()
            .enumerate()
            .collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut candidates = vec![];
        for (id, score) in scores.into_iter().take(CANDIDATES) {
            let token = u32::try_from(id).ok().and_then(|id| tokenizer.token(id));
            let token = token.unwrap_or_else(|| format!("#{id}"));
            let _ = writeln!(shown, "  {score:.4}  {token}");
            candidates.push(json!({ "id": id, "token": token, "score": score }));
        }
        shown += "\n";
        masks.push(json!({ "token_index": place, "candidates": candidates }));
    }
    Ok(Finding {
        text: shown,
        json: json!({ "text": text, "masks": masks }),
    })
}

/// The embedding; of a model without a pooling, all that it gives.
fn embedded(text: &str, outputs: &Outputs) -> Finding {
    if let Some(embedding) = outputs.get("embedding") {
        return Finding {
            text: format!("{text}\n  {}\n", summary(embedding.row(0))),
            json: json!({ "text": text, "embedding": embedding.row(0) }),
        };
    }
    let (mut shown, mut json) = (format!("{text}\n"), json!({ "text": text }));
    for (name, rows) in outputs.iter() {
        let count = rows.rows().len();
        let _ = writeln!(
            shown,
            "  {name}: {count} x {}, first {}",
            rows.width,
            summary(rows.row(0))
        );
        json[name] = match name {
            "pooler_output" => json!(rows.row(0)),
            _ => rows.rows().map(|row| json!(row)).collect(),
        };
    }
    Finding { text: shown, json }
}

fn summary(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector
        .iter()
        .take(SHOWN)
        .map(|x| format!("{x:.4}"))
        .collect();
    let more = if vector.len() > SHOWN { ", ..." } else { "" };
    format!("{} numbers: [{}{more}]", vector.len(), numbers.join(", "))
}
