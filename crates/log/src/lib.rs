//! The replicated log: chain, takeover, sequencer, reader.
