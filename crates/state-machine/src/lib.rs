//! Decides what each committed command does to invocations, journals, state and timers.
