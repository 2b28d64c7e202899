//! Random programs on this engine, on another one, and on a model.
//!
//! [`generate`] makes a [`program`] of a seed; [`interpreter`] is an endpoint on the published SDK
//! that executes it; [`world`] runs it on a server and collects what came of it; [`model`] says what
//! should. `scripts/differential` compares two servers and keeps what differs, after [`minimise`] has
//! made it small, in `programs/`. `scripts/kill-drill` runs programs while nodes are killed.

pub mod drill;
pub mod generate;
pub mod interpreter;
pub mod journal;
pub mod ledger;
pub mod minimise;
pub mod model;
pub mod peer;
pub mod program;
pub mod world;
