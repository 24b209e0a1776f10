//! How far a plan's model is from the original on text that no statistics have seen, with an interval. Runs both; knows no
//! plans.

use super::draw::Draw;
use crate::{
    calibrate::Text,
    measure::{self, Error, kl_of_rows, loss_of_rows},
};
use ir::Task;
use runtime::{Chunk, EncoderInput, Model, Options, Select, Session, tokenizer::Tokenizer};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An average, and half the width of its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The average.
    pub mean: f64,
    /// The true one lies within so much of it, 19 times of 20.
    pub half: f64,
}

impl Estimate {
    /// From values of independent sequences, each of which counts as many times as it has tokens.
    pub fn of(values: &[(f64, usize)]) -> Estimate {
        let tokens: f64 = values.iter().map(|v| v.1 as f64).sum();
        let mean = values.iter().map(|v| v.0 * v.1 as f64).sum::<f64>() / tokens.max(1.0);
        let n = values.len() as f64;
        // Of a ratio of sums (Cochran 1977, 6.4).
        let spread = values.iter().map(|v| ((v.0 - mean) * v.1 as f64).powi(2));
        let spread: f64 = spread.sum::<f64>() * n / (n - 1.0).max(1.0);
        Estimate {
            mean,
            half: 1.96 * spread.sqrt() / tokens.max(1.0),
        }
    }

    /// The end of the interval where it is larger.
    pub fn upper(&self) -> f64 {
        self.mean + self.half
    }
}

/// What a plan does to the model's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Divergence from the original, nats a row of logits.
    pub kl: Estimate,
    /// Rise of the mean loss, nats a token, of a decoder: the logarithm of the ratio of perplexities.
    pub loss: Option<Estimate>,
    /// Fall of F1, points of 100, of a token classifier.
    pub f1: Option<Estimate>,
    /// Rows of logits that were compared.
    pub rows: usize,
}

/// Resamples of a bootstrap.
const RESAMPLES: usize = 1000;

/// Of the bootstrap.
pub const SEED: u64 = 1;

/// Compares each of `plans` with `original` on the sequences that `text` holds back.
///
/// # Errors
/// A model that does not run on them, or gives no logits.
pub fn compare(
    original: &Arc<Model>,
    plans: &[Arc<Model>],
    text: &Text,
    tokenizer: &Tokenizer,
    progress: &dyn Fn(usize, usize),
) -> Result<Vec<Quality>, Error> {
    let decodes = original.description().task == Task::CausalLm;
    let longest = text.held_back.iter().map(Vec::len).max().unwrap_or(1);
    let options = Options {
        context: decodes.then_some(longest),
        ..Options::default()
    };
    let mut first = Session::new(original, options)?;
    let sessions = plans.iter().map(|p| Session::new(p, options));
    let mut sessions: Vec<Session> = sessions.collect::<Result<_, _>>()?;
    let mut kl: Vec<Vec<(f64, usize)>> = vec![vec![]; plans.len()];
    let mut loss = kl.clone();
    for (i, ids) in text.held_back.iter().enumerate() {
        progress(i, text.held_back.len());
        let (wanted, width) = logits(&mut first, ids)?;
        let was = decodes.then(|| loss_of_rows(&wanted, width, &ids[1..]));
        for (p, session) in sessions.iter_mut().enumerate() {
            let (found, _) = logits(session, ids)?;
            let divergences = kl_of_rows(&wanted, &found, width);
            kl[p].push((mean(&divergences), divergences.len()));
            if let Some(was) = &was {
                let is = loss_of_rows(&found, width, &ids[1..]);
                loss[p].push((mean(&is) - mean(was), was.len()));
            }
        }
    }
    let f1 = match &original.description().task {
        Task::TokenClassification { .. } if !text.examples.is_empty() => {
            let before = measure::tags(&mut first, tokenizer, &text.examples)?;
            let after = sessions
                .iter_mut()
                .map(|s| measure::tags(s, tokenizer, &text.examples));
            let after = after.collect::<Result<Vec<_>, _>>()?;
            after
                .iter()
                .map(|after| Some(fall(&before, after)))
                .collect()
        }
        _ => vec![None; plans.len()],
    };
    let qualities = kl
        .iter()
        .zip(&loss)
        .zip(f1)
        .map(|((kl, loss), f1)| Quality {
            kl: Estimate::of(kl),
            loss: decodes.then(|| Estimate::of(loss)),
            f1,
            rows: kl.iter().map(|v| v.1).sum(),
        });
    Ok(qualities.collect())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Logits of every token of a sequence (or of the sequence), and the elements of a row.
fn logits(session: &mut Session, ids: &[u32]) -> Result<(Vec<f32>, usize), Error> {
    if session.model().description().task == Task::CausalLm {
        session.reset(0)?;
        let chunk = Chunk {
            sequence: 0,
            tokens: ids,
            positions: None,
        };
        let logits = session.step(&[chunk], Select::All)?;
        return Ok((logits.data.to_vec(), logits.vocabulary));
    }
    let input = EncoderInput {
        ids,
        ..EncoderInput::default()
    };
    let outputs = session.encode(&[input])?;
    let rows = outputs.iter().find_map(|o| o.get("logits"));
    let rows = rows.ok_or_else(|| Error::Mismatch("the model gives no logits".into()))?;
    Ok((rows.data.clone(), rows.width))
}

/// Fall of F1 in points, with an interval by the bootstrap over examples (Efron & Tibshirani 1993, chapter 13).
fn fall(before: &[measure::Tags], after: &[measure::Tags]) -> Estimate {
    let all: Vec<usize> = (0..before.len()).collect();
    let fall = |of: &[usize]| {
        let f1 = |tags: &[measure::Tags]| measure::Tags::f1(of.iter().map(|i| &tags[*i]));
        100.0 * (f1(before) - f1(after))
    };
    let mut draw = Draw(SEED);
    let mut falls: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn: Vec<usize> = all.iter().map(|_| draw.below(all.len())).collect();
            fall(&drawn)
        })
        .collect();
    falls.sort_by(f64::total_cmp);
    let (low, high) = (falls[RESAMPLES / 40], falls[RESAMPLES - 1 - RESAMPLES / 40]);
    Estimate {
        mean: fall(&all),
        half: (high - low) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_by_hand() {
        let e = Estimate::of(&[(1.0, 10), (3.0, 10)]);
        // Standard error of the mean of 1 and 3.
        assert_eq!(e.mean, 2.0);
        assert!((e.half - 1.96).abs() < 1e-12, "{e:?}");
        assert_eq!(Estimate::of(&[(2.0, 1), (0.0, 3)]).mean, 0.5);
        assert_eq!(Estimate::of(&[(2.0, 5)]).half, 0.0);
        assert_eq!(Estimate::of(&[]), Estimate::default());
    }
}
