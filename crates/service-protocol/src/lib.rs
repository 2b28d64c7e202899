//! The wire protocol between the engine and SDK endpoints, without I/O.
