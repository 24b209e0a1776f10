//! Everything that is known of a model before a plan is chosen (statistics, offers, times), and what a plan becomes: an
//! artifact, its quality, its latency. Chooses nothing.

use super::{
    Costs, Error, Group, Latency, Offer, Subject, Trial,
    certificate::Certificate,
    compare,
    groups::groups,
    step::{self, Pace},
};
use crate::{
    Cache,
    calibrate::{self, Calibration, Progress, Store, Text},
    open::{TOKENIZER, fitting},
    staged,
};
use compiler::{
    Options,
    checkpoint::Checkpoint,
    compress::{Overlay, Site, apply, sites},
    models,
    plan::knapsack::{Cost, sum},
};
use ir::{Description, Program, Task, artifact::HEADER_BYTES};
use runtime::{
    Model,
    devices::{Bytes, cpu},
    tokenizer::Tokenizer,
};
use std::{fs::File, io::BufWriter, os::unix::fs::FileExt, path::Path, sync::Arc};

/// Tokens that plans are compared on.
const HELD_BACK: usize = 16_384;

/// For each site the number of its offer.
pub type Plan = Vec<usize>;

/// A plan as an artifact that runs.
#[derive(Clone, Debug)]
pub struct Build {
    /// Ready to run.
    pub model: Arc<Model>,
    /// Bytes of the artifact.
    pub bytes: u64,
    /// blake3 of its header, which has the digests of all its parts.
    pub digest: [u8; 32],
}

/// See the module's text.
pub struct Workshop {
    /// Where weights are.
    pub checkpoint: Checkpoint,
    /// As the family built it.
    pub program: Program,
    /// What the model is.
    pub description: Description,
    /// Where it multiplies by weights.
    pub sites: Vec<Site>,
    /// What plans are compared on.
    pub text: Text,
    /// Statistics.
    pub calibration: Calibration,
    /// For each site.
    pub offers: Vec<Vec<Offer>>,
    /// Predictions.
    pub latency: Latency,
    /// Weights that are chosen together.
    pub groups: Vec<Group>,
    /// The model as it is.
    pub original: Build,
    /// How long a step of it takes.
    pub pace: Pace,
    tokenizer: Tokenizer,
}

impl Workshop {
    /// Calibrates a model and asks for alternatives of its weights, as far as that was not done before.
    ///
    /// # Errors
    /// A model or text that cannot be calibrated with.
    pub fn open(
        checkpoint: Checkpoint,
        text: &Path,
        tokens: usize,
        cache: Option<&Cache>,
        progress: Progress<'_>,
    ) -> Result<Workshop, Error> {
        let (program, description) = models::build(checkpoint.config(), &checkpoint)?;
        let sites = sites(&program);
        let json = checkpoint.file(TOKENIZER)?.unwrap_or_default();
        let tokenizer = fitting(&json, &description)?;
        let text = Text::read(text, &tokenizer, &description, tokens, HELD_BACK)?;
        let mut key = blake3::Hasher::new_derive_key("satura calibration 1");
        key.update(&checkpoint.digest()?);
        key.update(&text.digest);
        key.update(&tokens.to_le_bytes());
        let folder = match cache {
            Some(cache) => cache.folder().join("calibrations"),
            None => std::env::temp_dir().join(format!("satura-{}", std::process::id())),
        };
        let store = Store::new(folder.join(&key.finalize().to_hex()[..32]))?;
        let program_of = (&program, &description);
        let calibration =
            calibrate::calibrate(&checkpoint, program_of, &sites, &text, store, progress)?;
        // Only now, so that it is not in memory beside the model that is watched.
        let options = Options::new(cpu::host());
        let told = |_, done: u64, of: u64| progress("compiling", done as usize, of as usize);
        let original = build(|file| {
            let out = BufWriter::with_capacity(1 << 20, file);
            let out = compiler::compile(&checkpoint, &options, out, &told)?;
            drop(out);
            Ok(())
        })?;
        let subject = Subject {
            checkpoint: &checkpoint,
            program: &program,
            sites: &sites,
        };
        let offers = subject.offers(&calibration, progress)?;
        let form = |o: &Offer| o.alternative.form.clone();
        let forms = offers.iter().map(|o| o.iter().map(form).collect());
        let forms: Vec<Vec<_>> = forms.collect();
        let mut costs = Costs::open(cache.map(Cache::folder))?;
        let step = match description.task {
            Task::CausalLm => 1,
            _ => 128.min(description.context),
        };
        let timing = |done, of| progress("timing kernels", done, of);
        let latency = Latency::of(&sites, &forms, step, &mut costs, &timing)?;
        let groups = groups(&sites, &offers, &latency);
        let pace = Pace::of(&original, cache.map(Cache::folder))?;
        Ok(Workshop {
            checkpoint,
            program,
            description,
            sites,
            text,
            calibration,
            offers,
            latency,
            groups,
            original,
            pace,
            tokenizer,
        })
    }

    /// What the model is to choose for.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            checkpoint: &self.checkpoint,
            program: &self.program,
            sites: &self.sites,
        }
    }

    /// Costs of each group's options.
    pub fn costs(&self) -> Vec<Vec<Cost>> {
        self.groups.iter().map(|g| g.costs.clone()).collect()
    }

    /// The plan of an option for each group.
    pub fn plan(&self, choice: &[usize]) -> Plan {
        let mut plan = vec![0; self.sites.len()];
        for (group, option) in self.groups.iter().zip(choice) {
            for (site, offer) in group.sites.iter().zip(&group.options[*option]) {
                plan[*site] = *offer;
            }
        }
        plan
    }

    /// What a plan is predicted to cost: its products, group by group.
    pub fn predict(&self, plan: &Plan) -> Cost {
        let mut total = Cost::default();
        for group in &self.groups {
            let own: Vec<usize> = group.sites.iter().map(|s| plan[*s]).collect();
            if let Some(option) = group.options.iter().position(|o| *o == own) {
                total = total.and(group.costs[option]);
                continue;
            }
            for (s, o) in group.sites.iter().zip(own) {
                let (site, offer) = (&self.sites[*s], &self.offers[*s][o]);
                let form = &offer.alternative.form;
                total = total.and(Cost {
                    time: self.latency.seconds(form, site.shape, site.stored),
                    bytes: offer.alternative.bytes as f64,
                    error: offer.kl,
                });
            }
        }
        total
    }

    /// Seconds of a step whose products are predicted to take so long, where the original takes `original`. Memory is
    /// faster in one minute than in the next, and in a model than in a loop: predictions are taken relative to the
    /// original's.
    pub fn step(&self, products: f64, original: f64) -> f64 {
        let unchanged = unchanged(self).time.max(f64::MIN_POSITIVE);
        let rest = self.pace.rest;
        original * (rest + (1.0 - rest) * products / unchanged)
    }

    /// The inverse of [`Workshop::step`] at the original's latency: seconds of products, of which a step takes so long.
    pub fn products(&self, step: f64) -> f64 {
        let Pace { seconds, rest } = self.pace;
        (step / seconds - rest) / (1.0 - rest) * unchanged(self).time
    }

    /// The program of a plan, and the numbers that it needs.
    ///
    /// # Errors
    /// Weights that cannot be encoded.
    pub fn program(
        &self,
        plan: &Plan,
        progress: Progress<'_>,
    ) -> Result<(Program, Overlay), Error> {
        let mut choices = vec![];
        for call in 0..self.program.calls.len() {
            let wanted = |s: &usize| self.sites[*s].call == call && plan[*s] > 0;
            if !(0..self.sites.len()).any(|s| wanted(&s)) {
                continue;
            }
            let (opened, sites) = self.calibration.of_call(&self.sites, call)?;
            for (i, sites) in sites.into_iter().enumerate() {
                let sites: Vec<usize> = sites.into_iter().filter(wanted).collect();
                if sites.is_empty() {
                    continue;
                }
                let moments = opened.moments(i)?;
                for s in sites {
                    progress("encoding", s, self.sites.len());
                    let offer = &self.offers[s][plan[s]].alternative;
                    let encoded = self.subject().encode(s, &moments, offer)?;
                    choices.push((self.sites[s].clone(), encoded));
                }
            }
        }
        Ok(apply(&self.program, &choices)?)
    }

    /// Compiles plans and measures them side by side.
    ///
    /// # Errors
    /// One that does not compile or run.
    pub fn measure(&self, plans: &[Plan], progress: Progress<'_>) -> Result<Vec<Trial>, Error> {
        let options = Options::new(cpu::host());
        let mut builds = vec![];
        for plan in plans {
            let (program, overlay) = self.program(plan, progress)?;
            let description = self.description.clone();
            let of = (program, description);
            let told = |_, done: u64, of: u64| progress("compiling", done as usize, of as usize);
            builds.push(build(|file| {
                let none = vec![];
                compiler::compile_program(
                    &self.checkpoint,
                    of,
                    &overlay,
                    none,
                    &options,
                    file,
                    &told,
                )?;
                Ok(())
            })?);
        }
        let models: Vec<Arc<Model>> = builds.iter().map(|b| Arc::clone(&b.model)).collect();
        let told = |done, of| progress("comparing plans", done, of);
        let qualities = compare(
            &self.original.model,
            &models,
            &self.text,
            &self.tokenizer,
            &told,
        )?;
        let mut trials = vec![];
        for ((plan, build), quality) in plans.iter().zip(&builds).zip(qualities) {
            let [original, latency] = step::time([&self.original.model, &build.model])?;
            trials.push(Trial {
                plan: plan.clone(),
                predicted: self.predict(plan),
                quality,
                latency,
                original,
                bytes: build.bytes,
            });
        }
        Ok(trials)
    }

    /// Writes the artifact of a plan with its certificate, for any target.
    ///
    /// # Errors
    /// It does not compile; the disk.
    pub fn write(
        &self,
        plan: &Plan,
        certificate: &Certificate,
        options: &Options,
        file: &File,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let (program, overlay) = self.program(plan, progress)?;
        let report = certificate.report();
        let told = |_, done: u64, of: u64| progress("compiling", done as usize, of as usize);
        let of = (program, self.description.clone());
        compiler::compile_program(&self.checkpoint, of, &overlay, report, options, file, &told)?;
        Ok(())
    }
}

/// What is written as an artifact, as a model in memory.
fn build(write: impl FnOnce(&File) -> Result<(), Error>) -> Result<Build, Error> {
    let failed = |source| Error::File {
        path: std::env::temp_dir(),
        source,
    };
    let file = staged::in_memory().map_err(failed)?;
    write(&file)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).map_err(failed)?;
    let model = Model::from_bytes(Bytes::of_file("a plan", &file)?)?;
    Ok(Build {
        model,
        bytes,
        digest: blake3::hash(&header).into(),
    })
}

/// Costs of the choice with which every weight stays as it is.
pub fn unchanged(workshop: &Workshop) -> Cost {
    let stored = vec![0; workshop.groups.len()];
    let choice: Vec<usize> = workshop
        .groups
        .iter()
        .zip(stored)
        .map(|(g, none)| {
            g.options
                .iter()
                .position(|o| o.iter().all(|o| *o == 0))
                .unwrap_or(none)
        })
        .collect();
    sum(&workshop.costs(), &choice)
}
