//! Drives one attempt of an invocation against its deployment.
