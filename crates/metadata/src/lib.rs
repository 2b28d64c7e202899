//! The strongly consistent metadata plane: server on openraft, client with a watched cache.
