//! Stores segment replicas and fences stale epochs.
