//! What the documentation tells people to type, as something that can be run.
//!
//! A [`Page`] is a Markdown file; its fenced `console` blocks hold commands, each with what it prints. A [`Session`] runs
//! them one after the other, in a folder that looks like the repository and holds a cluster of its own.

mod output;
mod page;
mod session;

pub use output::differs;
pub use page::{Block, Command, Page};
pub use session::Session;
