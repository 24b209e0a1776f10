//! What each weight of a model may be replaced by, with errors in nats. Asks every compression method once; what they say is
//! kept beside the statistics, so that another budget asks none.

use super::Error;
use crate::calibrate::{Calibration, Opened, Progress, Sensitivity};
use compiler::{
    checkpoint::Checkpoint,
    compress::{
        self, Alternative, Encoded, Form, METHODS, Matrix, Moments, Problem, Sample, Site,
        nearest::Nearest,
    },
    fold::Array,
    plan::PROBE,
};
use ir::{DType, Operand, Program};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// An alternative of a weight, and what choosing it is predicted to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Its form, method, bytes, and error in the outputs of its product.
    #[serde(flatten)]
    pub alternative: Alternative,
    /// Divergence from the original, nats a row of logits.
    pub kl: f64,
}

/// Name of the alternative that leaves a weight as it is.
pub const STORED: &str = "stored";

/// What tells offers apart that mean different things by the same number.
pub(super) fn vocabulary() -> String {
    let names: Vec<&str> = METHODS.iter().map(|m| m.name()).collect();
    // Raised where errors or forms change: from samples since 1, rotations of 64 since 2, fewer rows since 3, q7 since 4.
    format!("{}-4-{}", env!("CARGO_PKG_VERSION"), names.join("-"))
}

/// A model whose weights are to be chosen.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Where its weights are.
    pub checkpoint: &'a Checkpoint,
    /// As its family built it.
    pub program: &'a Program,
    /// Where it multiplies by weights.
    pub sites: &'a [Site],
}

impl Subject<'_> {
    /// The numbers of a site's weight.
    ///
    /// # Errors
    /// The checkpoint is at fault.
    pub fn matrix(&self, site: &Site) -> Result<Matrix, Error> {
        let all: Vec<usize> = (0..site.shape[0]).collect();
        self.rows(site, &all)
    }

    /// Those of some rows.
    ///
    /// # Errors
    /// The checkpoint is at fault.
    fn rows(&self, site: &Site, rows: &[usize]) -> Result<Matrix, Error> {
        let call = &self.program.calls[site.call];
        let mut arrays = vec![];
        for arg in &call.args {
            arrays.push(match arg {
                Operand::Weight(name) => {
                    let tensor = self.checkpoint.tensor(name)?;
                    let dtype = self.program.weights[name].dtype;
                    Array::new(dtype, tensor.shape, tensor.bytes)
                }
                _ => Array::new(DType::F32, &[0], &[][..]),
            });
        }
        Ok(site.rows(self.program, &|i| arrays[i].clone(), rows)?)
    }

    /// Which one it is, for people: the tensor it is computed from.
    pub fn name(&self, site: usize) -> String {
        let names: Vec<&str> = self.sites[site].names.iter().map(|n| &**n).collect();
        names.join(" + ")
    }

    /// What every method offers for every site; the first offer of each leaves the weight as it is. Of a site without
    /// sensitivity there is no other.
    ///
    /// # Errors
    /// Weights or statistics that are no numbers; damaged statistics.
    pub fn offers(
        &self,
        calibration: &Calibration,
        progress: Progress<'_>,
    ) -> Result<Vec<Vec<Offer>>, Error> {
        let file = format!("offers-{}.json", vocabulary());
        let known: Option<Vec<Vec<Offer>>> = calibration.store.json(&file)?;
        if let Some(known) = known.filter(|k| k.len() == self.sites.len()) {
            return Ok(known);
        }
        let mut offers: BTreeMap<usize, Vec<Offer>> = BTreeMap::new();
        let calls =
            (0..self.program.calls.len()).filter(|c| self.sites.iter().any(|s| s.call == *c));
        for call in calls {
            let (opened, sites) = calibration.of_call(self.sites, call)?;
            let inputs = |i: usize| {
                let sample = Arc::new(opened.inputs(i)?);
                sample.prepare();
                Ok(Inputs {
                    all: &opened,
                    number: i,
                    sample,
                    whole: Mutex::default(),
                })
            };
            progress("alternatives", offers.len(), self.sites.len());
            let inputs = (0..sites.len()).into_par_iter().map(inputs);
            let inputs = inputs.collect::<Result<Vec<_>, Error>>()?;
            let of_inputs = inputs.par_iter().zip(sites);
            let found = of_inputs.flat_map(|(inputs, sites)| {
                sites.into_par_iter().with_max_len(1).map(move |s| {
                    let sensitivity = calibration.sensitivities[s];
                    Ok((s, self.of_site(s, inputs, sensitivity)?))
                })
            });
            offers.extend(found.collect::<Result<Vec<_>, Error>>()?);
        }
        let offers: Vec<Vec<Offer>> = offers.into_values().collect();
        calibration.store.write_json(&file, &offers)?;
        Ok(offers)
    }

    fn of_site(
        &self,
        s: usize,
        inputs: &Inputs,
        sensitivity: Option<Sensitivity>,
    ) -> Result<Vec<Offer>, Error> {
        let site = &self.sites[s];
        let of = |source| Error::Compress {
            weight: self.name(s),
            source,
        };
        let tall = self.rows(site, &Sample::rows(site.shape[0]))?;
        let sample = Arc::clone(&inputs.sample);
        let sample = Sample::new(site.shape, site.stored, sample, &tall).map_err(of)?;
        let mut offers = vec![Offer {
            alternative: Alternative {
                method: STORED.into(),
                form: Form::Stored,
                bytes: Form::Stored.bytes(site.shape, site.stored),
                error: 0.0,
            },
            kl: 0.0,
        }];
        let Some(sensitivity) = sensitivity else {
            return Ok(offers);
        };
        let probe = Form::grouped(PROBE.0, PROBE.1);
        let probed = sample.error(&Nearest, &probe).map_err(of)?;
        // A weight whose rounding changes nothing, such as a constant one, costs nothing.
        let per_error = if probed > 0.0 {
            sensitivity.kl / probed
        } else {
            0.0
        };
        let mut add = |sample: &Sample| {
            for method in METHODS {
                for alternative in method.alternatives(sample).map_err(of)? {
                    let kl = alternative.error * per_error;
                    if kl.is_finite() && alternative.form != Form::Stored {
                        offers.push(Offer { alternative, kl });
                    }
                }
            }
            Ok::<(), Error>(())
        };
        if !sample.wants_whole() {
            add(&sample)?;
            return Ok(offers);
        }
        let weight = self.matrix(site)?;
        let moments = inputs.whole()?;
        let problem = Problem::new(&weight, site.stored, &moments);
        problem.check().map_err(of)?;
        add(&sample.with(problem))?;
        Ok(offers)
    }

    /// The weight of a site as an offer says it.
    ///
    /// # Errors
    /// As [`Subject::offers`].
    pub fn encode(
        &self,
        s: usize,
        moments: &Moments,
        offer: &Alternative,
    ) -> Result<Encoded, Error> {
        if offer.form == Form::Stored {
            return Ok(Encoded::Stored);
        }
        let site = &self.sites[s];
        let weight = self.matrix(site)?;
        let problem = Problem::new(&weight, site.stored, moments);
        let of = |source| Error::Compress {
            weight: self.name(s),
            source,
        };
        problem.check().map_err(of)?;
        let method = compress::method(&offer.method).ok_or_else(|| Error::Method {
            method: offer.method.clone(),
        })?;
        method.encode(&problem, &offer.form).map_err(of)
    }
}

/// What the weights that multiply the same inputs share.
struct Inputs<'a> {
    all: &'a Opened,
    /// Of the moments.
    number: usize,
    sample: Arc<compress::Inputs>,
    /// See [`Inputs::whole`].
    whole: Mutex<Option<Arc<Moments>>>,
}

impl Inputs<'_> {
    /// The moments of all, read once.
    fn whole(&self) -> Result<Arc<Moments>, Error> {
        if let Some(moments) = self.sample.whole() {
            return Ok(Arc::clone(moments));
        }
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let moments = match whole.take() {
            Some(moments) => moments,
            None => Arc::new(self.all.moments(self.number)?),
        };
        *whole = Some(Arc::clone(&moments));
        Ok(moments)
    }
}
