//! Traces of invocations, as spans exported over OTLP.
