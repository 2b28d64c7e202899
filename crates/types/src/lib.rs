//! Ids, keys, positions and epochs: the words that every crate shares; no I/O.
