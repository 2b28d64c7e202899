//! Which nodes are there: a function of what the connections say and of the time, which comes in from outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use abide_types::{Generation, NodeId};

use crate::cluster::Health;

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct LivenessOptions {
    /// Silence after which a node whose connection stands is dead. Shorter finds stalled nodes sooner and takes
    /// more slow ones for dead.
    pub failure_timeout: Duration,
    /// How long a node has to be there before it is given more than it needs.
    pub stable_after: Duration,
    /// How long after this process came up a node that it never met counts as still starting.
    pub boot_grace: Duration,
    /// How long a dead node's replicas wait for its return.
    pub replace_after: Duration,
}

/// What the connections say of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// The start of the node that this is about.
    pub generation: Generation,
    /// Whether a connection stands.
    pub connected: bool,
    /// Whether its port refuses connections: the process is gone.
    pub refused: bool,
    /// When anything was last heard of it.
    pub last_heard: Option<Instant>,
}

/// Remembers since when nodes have been as they are.
#[derive(Debug)]
pub struct Detector {
    options: LivenessOptions,
    born: Instant,
    /// Silence before this says nothing of the peers: this process itself did not run.
    listening_since: Instant,
    due: Option<Instant>,
    nodes: BTreeMap<NodeId, Track>,
}

#[derive(Debug, Clone, Copy)]
struct Track {
    generation: Generation,
    met: bool,
    answers_since: Option<Instant>,
    dead_since: Option<Instant>,
}

/// Lateness of a timer that shows that the process stood still.
const STALL: Duration = Duration::from_millis(300);

impl Detector {
    /// A detector that knows nobody yet.
    pub fn new(options: LivenessOptions, now: Instant) -> Self {
        Self {
            options,
            born: now,
            listening_since: now,
            due: None,
            nodes: BTreeMap::new(),
        }
    }

    /// The health of every node in `contacts`, and when to look again if nothing happens before.
    pub fn assess(
        &mut self,
        now: Instant,
        contacts: &BTreeMap<NodeId, Contact>,
    ) -> (BTreeMap<NodeId, Health>, Option<Instant>) {
        if self.due.is_some_and(|due| now > due + STALL) {
            self.listening_since = now;
        }
        self.nodes.retain(|node, _| contacts.contains_key(node));
        let mut next: Option<Instant> = None;
        let mut health = BTreeMap::new();
        for (node, contact) in contacts {
            let (state, again) = self.assess_one(now, *node, contact);
            health.insert(*node, state);
            next = [next, again].into_iter().flatten().min();
        }
        self.due = next;
        (health, next)
    }

    fn assess_one(
        &mut self,
        now: Instant,
        node: NodeId,
        contact: &Contact,
    ) -> (Health, Option<Instant>) {
        let options = self.options;
        let fresh = Track {
            generation: contact.generation,
            met: false,
            answers_since: None,
            dead_since: None,
        };
        let known = self.nodes.get(&node).copied();
        let mut track = known
            .filter(|track| track.generation == contact.generation)
            .unwrap_or(Track {
                dead_since: known.and_then(|track| track.dead_since),
                ..fresh
            });
        let heard = contact.last_heard.map_or(self.listening_since, |heard| {
            heard.max(self.listening_since)
        });
        let silent_at = heard + options.failure_timeout;
        let verdict = if contact.connected && now < silent_at {
            track.met = true;
            track.dead_since = None;
            let since = *track.answers_since.get_or_insert(now);
            let stable_at = since + options.stable_after;
            if stable_at <= now {
                (Health::Stable, Some(silent_at))
            } else {
                (Health::Alive, Some(silent_at.min(stable_at)))
            }
        } else {
            track.answers_since = None;
            let gone_at = if contact.refused && !contact.connected {
                if track.met {
                    now
                } else {
                    self.born + options.boot_grace
                }
            } else {
                silent_at
            };
            if now < gone_at {
                (Health::Suspect, Some(gone_at))
            } else {
                let since = *track.dead_since.get_or_insert(now);
                let lost_at = since + options.replace_after;
                // Nothing tells when a stalled node speaks again.
                let again = contact.connected.then(|| now + options.failure_timeout / 2);
                if lost_at <= now {
                    (Health::Lost, again)
                } else {
                    (
                        Health::Dead,
                        Some(again.map_or(lost_at, |again| again.min(lost_at))),
                    )
                }
            }
        };
        self.nodes.insert(node, track);
        verdict
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const OPTIONS: LivenessOptions = LivenessOptions {
        failure_timeout: Duration::from_millis(1000),
        stable_after: Duration::from_millis(5000),
        boot_grace: Duration::from_millis(500),
        replace_after: Duration::from_millis(60_000),
    };

    /// One peer and a clock in milliseconds.
    struct Scene {
        start: Instant,
        detector: Detector,
        contact: Contact,
    }

    impl Scene {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                start,
                detector: Detector::new(OPTIONS, start),
                contact: Contact {
                    generation: Generation(1),
                    connected: false,
                    refused: false,
                    last_heard: None,
                },
            }
        }

        fn hears(&mut self, at: u64) {
            self.contact.connected = true;
            self.contact.refused = false;
            self.contact.last_heard = Some(self.start + Duration::from_millis(at));
        }

        /// Health at `at`, looking as often as the detector asks.
        fn health(&mut self, at: u64) -> Health {
            let contacts = BTreeMap::from([(NodeId(2), self.contact)]);
            let end = self.start + Duration::from_millis(at);
            while let Some(due) = self.detector.due.filter(|due| *due < end) {
                self.detector.assess(due, &contacts);
            }
            self.detector.assess(end, &contacts).0[&NodeId(2)]
        }
    }

    #[test]
    fn a_node_that_is_heard_of_becomes_stable() {
        let mut scene = Scene::new();
        assert_eq!(scene.health(0), Health::Suspect);
        scene.hears(10);
        assert_eq!(scene.health(20), Health::Alive);
        scene.hears(5000);
        assert_eq!(scene.health(5010), Health::Alive);
        assert_eq!(scene.health(5020), Health::Stable);
    }

    #[test]
    fn a_refusal_is_death_at_once_and_a_cut_only_suspicion() {
        let mut scene = Scene::new();
        scene.hears(10);
        scene.health(10);
        scene.contact.connected = false;
        assert_eq!(scene.health(20), Health::Suspect);
        scene.contact.refused = true;
        assert_eq!(scene.health(21), Health::Dead);
    }

    #[test]
    fn silence_is_death_after_the_timeout_and_speech_life_again() {
        let mut scene = Scene::new();
        scene.hears(10);
        assert_eq!(scene.health(1009), Health::Alive);
        assert_eq!(scene.health(1010), Health::Dead);
        scene.hears(2000);
        assert_eq!(scene.health(2001), Health::Alive);
    }

    #[test]
    fn one_never_met_is_given_time_to_start() {
        let mut scene = Scene::new();
        scene.contact.refused = true;
        assert_eq!(scene.health(499), Health::Suspect);
        assert_eq!(scene.health(500), Health::Dead);
    }

    #[test]
    fn the_dead_are_lost_in_the_end_whatever_generations_they_tried() {
        let mut scene = Scene::new();
        scene.contact.refused = true;
        assert_eq!(scene.health(500), Health::Dead);
        scene.contact.generation = Generation(2);
        assert_eq!(scene.health(60_499), Health::Dead);
        assert_eq!(scene.health(60_500), Health::Lost);
    }

    #[test]
    fn a_process_that_stood_still_blames_nobody() {
        let mut scene = Scene::new();
        scene.hears(10);
        scene.health(10);
        let contacts = BTreeMap::from([(NodeId(2), scene.contact)]);
        let late = scene.start + Duration::from_secs(20);
        assert_eq!(
            scene.detector.assess(late, &contacts).0[&NodeId(2)],
            Health::Stable
        );
        let later = late + OPTIONS.failure_timeout;
        assert_eq!(
            scene.detector.assess(later, &contacts).0[&NodeId(2)],
            Health::Dead
        );
    }
}
