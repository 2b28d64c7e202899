//! Kafka ingress: records of subscribed topics become invocations, exactly once.
