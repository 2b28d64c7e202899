//! What a cluster is started with.

use std::fmt;

use abide_test_cluster::Options;

/// One way to run the engine. Services must not be able to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// One node, as it comes.
    Default,
    /// Three nodes, two copies of everything.
    ThreeNodes,
    /// Whoever waits is suspended at once, so that every step is replayed.
    AlwaysSuspending,
    /// Both.
    ThreeNodesAlwaysSuspending,
    /// One partition on one thread: everything queues behind everything.
    SinglePartition,
    /// State is read key by key.
    LazyState,
    /// State is read key by key, and every read suspends.
    LazyStateAlwaysSuspending,
    /// All timers but one wait on disk.
    TinyTimers,
}

impl Setting {
    /// All of them.
    pub const ALL: [Setting; 8] = [
        Setting::Default,
        Setting::ThreeNodes,
        Setting::AlwaysSuspending,
        Setting::ThreeNodesAlwaysSuspending,
        Setting::SinglePartition,
        Setting::LazyState,
        Setting::LazyStateAlwaysSuspending,
        Setting::TinyTimers,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Setting::Default => "default",
            Setting::ThreeNodes => "three-nodes",
            Setting::AlwaysSuspending => "always-suspending",
            Setting::ThreeNodesAlwaysSuspending => "three-nodes-always-suspending",
            Setting::SinglePartition => "single-partition",
            Setting::LazyState => "lazy-state",
            Setting::LazyStateAlwaysSuspending => "lazy-state-always-suspending",
            Setting::TinyTimers => "tiny-timers",
        }
    }

    /// The setting with this name.
    pub fn named(name: &str) -> Option<Setting> {
        Setting::ALL
            .into_iter()
            .find(|setting| setting.name() == name)
    }

    /// How many nodes it has.
    pub fn nodes(self) -> usize {
        match self {
            Setting::ThreeNodes | Setting::ThreeNodesAlwaysSuspending => 3,
            _ => 1,
        }
    }

    /// Whether waiting handlers are suspended at once.
    pub fn always_suspends(self) -> bool {
        matches!(
            self,
            Setting::AlwaysSuspending
                | Setting::ThreeNodesAlwaysSuspending
                | Setting::LazyStateAlwaysSuspending
        )
    }

    /// Whether state is never sent along.
    pub fn is_lazy(self) -> bool {
        matches!(
            self,
            Setting::LazyState | Setting::LazyStateAlwaysSuspending
        )
    }

    pub(crate) fn options(self) -> Options {
        // Short pauses: what is retried here fails on purpose.
        let mut config = String::from(
            "default-retry-policy.initial-interval = \"50ms\"\n\
             default-retry-policy.max-interval = \"1s\"\n\
             worker.cleanup-interval = \"1s\"\n",
        );
        let partitions = match self {
            Setting::SinglePartition => 1,
            _ => 4,
        };
        config += &format!("default-num-partitions = {partitions}\n");
        if self == Setting::SinglePartition {
            config += "default-thread-pool-size = 1\n";
        }
        if self.always_suspends() {
            config += "worker.invoker.inactivity-timeout = \"0s\"\n";
        }
        if self.is_lazy() {
            config += "worker.invoker.disable-eager-state = true\n";
        }
        if self == Setting::TinyTimers {
            config += "worker.num-timers-in-memory-limit = 1\n";
        }
        Options {
            config,
            ..Options::default()
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
