//! satura: an optimizing compiler for transformer inference. This crate is the house's front door: it re-exports the
//! [`compiler`], the [`runtime`] and the [`ir`] they share, and [`open`] leads from a model on disk to one that runs.
//! Knows neither how a model is compiled nor how it is run.
//!
//! ```no_run
//! let source = satura::Source::Directory("models/my-llama".into());
//! let opened = satura::open(&source, &satura::Opening::default())?;
//! println!("{} parameters", opened.model.description().parameters);
//! # Ok::<(), satura::Error>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

pub use compiler;
pub use ir;
pub use runtime;

pub mod budget;
mod cache;
pub mod calibrate;
pub mod chat;
mod cubins;
mod embedded;
mod entities;
pub mod hub;
mod ledger;
pub mod measure;
pub mod nvrtc;
mod open;
mod picture;
mod shelf;
mod staged;
pub mod tune;

pub use cache::{Cache, Key};
pub use embedded::embedded;
pub use entities::{Entity, entities, probabilities};
pub use hub::{Hub, Outline};
pub use open::{Error, Opened, Opening, Output, Source, open, tokenizer};
pub use picture::{PictureError, picture};

/// The README's examples, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
