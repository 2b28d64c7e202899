//! Does a handler written with any official SDK behave as its users expect, in every setting?
//!
//! The services of `services/CONTRACT.md` exist once per language: with the published SDKs for
//! TypeScript, Python, Rust, Java and Go, as processes of their own ([`Endpoint`]). The [`cases`] are
//! written once, against the ingress and the admin API. A [`World`] is one language in one
//! [`Setting`]; [`run`] starts it, runs every case that applies and says how each went.
//!
//! `cargo test` runs a subset (`tests/subset.rs`); `scripts/conformance` runs the whole matrix.

pub mod cases;
mod endpoint;
mod report;
mod run;
mod setting;
mod world;

pub use endpoint::{Endpoint, Language, Variant};
pub use report::{Outcome, Report, Row};
pub use run::{Selection, run};
pub use setting::Setting;
pub use world::{Target, World};
