//! Liveness in, placement and leadership out.
