//! What an artifact says of the budget it was made for: what was promised, what was measured and on what, and weight by
//! weight what was chosen. Knows figures; measures nothing.

use super::{Budget, Offer, Plan, Quality, SEED, STORED, Trial, Workshop, search::used};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// As asked for.
    pub budget: String,
    /// Share of it that is used, at most 1.
    pub used: f64,
    /// Against the original, on text that no statistics have seen.
    pub quality: Quality,
    /// Seconds of a step, measured; of the original model too.
    pub latency: [f64; 2],
    /// Seconds of a step, predicted.
    pub predicted_latency: f64,
    /// Divergence, predicted.
    pub predicted_kl: f64,
    /// Bytes of the artifact without this certificate; of the original model too.
    pub bytes: [u64; 2],
    /// blake3 of the calibration text.
    pub text: String,
    /// Of what is drawn at random.
    pub seed: u64,
    /// Weight by weight, in the program's order.
    pub rows: Vec<Row>,
}

/// A weight in a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name in the checkpoint.
    pub weight: String,
    /// The layer it belongs to.
    pub layer: String,
    /// N and K.
    pub shape: [usize; 2],
    /// How it is said.
    pub form: String,
    /// Who says so.
    pub method: String,
    /// What it takes.
    pub bytes: u64,
    /// Predicted divergence, nats a row of logits.
    pub kl: f64,
    /// Divergence that was measured when it alone was rounded to 4 bits; `None` where it cannot be.
    pub sensitivity: Option<f64>,
    /// Predicted seconds of its product in a step; as it was and as it is.
    pub seconds: [f64; 2],
    /// Other ways that were offered.
    pub offers: usize,
}

impl Certificate {
    /// Of a plan that was measured.
    pub fn new(workshop: &Workshop, budget: Option<Budget>, trial: &Trial) -> Certificate {
        let rows = Certificate::rows_of(workshop, &trial.plan);
        Certificate {
            budget: budget.map_or("none".into(), |b| b.to_string()),
            used: budget.map_or(0.0, |b| used(b, trial)),
            quality: trial.quality,
            latency: [trial.original, trial.latency],
            predicted_latency: workshop.step(trial.predicted.time, trial.original),
            predicted_kl: trial.predicted.error,
            bytes: [workshop.original.bytes, trial.bytes],
            text: blake3::Hash::from_bytes(workshop.text.digest)
                .to_hex()
                .to_string(),
            seed: SEED,
            rows,
        }
    }

    /// The weights of a plan.
    pub(super) fn rows_of(workshop: &Workshop, plan: &Plan) -> Vec<Row> {
        let rows = workshop.sites.iter().enumerate().map(|(s, site)| {
            let offer = &workshop.offers[s][plan[s]];
            let stored = &workshop.offers[s][0];
            let seconds = |o: &Offer| {
                let form = &o.alternative.form;
                workshop.latency.seconds(form, site.shape, site.stored)
            };
            let call = &workshop.program.calls[site.call];
            Row {
                weight: workshop.subject().name(s),
                layer: call.layer().unwrap_or_else(|| call.graph.to_string()),
                shape: site.shape,
                form: match offer.alternative.method.as_str() {
                    STORED => site.stored.to_string(),
                    _ => offer.alternative.form.to_string(),
                },
                method: offer.alternative.method.clone(),
                bytes: offer.alternative.bytes,
                kl: offer.kl,
                sensitivity: workshop.calibration.sensitivities[s].map(|s| s.kl),
                seconds: [seconds(stored), seconds(offer)],
                offers: workshop.offers[s].len() - 1,
            }
        });
        rows.collect()
    }

    /// As an artifact's report has it: for people, and as JSON for programs.
    pub fn report(&self) -> Vec<(String, String)> {
        let json = serde_json::to_string(self).unwrap_or_default();
        vec![
            (format!("certificate for {}", self.budget), self.text()),
            (JSON.into(), json),
        ]
    }

    /// What an artifact's report says; `None` where it was made without a budget.
    pub fn of(report: &[(String, String)]) -> Option<Certificate> {
        let (_, json) = report.iter().find(|(heading, _)| heading == JSON)?;
        serde_json::from_str(json).ok()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let q = &self.quality;
        // Writing to a string does not fail.
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        line(format!(
            "measured: a divergence of {:.3e} +- {:.1e} nats over {} rows of logits (predicted {:.3e}); {:.0} % of the budget",
            q.kl.mean,
            q.kl.half,
            q.rows,
            self.predicted_kl,
            self.used * 100.0
        ));
        if let Some(loss) = q.loss {
            let percent = |x: f64| x.exp_m1() * 100.0;
            let (low, high) = (
                percent(loss.mean - loss.half),
                percent(loss.mean + loss.half),
            );
            line(format!(
                "measured: perplexity {:+.3} % (95 %: {low:+.3} to {high:+.3})",
                percent(loss.mean)
            ));
        }
        if let Some(f1) = q.f1 {
            line(format!(
                "measured: F1 {:+.2} points +- {:.2}",
                -f1.mean, f1.half
            ));
        }
        let ms = |s: f64| s * 1e3;
        line(format!(
            "a step takes {:.3} ms (predicted {:.3}), the original {:.3}; the file has {:.1} MB, the original {:.1}",
            ms(self.latency[1]),
            ms(self.predicted_latency),
            ms(self.latency[0]),
            self.bytes[1] as f64 / 1e6,
            self.bytes[0] as f64 / 1e6
        ));
        line(format!(
            "text {}, of which these tokens were held back from statistics; seed {}; intervals of 95 %",
            &self.text[..16.min(self.text.len())],
            self.seed
        ));
        line(format!(
            "{:<52} {:>12} {:<24} {:<10} {:>9} {:>9} {:>8} {:>8}",
            "weight", "shape", "form", "method", "KL", "alone q4", "us", "was us"
        ));
        for r in &self.rows {
            line(format!(
                "{:<52} {:>12} {:<24} {:<10} {:>9.2e} {:>9} {:>8.1} {:>8.1}",
                r.weight,
                format!("{}x{}", r.shape[0], r.shape[1]),
                r.form,
                r.method,
                r.kl,
                r.sensitivity.map_or("-".into(), |s| format!("{s:.2e}")),
                r.seconds[1] * 1e6,
                r.seconds[0] * 1e6
            ));
        }
        out
    }
}

/// Heading of the part of a report that programs read.
pub const JSON: &str = "certificate in JSON";
