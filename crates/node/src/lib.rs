//! Puts the roles of one node together.
