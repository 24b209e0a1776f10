//! Plans that were measured. Those of a search are kept beside the statistics, so that a budget which one of them answers is
//! solved without measuring. Chooses nothing.

use super::{Error, Plan, Quality, Workshop, costs, offers};
use crate::calibrate::Progress;
use compiler::plan::knapsack::Cost;
use serde::{Deserialize, Serialize};

/// A plan that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub plan: Plan,
    /// What it is predicted to cost: time and bytes of its products, divergence.
    #[serde(skip)]
    pub predicted: Cost,
    /// Against the original.
    pub quality: Quality,
    /// Seconds of a step.
    pub latency: f64,
    /// Seconds of a step of the original, taken in turns with it.
    pub original: f64,
    /// Of the artifact.
    pub bytes: u64,
}

/// Trials of this machine, of earlier searches and of this one.
pub struct Trials<'a> {
    workshop: &'a Workshop,
    file: String,
    known: Vec<Trial>,
}

impl<'a> Trials<'a> {
    /// Those of earlier searches.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of ours.
    pub fn open(workshop: &'a Workshop) -> Result<Trials<'a>, Error> {
        // Another machine takes other times, and another compiler makes something else of a plan.
        let mut key = blake3::Hasher::new_derive_key("satura plans 1");
        key.update(&workshop.original.digest);
        key.update(costs::machine().as_bytes());
        let key = key.finalize().to_hex();
        let file = format!("plans-{}-{}.json", &key[..16], offers::vocabulary());
        let known: Option<Vec<Trial>> = workshop.calibration.store.json(&file)?;
        let mut known = known.unwrap_or_default();
        let offered = |t: &Trial| {
            let mut all = t.plan.iter().zip(&workshop.offers);
            t.plan.len() == workshop.offers.len() && all.all(|(o, offers)| *o < offers.len())
        };
        known.retain(offered);
        for trial in &mut known {
            trial.predicted = workshop.predict(&trial.plan);
        }
        Ok(Trials {
            workshop,
            file,
            known,
        })
    }

    /// All of them.
    pub fn known(&self) -> &[Trial] {
        &self.known
    }

    /// The trials of these plans: those that are not known are made, and kept.
    ///
    /// # Errors
    /// A plan that does not compile or run; the disk.
    pub fn of(&mut self, plans: &[Plan], progress: Progress<'_>) -> Result<Vec<Trial>, Error> {
        let new: Vec<Plan> = plans
            .iter()
            .filter(|p| !self.known.iter().any(|t| t.plan == **p))
            .cloned()
            .collect();
        if !new.is_empty() {
            self.known.extend(self.workshop.measure(&new, progress)?);
            let store = &self.workshop.calibration.store;
            store.write_json(&self.file, &self.known)?;
        }
        let find = |p: &Plan| self.known.iter().find(|t| t.plan == *p).cloned();
        Ok(plans.iter().filter_map(find).collect())
    }
}
