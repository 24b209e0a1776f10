//! What commands share that choose plans by measuring: the calibration text, the budget, progress.

use super::{Progress, note, time};
use satura::{
    Cache, Source,
    budget::{Budget, Found, Workshop},
};
use std::{
    io::{IsTerminal, stderr},
    path::PathBuf,
    time::Instant,
};

/// Text to choose a plan by.
#[derive(Clone, Debug, clap::Args)]
pub struct Calibration {
    /// Text that the model is used on, for statistics and for comparing plans: plain text for a decoder; for a token
    /// classifier a JSON object a line with `text` and `spans` ([start, end, label], in characters)
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,

    /// Tokens of the text that statistics are made of; plans are compared on others
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub calibration_tokens: usize,
}

impl Calibration {
    /// Calibrates the model, or finds that it was.
    pub fn open(&self, source: &Source, no_cache: bool) -> anyhow::Result<Workshop> {
        let text = self.calibrate.as_ref();
        let text = text.ok_or_else(|| {
            anyhow::anyhow!("--calibrate FILE is needed: text to choose a plan by")
        })?;
        let checkpoint = source.checkpoint()?;
        let cache = if no_cache { None } else { Cache::of_user() };
        let (bar, start) = (Progress::new(), Instant::now());
        let told = |what, done, of| bar.step(what, done, of);
        let workshop = Workshop::open(
            checkpoint,
            text,
            self.calibration_tokens,
            cache.as_ref(),
            &told,
        )?;
        drop(bar);
        watched(&format!(
            "statistics and alternatives in {}",
            time(start.elapsed())
        ));
        Ok(workshop)
    }
}

/// The plans of a budget, the chosen one first.
pub fn search(workshop: &Workshop, budget: Budget) -> anyhow::Result<Found> {
    let bar = Progress::new();
    Ok(satura::budget::search(
        workshop,
        budget,
        &|what, done, of| bar.step(what, done, of),
    )?)
}

/// A line for those who watch; where nobody does, there is none.
pub fn watched(text: &str) {
    if stderr().is_terminal() {
        note(text);
    }
}
