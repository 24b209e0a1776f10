//! A plan for a model under a budget: each weight gets the form that makes the whole fastest (or most exact) while what the
//! user asked for holds, *measured*, on text that no statistics have seen. What decides is
//! [`knapsack`](compiler::plan::knapsack); here is what runs and measures.

pub mod certificate;
mod costs;
mod draw;
mod error;
mod groups;
mod labels;
mod latency;
mod offers;
mod page;
mod plot;
mod quality;
mod search;
mod step;
mod survey;
mod target;
mod trial;
mod workshop;

pub use certificate::{Certificate, Row};
pub use costs::Costs;
pub use error::Error;
pub use groups::Group;
pub use latency::Latency;
pub use offers::{Offer, STORED, Subject};
pub use page::page;
pub use quality::{Estimate, Quality, SEED, compare};
pub use search::{Found, search};
pub use step::Pace;
pub use survey::{Kind, Point, Survey};
pub use target::{Budget, NoBudget};
pub use trial::Trial;
pub use workshop::{Build, Plan, Workshop};
