//! Perplexity, and divergence from another model, on a sequence of tokens cut into windows. Knows no text.

use super::{
    Agreement, Error, argmax,
    divergence::{kl, log_sum_exp},
};
use runtime::{Chunk, Logits, Select, Session};

/// How well a model predicts tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Against the other model, where there is one.
    pub agreement: Option<Agreement>,
}

/// What is known of one predicted token.
#[derive(Clone, Copy, Default)]
struct Scored {
    loss: f64,
    kl: f64,
    same: bool,
}

/// Perplexity of `model` on `tokens`, cut into windows of `window` tokens side by side, the remainder dropped. Every
/// token of a window but its first is predicted from the window's tokens before it. `against` is the model that
/// `model` should be like. As many windows share a step as the sessions have sequences. `progress` is told `(windows
/// done, of)`.
///
/// # Errors
/// Fewer tokens than one window, a window of less than 2 tokens or longer than the context, or models of different
/// vocabularies.
pub fn perplexity(
    model: &mut Session,
    mut against: Option<&mut Session>,
    sequences: usize,
    tokens: &[u32],
    window: usize,
    progress: &dyn Fn(usize, usize),
) -> Result<Perplexity, Error> {
    let windows: Vec<&[u32]> = tokens.chunks_exact(window.max(1)).collect();
    if window < 2 || windows.is_empty() {
        let count = tokens.len();
        return Err(Error::Mismatch(format!(
            "the text has {count} tokens and a window {window}; a window has at least 2, and a text at least a window"
        )));
    }
    let threads = model.threads();
    let mut scored = vec![];
    for (i, windows_of_step) in windows.chunks(sequences.max(1)).enumerate() {
        progress(i * sequences, windows.len());
        let logits = run(model, windows_of_step)?;
        let other = against
            .as_deref_mut()
            .map(|s| run(s, windows_of_step))
            .transpose()?;
        if let Some(other) = other.filter(|o| o.vocabulary != logits.vocabulary) {
            return Err(Error::Mismatch(format!(
                "this model has {} tokens and the other {}; only models of one tokenizer can be compared",
                logits.vocabulary, other.vocabulary
            )));
        }
        score(
            windows_of_step,
            &logits,
            other.as_ref(),
            threads,
            &mut scored,
        );
    }
    progress(windows.len(), windows.len());
    let count = scored.len();
    let loss = scored.iter().map(|s| s.loss).sum::<f64>() / count as f64;
    let agreement = against.and_then(|_| {
        let tokens: Vec<(f64, bool)> = scored.iter().map(|s| (s.kl, s.same)).collect();
        Agreement::of(&tokens)
    });
    Ok(Perplexity {
        perplexity: loss.exp(),
        tokens: count,
        agreement,
    })
}

/// Logits of every token of each window.
fn run<'a>(session: &'a mut Session, windows: &[&[u32]]) -> Result<Logits<'a>, Error> {
    let mut batch = vec![];
    for (sequence, tokens) in windows.iter().enumerate() {
        session.reset(sequence)?;
        batch.push(Chunk {
            sequence,
            tokens,
            positions: None,
        });
    }
    Ok(session.step(&batch, Select::All)?)
}

/// Appends a score for each predicted token, in order; `threads` share the work.
fn score(
    windows: &[&[u32]],
    logits: &Logits<'_>,
    other: Option<&Logits<'_>>,
    threads: usize,
    scored: &mut Vec<Scored>,
) {
    let mut row = 0;
    let mut predictions = vec![];
    for window in windows {
        for target in &window[1..] {
            predictions.push((row, *target as usize));
            row += 1;
        }
        // The last token's prediction is of a token outside the window.
        row += 1;
    }
    let first = scored.len();
    scored.resize(first + predictions.len(), Scored::default());
    let share = predictions.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let shares = predictions
            .chunks(share)
            .zip(scored[first..].chunks_mut(share));
        for (predictions, scores) in shares {
            scope.spawn(move || {
                for ((row, target), score) in predictions.iter().zip(scores) {
                    let found = logits.row(*row);
                    score.loss = log_sum_exp(found) - f64::from(found[*target]);
                    if let Some(other) = other {
                        let original = other.row(*row);
                        score.kl = kl(original, found);
                        score.same = argmax(original) == argmax(found);
                    }
                }
            });
        }
    });
}
