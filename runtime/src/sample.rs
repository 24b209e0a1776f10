//! Choosing the next token from logits. Knows numbers and token ids; neither text nor where the logits come from.

use std::cmp::Ordering;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How a token is chosen. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits: below 1 sharpens, above 1 flattens; 0 takes the most probable token always.
    pub temperature: f32,
    /// Only this many most probable tokens are drawn from; 0 means all.
    pub top_k: usize,
    /// Only the fewest most probable tokens that together have this probability are drawn from; 1 means all. Applied
    /// after temperature and top-k (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020).
    pub top_p: f32,
    /// Only tokens at least this share as probable as the most probable one are drawn; 0 means all. Applied after
    /// temperature (arXiv 2407.01082).
    pub min_p: f32,
    /// Divides the logit of a token that is there already where it is positive, multiplies it where it is negative; 1
    /// changes nothing. Applied first of all, also where the most probable token is taken (arXiv 1909.05858).
    pub repetition_penalty: f32,
    /// The same seed gives the same tokens for the same logits.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// An option is outside of its range.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        found: f32,
        /// What is accepted.
        expected: &'static str,
    },
    /// A logit is NaN or positive infinity.
    #[error(
        "logit of token {token} is {value}: the model computed no usable prediction; check its weights with `satura verify`"
    )]
    NotFinite {
        /// The first such token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// There are no logits, or all are negative infinity.
    #[error("none of {0} tokens has a probability above zero")]
    NoToken(usize),
}

/// Draws tokens. One per sequence: it holds the state of the random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    random: ChaCha8Rng,
    /// Tokens that are there already, each once, in order; where a penalty asks for them.
    seen: Vec<u32>,
    /// Logits as the penalty leaves them. Kept between calls, as are candidates, so that only the first one allocates.
    penalised: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
    /// Its probability relative to the best token's, once computed.
    weight: f64,
}

impl Candidate {
    fn new(token: u32, logit: f32) -> Self {
        Self {
            token,
            logit,
            weight: 0.0,
        }
    }

    /// The more probable first, then the lower id: a total order, as logits are never NaN here.
    fn order(&self, other: &Self) -> Ordering {
        other
            .logit
            .total_cmp(&self.logit)
            .then(self.token.cmp(&other.token))
    }
}

impl Sampler {
    /// # Errors
    /// An option is outside of its range.
    pub fn new(options: SamplerOptions) -> Result<Self, SampleError> {
        let SamplerOptions {
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            ..
        } = options;
        for (option, found, valid, expected) in [
            (
                "temperature",
                temperature,
                temperature.is_finite() && temperature >= 0.0,
                "a finite number from 0 up",
            ),
            (
                "top_p",
                top_p,
                top_p > 0.0 && top_p <= 1.0,
                "a number above 0, at most 1",
            ),
            (
                "min_p",
                min_p,
                (0.0..=1.0).contains(&min_p),
                "a number from 0 to 1",
            ),
            (
                "repetition_penalty",
                repetition_penalty,
                repetition_penalty.is_finite() && repetition_penalty > 0.0,
                "a finite number above 0",
            ),
        ] {
            if !valid {
                return Err(SampleError::Option {
                    option,
                    found,
                    expected,
                });
            }
        }
        Ok(Self {
            options,
            random: ChaCha8Rng::seed_from_u64(options.seed),
            seen: vec![],
            penalised: vec![],
            candidates: vec![],
        })
    }

    /// The options.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Tells which tokens are there already: a prompt's. Those that [`sample`](Sampler::sample) chooses count from then
    /// on.
    pub fn see(&mut self, tokens: &[u32]) {
        if self.options.repetition_penalty == 1.0 {
            return;
        }
        for token in tokens {
            if let Err(place) = self.seen.binary_search(token) {
                self.seen.insert(place, *token);
            }
        }
    }

    /// Chooses a token given one logit each; of equal ones the lowest id counts as the more probable. A logit of
    /// negative infinity rules its token out. Allocates in the first call only, unless a later one has more logits, or
    /// there is a penalty.
    ///
    /// # Errors
    /// A logit is NaN or positive infinity, or no token is left.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        if self.options.repetition_penalty == 1.0 {
            return self.draw(logits);
        }
        let mut penalised = std::mem::take(&mut self.penalised);
        penalised.clear();
        penalised.extend(logits);
        for token in &self.seen {
            // A prompt may hold tokens that there are no logits of.
            let Some(logit) = penalised.get_mut(*token as usize) else {
                break;
            };
            match *logit < 0.0 {
                true => *logit *= self.options.repetition_penalty,
                false => *logit /= self.options.repetition_penalty,
            }
        }
        let token = self.draw(&penalised);
        self.penalised = penalised;
        self.see(&[token.clone()?]);
        token
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        let best = best(logits)?;
        if self.options.temperature == 0.0 || self.options.top_k == 1 {
            return Ok(best.token);
        }
        let candidates = &mut self.candidates;
        candidates.clear();
        // Adding zero makes -0 and 0 the same, as they are for probabilities.
        let all = logits
            .iter()
            .zip(0..)
            .map(|(&logit, token)| Candidate::new(token, logit + 0.0));
        candidates.extend(all);
        if (1..candidates.len()).contains(&self.options.top_k) {
            candidates.select_nth_unstable_by(self.options.top_k - 1, Candidate::order);
            candidates.truncate(self.options.top_k);
            // Selection leaves the kept ones in an order of its own.
            candidates.sort_unstable_by_key(|c| c.token);
        }
        // Relative to the best token's, so that no weight overflows and one at least is 1.
        let (best_logit, scale) = (
            f64::from(best.logit),
            1.0 / f64::from(self.options.temperature),
        );
        let (mut total, least) = (0.0, f64::from(self.options.min_p));
        for candidate in candidates.iter_mut() {
            candidate.weight = ((f64::from(candidate.logit) - best_logit) * scale).exp();
            total += candidate.weight;
        }
        if self.options.top_p < 1.0 {
            let (kept, mass) = nucleus(candidates, f64::from(self.options.top_p) * total);
            candidates.truncate(kept);
            total = mass;
        }
        if least > 0.0 {
            candidates.retain(|candidate| candidate.weight >= least);
            total = candidates.iter().map(|candidate| candidate.weight).sum();
        }
        // The top 53 bits, as many as an f64 holds: uniform in [0, 1).
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * total;
        for candidate in candidates.iter() {
            if left < candidate.weight {
                return Ok(candidate.token);
            }
            left -= candidate.weight;
        }
        // Rounding may leave a rest after the last one.
        Ok(best.token)
    }
}

/// Index of the largest element, the first of equals; NaN is passed over, and 0 stands for none.
pub fn argmax(row: &[f32]) -> usize {
    // Lane by lane, as registers do it; where the largest lies is looked for in its block alone.
    const BLOCK: usize = 2048;
    let mut best = (f32::NEG_INFINITY, 0);
    for (block, i) in row.chunks(BLOCK).zip(0..) {
        let mut most = [f32::NEG_INFINITY; 16];
        for part in block.chunks(most.len()) {
            for (most, x) in most.iter_mut().zip(part) {
                *most = if *x > *most { *x } else { *most };
            }
        }
        let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if most > best.0 {
            best = (most, i);
        }
    }
    let (most, block) = best;
    let first = BLOCK * block;
    let at = row[first..].iter().take(BLOCK).position(|x| *x == most);
    at.map_or(0, |at| first + at)
}

/// The candidate with the highest logit, the lowest id among equals; checks all logits on the way.
fn best(logits: &[f32]) -> Result<Candidate, SampleError> {
    let wrong = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    // Of all, without an early end, which registers do at once.
    if logits.iter().fold(0, |any, x| any | u8::from(wrong(x))) > 0 {
        let token = logits.iter().position(wrong).unwrap_or(0);
        let value = logits[token];
        return Err(SampleError::NotFinite { token, value });
    }
    let token = argmax(logits);
    match logits.get(token) {
        Some(&logit) if logit > f32::NEG_INFINITY => Ok(Candidate::new(token as u32, logit)),
        _ => Err(SampleError::NoToken(logits.len())),
    }
}

/// Moves the fewest most probable candidates whose weights reach `mass` to the front, in order, and returns their
/// number and their summed weight. Sorts only as many as it needs, guessing four times more until they suffice.
fn nucleus(candidates: &mut [Candidate], mass: f64) -> (usize, f64) {
    let mut sum = 0.0;
    let mut sorted = 0;
    let mut guess = 64;
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let take = guess.min(rest.len());
        if take < rest.len() {
            rest.select_nth_unstable_by(take, Candidate::order);
        }
        rest[..take].sort_unstable_by(Candidate::order);
        for candidate in &rest[..take] {
            sum += candidate.weight;
            sorted += 1;
            if sum >= mass {
                return (sorted, sum);
            }
        }
        guess *= 4;
    }
    (sorted, sum)
}
