//! Scores of a token classifier on annotated text. Knows spans and tags; not where examples come from beyond their
//! form: a JSON object a line, `{"text": ..., "spans": [[start, end, label], ...]}`, offsets in characters.

use super::{Error, argmax};
use crate::entities::runs;
use ir::Task;
use runtime::{EncoderInput, Session, tokenizer::Tokenizer};
use serde::Deserialize;
use std::{ops::Range, path::Path};

/// Tokens of an example that are looked at, special ones included.
const MAX_TOKENS: usize = 128;

/// Examples that share a step.
const BATCH: usize = 16;

/// An annotated text.
#[derive(Clone, Debug, Deserialize)]
pub struct Example {
    /// The text.
    pub text: String,
    /// `(start, end, label)`, in characters.
    pub spans: Vec<(usize, usize, String)>,
}

impl Example {
    /// Reads the first `limit` examples of a file, one a line.
    ///
    /// # Errors
    /// The file cannot be read, or a line is no example.
    pub fn read(file: &Path, limit: Option<usize>) -> Result<Vec<Example>, Error> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::Io {
            file: file.into(),
            source,
        })?;
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty());
        lines
            .take(limit.unwrap_or(usize::MAX))
            .map(|(i, line)| {
                serde_json::from_str(line).map_err(|e| Error::File {
                    file: file.into(),
                    why: format!(
                        "line {} is not {{\"text\": ..., \"spans\": [[start, end, label], ...]}}: {e}",
                        i + 1
                    ),
                })
            })
            .collect()
    }
}

/// Scores over all entities together (micro average; an entity counts where start, end and label are right).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Share of the entities found that are right.
    pub precision: f64,
    /// Share of the entities there that are found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Share of the tokens whose label is right.
    pub token_accuracy: f64,
    /// Tokens compared.
    pub tokens: usize,
    /// Entities there.
    pub entities: usize,
}

/// What is right and wrong, in tokens and entities.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    tokens: usize,
    right_tokens: usize,
    found: usize,
    there: usize,
    right: usize,
}

/// Scores a token classifier on `examples`, each cut to 128 tokens. `progress` is told `(examples done, of)`.
///
/// # Errors
/// A model that is no token classifier, or a text that does not encode.
pub fn tagging(
    session: &mut Session,
    tokenizer: &Tokenizer,
    examples: &[Example],
    progress: &dyn Fn(usize, usize),
) -> Result<Scores, Error> {
    let mut counts = Counts::default();
    for (i, batch) in examples.chunks(BATCH).enumerate() {
        progress(i * BATCH, examples.len());
        tags(session, tokenizer, batch)?
            .iter()
            .for_each(|c| counts.and(c));
    }
    progress(examples.len(), examples.len());
    Ok(counts.scores())
}

/// What is right and wrong of each example.
///
/// # Errors
/// As [`tagging`].
pub(crate) fn tags(
    session: &mut Session,
    tokenizer: &Tokenizer,
    examples: &[Example],
) -> Result<Vec<Counts>, Error> {
    let description = session.model().description();
    let Task::TokenClassification { labels } = description.task.clone() else {
        return Err(Error::Mismatch(format!(
            "examples with spans are for token classifiers; this model is a {}",
            description.architecture
        )));
    };
    let max = MAX_TOKENS.min(description.context);
    let mut all = vec![];
    for batch in examples.chunks(BATCH) {
        let mut encodings = vec![];
        for example in batch {
            let mut encoding = tokenizer.encode(&example.text, true)?;
            encoding.truncate(max)?;
            encodings.push(encoding);
        }
        let inputs: Vec<EncoderInput<'_>> = encodings
            .iter()
            .map(|e| EncoderInput {
                ids: &e.ids,
                token_types: Some(&e.type_ids),
                ..EncoderInput::default()
            })
            .collect();
        let outputs = session.encode(&inputs)?;
        for ((example, encoding), output) in batch.iter().zip(&encodings).zip(&outputs) {
            let logits = output.get("logits").ok_or_else(|| {
                Error::Mismatch("the model gives no logits, so no labels can be compared".into())
            })?;
            let tokens = (0..encoding.len()).filter(|i| !encoding.special[*i]);
            let (mut there, mut found) = (vec![], vec![]);
            for i in tokens {
                there.push(label(&encoding.chars[i], &example.spans));
                found.push(
                    labels
                        .get(argmax(logits.row(i)))
                        .cloned()
                        .unwrap_or_default(),
                );
            }
            let mut counts = Counts::default();
            counts.add(&there, &found);
            all.push(counts);
        }
    }
    Ok(all)
}

/// The label of a token: that of the first span it overlaps.
fn label(token: &Range<usize>, spans: &[(usize, usize, String)]) -> String {
    let overlaps =
        |(start, end, _): &&(usize, usize, String)| token.start < *end && token.end > *start;
    match spans.iter().find(overlaps) {
        Some((start, _, label)) if token.start <= *start => format!("B-{label}"),
        Some((_, _, label)) => format!("I-{label}"),
        None => "O".into(),
    }
}

impl Counts {
    fn add(&mut self, there: &[String], found: &[String]) {
        self.tokens += there.len();
        self.right_tokens += there.iter().zip(found).filter(|(a, b)| a == b).count();
        let [there, found] = [there, found].map(|labels| {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            runs(&labels)
        });
        self.right += found.iter().filter(|e| there.contains(e)).count();
        self.there += there.len();
        self.found += found.len();
    }

    fn and(&mut self, o: &Counts) {
        self.tokens += o.tokens;
        self.right_tokens += o.right_tokens;
        self.found += o.found;
        self.there += o.there;
        self.right += o.right;
    }

    /// F1 over all of them.
    pub fn f1<'a>(all: impl Iterator<Item = &'a Counts>) -> f64 {
        let mut sum = Counts::default();
        all.for_each(|c| sum.and(c));
        sum.scores().f1
    }

    fn scores(&self) -> Scores {
        let share = |part: usize, of: usize| {
            if of == 0 {
                0.0
            } else {
                part as f64 / of as f64
            }
        };
        Scores {
            precision: share(self.right, self.found),
            recall: share(self.right, self.there),
            f1: share(2 * self.right, self.found + self.there),
            token_accuracy: share(self.right_tokens, self.tokens),
            tokens: self.tokens,
            entities: self.there,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_takes_the_first_span_it_overlaps() {
        let spans = [(4, 10, "FUNC".to_string()), (8, 12, "CLASS".to_string())];
        let check = |token: Range<usize>, expected: &str| {
            assert_eq!(label(&token, &spans), expected, "{token:?}");
        };
        check(0..4, "O");
        check(3..5, "B-FUNC");
        check(4..6, "B-FUNC");
        check(6..8, "I-FUNC");
        check(9..11, "I-FUNC");
        check(10..12, "I-CLASS");
        check(12..13, "O");
    }

    #[test]
    fn scores_by_hand() {
        let labels = |s: &str| s.split(' ').map(str::to_string).collect::<Vec<_>>();
        let mut counts = Counts::default();
        counts.add(&labels("B-A I-A O B-B"), &labels("B-A I-A O O"));
        counts.add(&labels("O B-A"), &labels("B-A B-A"));
        let found = counts.scores();
        assert_eq!(
            (found.precision, found.tokens, found.entities),
            (2.0 / 3.0, 6, 3)
        );
        assert_eq!((found.recall, found.f1), (2.0 / 3.0, 2.0 / 3.0));
        assert!((found.token_accuracy - 4.0 / 6.0).abs() < 1e-12);
        assert_eq!(Counts::default().scores(), Scores::default());
    }
}
