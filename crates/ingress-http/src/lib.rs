//! The HTTP front door of the cluster.
