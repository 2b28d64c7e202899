//! Starts real clusters of real processes for tests.
