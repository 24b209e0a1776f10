//! Plans that were measured. Those of a search are kept beside the statistics, so that a budget which one of them answers is
//! solved without measuring. Chooses nothing.

use super::{Error, Plan, Quality, Workshop, costs, offers};
use crate::{calibrate::Progress, ledger::Ledger};
use compiler::plan::knapsack::Cost;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    path: PathBuf,
    known: Ledger<Plan, Trial>,
}

impl<'a> Trials<'a> {
    /// Those of earlier searches.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(workshop: &'a Workshop) -> Result<Trials<'a>, Error> {
        // Another machine takes other times, and another compiler makes something else of a plan.
        let mut key = blake3::Hasher::new_derive_key("satura plans 1");
        key.update(&workshop.original.digest);
        key.update(costs::machine().as_bytes());
        let key = key.finalize().to_hex();
        let file = format!("plans-{}-{}.jsonl", &key[..16], offers::vocabulary());
        let path = workshop.calibration.store.folder().join(file);
        let known = Ledger::open(Some(path.clone()));
        let known = known.map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        Ok(Trials {
            workshop,
            path,
            known,
        })
    }

    /// All of them.
    pub fn known(&self) -> Vec<Trial> {
        let offers = &self.workshop.offers;
        let offered = |plan: &&Plan| {
            let mut all = plan.iter().zip(offers);
            plan.len() == offers.len() && all.all(|(o, offers)| *o < offers.len())
        };
        let plans = self.known.known().keys().filter(offered);
        plans.filter_map(|p| self.find(p)).collect()
    }

    fn find(&self, plan: &Plan) -> Option<Trial> {
        self.known.known().get(plan).map(|trial| Trial {
            predicted: self.workshop.predict(plan),
            ..trial.clone()
        })
    }

    /// The trials of these plans: those that are not known are made, and kept.
    ///
    /// # Errors
    /// A plan that does not compile or run; the disk.
    pub fn of(&mut self, plans: &[Plan], progress: Progress<'_>) -> Result<Vec<Trial>, Error> {
        let known = self.known.known();
        let new = plans.iter().filter(|p| !known.contains_key(*p));
        let new: Vec<Plan> = new.cloned().collect();
        if !new.is_empty() {
            let made = self.workshop.measure(&new, progress)?;
            let made = made.into_iter().map(|t| (t.plan.clone(), t)).collect();
            let kept = self.known.extend(made);
            kept.map_err(|source| Error::File {
                path: self.path.clone(),
                source,
            })?;
        }
        Ok(plans.iter().filter_map(|p| self.find(p)).collect())
    }
}
