//! What one call asks for.

use clap::ValueEnum;
use rand::Rng;

/// Keys over which [`Workload::Counter`] is spread.
const KEYS: u32 = 1000;

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// A handler that answers at once.
    Echo,
    /// A handler of three journaled steps.
    Steps,
    /// An addition to one of a thousand counters.
    Counter,
    /// An addition to one counter, always the same.
    Hot,
    /// A handler that calls ten others.
    Fanout,
    /// A handler that sleeps.
    Sleep,
}

impl Workload {
    /// Path and body of one call.
    pub fn request(self, random: &mut impl Rng, sleep_ms: u64) -> (String, String) {
        let number = random.random_range(0..1_000_000u32).to_string();
        match self {
            Workload::Echo => ("/Bench/echo".to_owned(), number),
            Workload::Steps => ("/Bench/steps".to_owned(), number),
            Workload::Counter => (counter(random.random_range(0..KEYS)), "1".to_owned()),
            Workload::Hot => ("/BenchCounter/hot/add".to_owned(), "1".to_owned()),
            Workload::Fanout => ("/Bench/fanout".to_owned(), number),
            Workload::Sleep => ("/Bench/sleep".to_owned(), sleep_ms.to_string()),
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn counter(key: u32) -> String {
    format!("/BenchCounter/key-{key}/add")
}
