//! Calibration text as sequences of tokens, a part of them held back. Knows the form of the file, by the model's task; not
//! what is computed from it.

use super::Error;
use crate::measure::Example;
use ir::{Description, Task};
use runtime::tokenizer::Tokenizer;
use std::path::Path;

/// Tokens of a window of text.
const WINDOW: usize = 512;

/// Tokens of an example that are looked at, as where taggers are scored.
const EXAMPLE: usize = 128;

/// Of so many sequences one is held back: plans are compared on it, and no statistics see it.
const HELD_BACK: usize = 4;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Text {
    /// Sequences for statistics, spread evenly over the text.
    pub seen: Vec<Vec<u32>>,
    /// Sequences to compare plans on.
    pub held_back: Vec<Vec<u32>>,
    /// Of a token classifier the examples that are held back, in the same order.
    pub examples: Vec<Example>,
    /// blake3 of the file.
    pub digest: [u8; 32],
}

impl Text {
    /// Reads a file: for a decoder plain text, cut into windows of 512 tokens; for a token classifier a JSON object a line
    /// with `text` and `spans`; for other encoders a document a line. Keeps about `tokens` tokens for statistics and
    /// `held_back` to compare plans.
    ///
    /// # Errors
    /// The file cannot be read, is not of that form, or has less than two sequences of two tokens.
    pub fn read(
        file: &Path,
        tokenizer: &Tokenizer,
        description: &Description,
        tokens: usize,
        held_back: usize,
    ) -> Result<Text, Error> {
        let io = |source| Error::Io {
            path: file.into(),
            source,
        };
        let text = std::fs::read_to_string(file).map_err(io)?;
        let mut examples = vec![];
        let mut sequences: Vec<Vec<u32>> = vec![];
        match &description.task {
            Task::CausalLm => {
                let ids = tokenizer.encode(&text, false)?.ids;
                let window = WINDOW.min(description.context);
                let windows = ids.chunks(window).map(<[u32]>::to_vec);
                sequences.extend(windows.filter(|w| w.len() > 1));
                // A short rest would weigh as much as a whole window.
                if sequences.len() > 2 && ids.len() % window != 0 {
                    sequences.pop();
                }
                // Text of less than two windows still has a half to look at and a half to compare on.
                if let [one] = &sequences[..] {
                    let (a, b) = one.split_at(one.len() / 2);
                    sequences = [a, b].map(<[u32]>::to_vec).into();
                }
            }
            task => {
                let lines: Vec<String> = match task {
                    Task::TokenClassification { .. } => {
                        examples = Example::read(file, None)?;
                        examples.iter().map(|e| e.text.clone()).collect()
                    }
                    _ => {
                        let lines = text.lines().filter(|l| !l.trim().is_empty());
                        lines.map(String::from).collect()
                    }
                };
                for line in lines {
                    let mut encoding = tokenizer.encode(&line, true)?;
                    encoding.truncate(EXAMPLE.min(description.context))?;
                    sequences.push(encoding.ids);
                }
            }
        }
        let is_held_back =
            |i: usize| i % HELD_BACK == HELD_BACK - 1 || sequences.len() < HELD_BACK && i == 1;
        let (back, seen): (Vec<usize>, Vec<usize>) =
            (0..sequences.len()).partition(|i| is_held_back(*i));
        if back.is_empty() || seen.is_empty() || sequences.iter().any(|s| s.len() < 2) {
            return Err(Error::Text {
                path: file.into(),
                why: format!(
                    "gives {} sequences of two tokens or more; calibration wants two at least, and tens of thousands of \
                     tokens to say anything",
                    sequences.iter().filter(|s| s.len() > 1).count()
                ),
            });
        }
        let of = |i: &usize| sequences[*i].clone();
        let back = spread(&back, &sequences, held_back);
        Ok(Text {
            seen: spread(&seen, &sequences, tokens).iter().map(of).collect(),
            held_back: back.iter().map(of).collect(),
            examples: match examples.is_empty() {
                true => vec![],
                false => back.iter().map(|i| examples[*i].clone()).collect(),
            },
            digest: *blake3::hash(text.as_bytes()).as_bytes(),
        })
    }
}

/// Of the sequences at `indices`, as many as have about `tokens` tokens together, evenly spread.
fn spread(indices: &[usize], sequences: &[Vec<u32>], tokens: usize) -> Vec<usize> {
    let all: usize = indices.iter().map(|i| sequences[*i].len()).sum();
    let share = (tokens as f64 / all as f64).min(1.0);
    let mut wanted = 0.0;
    let chosen = indices.iter().filter(|_| {
        wanted += share;
        let take = wanted >= 1.0 - 1e-9;
        if take {
            wanted -= 1.0;
        }
        take
    });
    let chosen: Vec<usize> = chosen.copied().collect();
    match chosen.is_empty() {
        true => indices[..1].to_vec(),
        false => chosen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_spread_evenly() {
        let check = |lengths: &[usize], tokens: usize, expected: &[usize]| {
            let sequences: Vec<Vec<u32>> = lengths.iter().map(|n| vec![0; *n]).collect();
            let indices: Vec<usize> = (0..lengths.len()).collect();
            assert_eq!(
                spread(&indices, &sequences, tokens),
                expected,
                "{lengths:?}, {tokens}"
            );
        };
        check(&[10; 4], 100, &[0, 1, 2, 3]);
        check(&[10; 6], 20, &[2, 5]);
        check(&[10; 4], 1, &[0]);
    }
}
