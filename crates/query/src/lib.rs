//! SQL over what the cluster knows: tables over the partitions, the registry and the cluster itself.
