//! Runs partitions: leader and follower loops, timers, outbox, routing.
