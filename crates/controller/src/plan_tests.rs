//! Scenes with their plans, and properties over random histories of a cluster.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use abide_types::{Generation, NodeId, NodeIncarnation};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::cluster::{Budget, Health, Member, Rule};

/// A cluster whose table follows its plans, told what happens to its nodes.
#[derive(Debug, Default)]
struct Scene {
    cluster: Cluster,
}

fn id(node: u32) -> NodeId {
    NodeId(node)
}

impl Scene {
    fn new(partitions: u16, nodes: u32) -> Self {
        let mut scene = Self::default();
        scene.cluster.partitions = partitions;
        for node in 1..=nodes {
            scene.start(node);
            scene.settled(node);
        }
        scene
    }

    fn member(&mut self, node: u32) -> &mut Member {
        self.cluster.nodes.entry(id(node)).or_insert(Member {
            generation: Generation(0),
            location: String::new(),
            eligible: true,
            leaving: false,
            health: Health::Dead,
        })
    }

    fn start(&mut self, node: u32) {
        let member = self.member(node);
        member.generation.0 += 1;
        member.leaving = false;
        member.health = Health::Alive;
    }

    fn settled(&mut self, node: u32) {
        self.member(node).health = Health::Stable;
    }

    fn health(&mut self, node: u32, health: Health) {
        self.member(node).health = health;
    }

    /// Every replica in reach says how it fares.
    fn hear(&mut self) {
        let cluster = &mut self.cluster;
        cluster.caught_up.clear();
        for (partition, placement) in &cluster.table {
            for node in &placement.replicas {
                let place = (*partition, *node);
                let alive = (cluster.nodes.get(node)).is_some_and(|node| node.health.answers());
                if alive && !cluster.behind.contains(&place) {
                    cluster.caught_up.insert(place);
                }
            }
        }
    }

    /// Applies one plan and says what it did.
    fn step(&mut self) -> String {
        self.hear();
        let mut text = String::new();
        for (partition, placement) in plan(&self.cluster) {
            let replicas: Vec<String> = placement.replicas.iter().map(NodeId::to_string).collect();
            let leader = placement
                .leader
                .map_or("-".to_owned(), |leader| leader.to_string());
            let next: Vec<String> = placement.next.iter().map(NodeId::to_string).collect();
            let next = match next.as_slice() {
                [] => String::new(),
                next => format!(", then {}", next.join(" ")),
            };
            let _ = writeln!(
                text,
                "{partition} {} {leader} of {}{next}",
                placement.epoch,
                replicas.join(" ")
            );
            self.cluster.table.insert(partition, placement);
        }
        text
    }

    fn check(&mut self, expected: Expect) {
        expected.assert_eq(&self.step());
    }

    fn rule(&mut self, partition: u16) -> &mut Rule {
        self.cluster
            .rules
            .entry(PartitionId(partition))
            .or_default()
    }

    fn behind(&mut self, partition: u16, node: u32) {
        let place = (PartitionId(partition), id(node));
        self.cluster.behind.insert(place);
    }

    /// Nodes in these places, all of them stable.
    fn located(partitions: u16, locations: &[&str]) -> Self {
        let mut scene = Self::default();
        scene.cluster.partitions = partitions;
        for (node, location) in (1..).zip(locations) {
            scene.start(node);
            scene.settled(node);
            scene.member(node).location = (*location).to_owned();
        }
        scene
    }

    fn led(&self) -> BTreeMap<NodeId, usize> {
        let mut led: BTreeMap<NodeId, usize> =
            self.cluster.nodes.keys().map(|node| (*node, 0)).collect();
        for placement in self.cluster.table.values() {
            if let Some(leader) = placement.leader {
                *led.entry(leader.node).or_default() += 1;
            }
        }
        led
    }
}

#[test]
fn three_nodes_share_the_leaders_of_a_new_cluster() {
    let mut scene = Scene::new(4, 3);
    scene.check(expect![[r#"
        0 e1 N1:1 of N1 N2 N3
        1 e1 N2:1 of N1 N2 N3
        2 e1 N3:1 of N1 N2 N3
        3 e1 N1:1 of N1 N2 N3
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn a_dead_leader_is_replaced_at_once_and_keeps_its_replica() {
    let mut scene = Scene::new(4, 3);
    scene.step();
    scene.health(1, Health::Dead);
    scene.check(expect![[r#"
        0 e2 N2:1 of N1 N2 N3
        3 e2 N3:1 of N1 N2 N3
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn a_returning_node_gets_leaders_only_within_the_budget_and_when_it_is_stable() {
    let mut scene = Scene::new(6, 3);
    scene.step();
    scene.health(1, Health::Dead);
    scene.step();
    scene.start(1);
    scene.cluster.budget.leaders = 1;
    scene.check(expect![""]);
    scene.settled(1);
    scene.check(expect![[r#"
        2 e2 N1:2 of N1 N2 N3
    "#]]);
    scene.check(expect![[r#"
        0 e3 N1:2 of N1 N2 N3
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn a_leader_of_an_earlier_start_is_replaced_by_a_warm_one() {
    let mut scene = Scene::new(3, 3);
    scene.step();
    scene.start(2);
    scene.cluster.behind.insert((PartitionId(1), id(1)));
    scene.check(expect![[r#"
        1 e2 N2:2 of N1 N2 N3
    "#]]);
}

#[test]
fn a_node_that_leaves_hands_over_unless_it_is_alone() {
    let mut scene = Scene::new(2, 2);
    scene.step();
    scene.member(1).leaving = true;
    scene.check(expect![[r#"
        0 e2 N2:1 of N1 N2
    "#]]);
    scene.member(2).leaving = true;
    scene.check(expect![""]);
}

#[test]
fn a_suspect_keeps_what_it_has_and_gets_nothing() {
    let mut scene = Scene::new(2, 2);
    scene.step();
    scene.health(1, Health::Suspect);
    scene.check(expect![""]);
    scene.health(2, Health::Dead);
    scene.check(expect![""]);
}

#[test]
fn nobody_is_elected_where_nobody_lives() {
    let mut scene = Scene::new(1, 1);
    scene.step();
    scene.health(1, Health::Dead);
    scene.check(expect![""]);
    scene.start(1);
    scene.check(expect![[r#"
        0 e2 N1:2 of N1
    "#]]);
}

#[test]
fn a_lost_node_is_replaced_and_a_drained_one_emptied() {
    let mut scene = Scene::new(2, 4);
    scene.step();
    scene.health(1, Health::Dead);
    scene.step();
    scene.health(1, Health::Lost);
    scene.check(expect![[r#"
        0 e3 N3:1 of N2 N3 N4
        1 e2 N2:1 of N2 N3 N4
    "#]]);
    scene.start(1);
    scene.settled(1);
    scene.member(4).eligible = false;
    scene.check(expect![[r#"
        0 e4 N3:1 of N1 N2 N3 N4, then N1 N2 N3
        1 e3 N2:1 of N1 N2 N3 N4, then N1 N2 N3
    "#]]);
}

#[test]
fn replicas_are_spread_over_zones_then_regions() {
    let mut scene = Scene::located(1, &["eu.a", "eu.a", "eu.b", "us.a"]);
    scene.check(expect![[r#"
        0 e1 N1:1 of N1 N3 N4
    "#]]);
}

#[test]
fn a_node_that_joins_gets_replicas_and_leaders_without_a_command() {
    let mut scene = Scene::new(4, 3);
    scene.step();
    scene.start(4);
    scene.settled(4);
    scene.cluster.budget = Budget::UNLIMITED;
    scene.check(expect![[r#"
        0 e2 N1:1 of N1 N2 N3 N4, then N1 N2 N4
        1 e2 N2:1 of N1 N2 N3 N4, then N2 N3 N4
        2 e2 N3:1 of N1 N2 N3 N4, then N1 N3 N4
    "#]]);
    scene.check(expect![[r#"
        0 e3 N4:1 of N1 N2 N4
        1 e3 N2:1 of N2 N3 N4
        2 e3 N3:1 of N1 N3 N4
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn a_cluster_grows_from_one_node() {
    let mut scene = Scene::new(2, 1);
    scene.check(expect![[r#"
        0 e1 N1:1 of N1
        1 e1 N1:1 of N1
    "#]]);
    scene.start(2);
    scene.start(3);
    scene.check(expect![[r#"
        0 e2 N1:1 of N1 N2 N3
        1 e2 N1:1 of N1 N2 N3
    "#]]);
}

#[test]
fn a_replica_goes_only_when_those_that_stay_have_caught_up() {
    let mut scene = Scene::new(1, 3);
    scene.cluster.replicas = Some(1);
    scene.check(expect![[r#"
        0 e1 N1:1 of N1
    "#]]);
    scene.member(1).eligible = false;
    scene.behind(0, 2);
    scene.check(expect![[r#"
        0 e2 N1:1 of N1 N2, then N2
    "#]]);
    // It lags: the drained leader goes on.
    scene.check(expect![""]);
    scene.cluster.behind.clear();
    scene.check(expect![[r#"
        0 e3 N2:1 of N2
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn of_a_cluster_that_grows_every_copy_is_there_before_one_goes() {
    let mut scene = Scene::new(1, 5);
    scene.step();
    scene.cluster.replicas = Some(5);
    scene.cluster.write_quorum = Some(3);
    scene.check(expect![[r#"
        0 e2 N1:1 of N1 N2 N3 N4 N5
    "#]]);
    scene.cluster.replicas = Some(3);
    scene.cluster.write_quorum = Some(2);
    scene.check(expect![[r#"
        0 e3 N1:1 of N1 N2 N3
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn another_write_quorum_takes_an_epoch_and_nothing_else() {
    let mut scene = Scene::new(1, 3);
    scene.step();
    scene.cluster.write_quorum = Some(3);
    scene.check(expect![[r#"
        0 e2 N1:1 of N1 N2 N3
    "#]]);
    assert_eq!(scene.cluster.table[&PartitionId(0)].write_quorum, 3);
    scene.check(expect![""]);
}

#[test]
fn five_nodes_become_three() {
    let mut scene = Scene::new(3, 5);
    scene.step();
    scene.member(4).eligible = false;
    scene.member(5).eligible = false;
    scene.check(expect![[r#"
        1 e2 N1:1 of N1 N2 N3 N4 N5, then N1 N2 N3
        2 e2 N2:1 of N1 N2 N3 N4, then N1 N2 N3
    "#]]);
    scene.check(expect![[r#"
        1 e3 N1:1 of N1 N2 N3
        2 e3 N2:1 of N1 N2 N3
    "#]]);
    scene.check(expect![""]);
    let left = |node: u32| {
        let table = &scene.cluster.table;
        table
            .values()
            .any(|placement| placement.replicas.contains(&id(node)))
    };
    assert!(!left(4) && !left(5));
}

#[test]
fn a_pinned_leader_comes_back_and_balance_leaves_it_alone() {
    let mut scene = Scene::new(3, 3);
    scene.step();
    scene.cluster.budget = Budget::UNLIMITED;
    for partition in 0..3 {
        scene.rule(partition).pinned = Some(id(3));
    }
    scene.check(expect![[r#"
        0 e2 N3:1 of N1 N2 N3
        1 e2 N3:1 of N1 N2 N3
    "#]]);
    scene.health(3, Health::Dead);
    scene.check(expect![[r#"
        0 e3 N1:1 of N1 N2 N3
        1 e3 N2:1 of N1 N2 N3
        2 e2 N1:1 of N1 N2 N3
    "#]]);
    scene.start(3);
    // It is not given anything before it is stable, nor what it has not caught up with.
    scene.check(expect![""]);
    scene.settled(3);
    scene.behind(1, 3);
    scene.check(expect![[r#"
        0 e4 N3:2 of N1 N2 N3
        2 e3 N3:2 of N1 N2 N3
    "#]]);
    scene.cluster.behind.clear();
    scene.check(expect![[r#"
        1 e4 N3:2 of N1 N2 N3
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn a_frozen_leader_moves_only_when_it_has_to() {
    let mut scene = Scene::new(4, 2);
    scene.cluster.replicas = Some(2);
    scene.step();
    for partition in 0..4 {
        scene.rule(partition).leadership_frozen = true;
    }
    scene.health(1, Health::Dead);
    scene.check(expect![[r#"
        0 e2 N2:1 of N1 N2
        2 e2 N2:1 of N1 N2
    "#]]);
    scene.start(1);
    scene.settled(1);
    scene.cluster.budget = Budget::UNLIMITED;
    scene.check(expect![""]);
    scene.rule(0).leadership_frozen = false;
    scene.check(expect![[r#"
        0 e3 N1:2 of N1 N2
    "#]]);
}

#[test]
fn a_frozen_placement_stays_whatever_becomes_of_its_nodes() {
    let mut scene = Scene::new(2, 4);
    scene.step();
    scene.rule(0).placement_frozen = true;
    scene.health(1, Health::Lost);
    scene.check(expect![[r#"
        0 e2 N3:1 of N1 N2 N3
        1 e2 N2:1 of N2 N3 N4
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn replicas_move_until_they_are_in_as_many_zones_as_demanded() {
    let mut scene = Scene::located(2, &["eu.a", "eu.a", "eu.a"]);
    scene.cluster.spread.zones = 2;
    scene.check(expect![[r#"
        0 e1 N1:1 of N1 N2 N3
        1 e1 N2:1 of N1 N2 N3
    "#]]);
    // There is no other zone: it stays as it is.
    scene.check(expect![""]);
    scene.start(4);
    scene.settled(4);
    scene.member(4).location = "eu.b".to_owned();
    scene.check(expect![[r#"
        0 e2 N1:1 of N1 N2 N3 N4, then N1 N2 N4
        1 e2 N2:1 of N1 N2 N3 N4, then N1 N2 N4
    "#]]);
    scene.check(expect![[r#"
        0 e3 N1:1 of N1 N2 N4
        1 e3 N2:1 of N1 N2 N4
    "#]]);
    scene.check(expect![""]);
}

#[test]
fn regions_come_before_zones() {
    let mut scene = Scene::located(1, &["eu.a", "eu.b", "eu.c", "us.a"]);
    scene.cluster.replicas = Some(3);
    scene.step();
    scene.health(4, Health::Lost);
    scene.step();
    scene.start(4);
    scene.settled(4);
    scene.check(expect![""]);
    scene.cluster.spread.regions = 2;
    scene.check(expect![[r#"
        0 e3 N1:1 of N1 N2 N3 N4, then N1 N2 N4
    "#]]);
    scene.check(expect![[r#"
        0 e4 N1:1 of N1 N2 N4
    "#]]);
}

#[test]
fn few_partitions_exchange_replicas_at_a_time() {
    let mut scene = Scene::new(20, 4);
    scene.cluster.replicas = Some(1);
    scene.step();
    for node in 1..4 {
        scene.member(node).eligible = false;
    }
    let moving = scene.step().lines().count();
    assert_eq!(moving, 8);
    scene.step();
    let moving: Vec<usize> = (0..4).map(|_| scene.step().lines().count()).collect();
    assert!(moving.iter().all(|moving| *moving <= 8), "{moving:?}");
}

/// What may happen to a cluster.
#[derive(Debug, Clone)]
enum Event {
    Start(u32),
    Stable(u32),
    Die(u32),
    Lose(u32),
    Suspect(u32),
    Leave(u32),
    Drain(u32),
    Behind(u16, u32),
    CaughtUp,
    Budget(usize, usize),
    Replicas(usize),
    Quorum(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let node = 1u32..7;
    prop_oneof![
        4 => node.clone().prop_map(Event::Start),
        4 => node.clone().prop_map(Event::Stable),
        3 => node.clone().prop_map(Event::Die),
        1 => node.clone().prop_map(Event::Lose),
        2 => node.clone().prop_map(Event::Suspect),
        2 => node.clone().prop_map(Event::Leave),
        1 => node.clone().prop_map(Event::Drain),
        2 => (0u16..8, node).prop_map(|(partition, node)| Event::Behind(partition, node)),
        2 => Just(Event::CaughtUp),
        2 => (0usize..4, 0usize..3).prop_map(|(leaders, replicas)| Event::Budget(leaders, replicas)),
        1 => (1usize..5).prop_map(Event::Replicas),
        1 => (1usize..4).prop_map(Event::Quorum),
    ]
}

impl Scene {
    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Start(node) => self.start(node),
            Event::Stable(node) => self.member(node).health = Health::Stable,
            Event::Die(node) => self.member(node).health = Health::Dead,
            Event::Lose(node) => self.member(node).health = Health::Lost,
            Event::Suspect(node) => self.member(node).health = Health::Suspect,
            Event::Leave(node) => self.member(node).leaving = true,
            Event::Drain(node) => self.member(node).eligible = false,
            Event::Behind(partition, node) => {
                self.cluster
                    .behind
                    .insert((PartitionId(partition), id(node)));
            }
            Event::CaughtUp => self.cluster.behind.clear(),
            Event::Budget(leaders, replicas) => self.cluster.budget = Budget { leaders, replicas },
            Event::Replicas(replicas) => self.cluster.replicas = Some(replicas),
            Event::Quorum(quorum) => self.cluster.write_quorum = Some(quorum),
        }
    }

    /// One plan, held against the rules.
    fn checked_step(&mut self) -> Result<bool, TestCaseError> {
        self.hear();
        let changes = plan(&self.cluster);
        prop_assert_eq!(
            &changes,
            &plan(&self.cluster),
            "equal states have equal plans"
        );
        for (partition, placement) in &changes {
            let before = self
                .cluster
                .table
                .get(partition)
                .cloned()
                .unwrap_or_default();
            prop_assert_eq!(
                placement.epoch,
                before.epoch.next(),
                "an epoch is granted once"
            );
            let distinct: BTreeSet<_> = placement.replicas.iter().collect();
            prop_assert_eq!(distinct.len(), placement.replicas.len());
            let new: Vec<_> = placement
                .replicas
                .iter()
                .filter(|node| !before.replicas.contains(node))
                .collect();
            prop_assert!(new.iter().all(|node| self.cluster.takes_replicas(**node)));
            self.check_exchange(*partition, &before, placement)?;
            let leader = placement.leader.unwrap();
            prop_assert!(placement.replicas.contains(&leader.node));
            let member = &self.cluster.nodes[&leader.node];
            prop_assert_eq!(member.generation, leader.generation);
            prop_assert!(!member.health.is_dead());
            if self.cluster.budget == Budget::NONE {
                prop_assert!(
                    self.has_reason(&before),
                    "moved without reason: {:?}",
                    before
                );
            }
        }
        let changed = !changes.is_empty();
        self.cluster.table.extend(changes);
        Ok(changed)
    }

    /// No copy that can be reached is given up before enough others are there.
    fn check_exchange(
        &self,
        partition: PartitionId,
        before: &Placement,
        after: &Placement,
    ) -> Result<(), TestCaseError> {
        let settled = |node: &&NodeId| self.cluster.is_settled(partition, **node);
        let given_up = (before.replicas.iter())
            .filter(|node| !after.replicas.contains(node))
            .filter(settled)
            .count();
        let kept = after.replicas.iter().filter(settled).count();
        prop_assert!(
            given_up == 0 || after.write_quorum <= kept,
            "{partition}: {before:?} became {after:?}"
        );
        let goal = after.goal();
        prop_assert!(goal.iter().all(|node| after.replicas.contains(node)));
        Ok(())
    }

    /// Whether `placement` breaks a rule by itself.
    fn has_reason(&self, placement: &Placement) -> bool {
        let kept = placement
            .replicas
            .iter()
            .filter(|node| self.cluster.keeps_replicas(**node))
            .count();
        let led = placement
            .leader
            .is_some_and(|leader: NodeIncarnation| self.cluster.leads(leader));
        !led || kept != self.cluster.replicas_wanted()
            || kept != placement.replicas.len()
            || !placement.next.is_empty()
            || placement.write_quorum != self.cluster.quorum_of(kept)
    }

    /// Plans until nothing changes.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            if !self.checked_step()? {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("the plan never comes to rest"))
    }
}

proptest! {
    #[test]
    fn every_history_is_planned_by_the_rules(
        partitions in 1u16..9,
        history in proptest::collection::vec((event(), any::<bool>()), 1..40),
    ) {
        let mut scene = Scene { cluster: Cluster { partitions, ..Cluster::default() } };
        for (event, plans) in &history {
            scene.happen(event);
            if *plans {
                scene.checked_step()?;
            }
        }
        scene.settle()?;
        for placement in scene.cluster.table.values() {
            let served = placement.replicas.iter().any(|node| {
                scene.cluster.nodes.get(node).is_some_and(|member| member.health.answers())
            });
            let leader = placement.leader.unwrap();
            let member = &scene.cluster.nodes[&leader.node];
            let orphaned = member.generation != leader.generation || member.health.is_dead();
            prop_assert!(!(served && orphaned), "an orphan with a living replica");
        }
    }

    #[test]
    fn a_healed_cluster_comes_to_balance(
        partitions in 1u16..30,
        nodes in 1u32..7,
        history in proptest::collection::vec((event(), any::<bool>()), 0..30),
    ) {
        let mut scene = Scene { cluster: Cluster { partitions, ..Cluster::default() } };
        for (event, plans) in &history {
            scene.happen(event);
            if *plans {
                scene.checked_step()?;
            }
        }
        for node in 1..=nodes.max(6) {
            scene.start(node);
            scene.settled(node);
            scene.member(node).eligible = true;
        }
        scene.cluster.behind.clear();
        scene.cluster.replicas = None;
        scene.cluster.write_quorum = None;
        scene.cluster.budget = Budget { leaders: 2, replicas: 2 };
        scene.settle()?;
        let led = scene.led();
        let most = led.values().max().unwrap();
        let least = led.values().min().unwrap();
        prop_assert!(most - least <= 1, "unbalanced: {:?} in {:?}", led, scene.cluster.table);
        let held = |node: &NodeId| {
            scene.cluster.table.values().filter(|placement| placement.replicas.contains(node)).count()
        };
        let held: Vec<usize> = scene.cluster.nodes.keys().map(held).collect();
        prop_assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "replicas: {:?}", held);
    }
}
