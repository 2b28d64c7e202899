#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;

use super::*;
use crate::message::{AppendOutcome, StorageId};
use expect_test::{Expect, expect};

const LOG: PartitionId = PartitionId(7);

/// The storage of a node; a dash behind the number means a disk that was wiped.
fn who(word: &str) -> (NodeId, StorageId) {
    let node: u32 = word.trim_end_matches('-').parse().unwrap();
    let wiped = if word.ends_with('-') { 1000 } else { 0 };
    (NodeId(node), StorageId(u64::from(node) + wiped))
}

fn lsn(word: &str) -> Option<Lsn> {
    (word != "-").then(|| Lsn(word.parse().unwrap()))
}

/// `epoch base replica,replica?…`: a question mark behind a replica that was never met.
fn segment(words: &[&str]) -> Segment {
    let member = |word: &str| {
        let (node, storage) = who(word.trim_end_matches('?'));
        Member {
            node,
            storage: (!word.ends_with('?')).then_some(storage),
        }
    };
    let members: Vec<Member> = words[2].split(',').map(member).collect();
    let write_quorum = members.len() / 2 + 1;
    let (epoch, base) = (words[0].parse().unwrap(), words[1].parse().unwrap());
    Segment::open(Epoch(epoch), Lsn(base), members, write_quorum).unwrap()
}

fn nodes(nodes: &[NodeId]) -> String {
    let nodes: Vec<String> = nodes.iter().map(|node| node.0.to_string()).collect();
    nodes.join(",")
}

fn show_chain(chain: &LogChain) -> String {
    let mut out = String::new();
    for segment in chain.segments() {
        let end = segment.end().map_or(String::new(), |end| end.to_string());
        let voters: Vec<String> = segment
            .members()
            .iter()
            .map(|member| {
                let known = member.storage.map_or("?", |storage| match storage.0 {
                    0..1000 => "",
                    _ => "-",
                });
                format!("{}{known}", member.node.0)
            })
            .collect();
        write!(
            out,
            " {}[{}..{end}]@{}",
            segment.epoch(),
            segment.base(),
            voters.join(",")
        )
        .unwrap();
    }
    for mark in chain.salvaged() {
        write!(out, " salvaged by {} at {}", mark.epoch, mark.at).unwrap();
    }
    out
}

fn show(takeover: &mut Takeover) -> String {
    match takeover.wants() {
        Wants::Fence {
            segment,
            nodes: silent,
        } => format!("fence {segment} at {}", nodes(&silent)),
        Wants::Reload => "reload".to_owned(),
        Wants::Read {
            segment,
            from,
            end,
            sources,
        } => format!("read {segment} [{from}..{end}) from {}", nodes(&sources)),
        Wants::Write => {
            let sequencer = takeover.sequencer().unwrap();
            let (base, next) = (sequencer.base(), sequencer.next());
            assert_eq!(sequencer.committed(), base);
            format!("write [{base}..{next})")
        }
        Wants::Publish { expected, chain } => {
            format!("publish on {expected}:{}", show_chain(&chain))
        }
        Wants::Nothing => "nothing".to_owned(),
    }
}

/// Runs a script; after each line stands what the takeover wants.
fn check(script: &str, transcript: Expect) {
    let mut out = String::new();
    let mut chain = LogChain::default();
    let mut takeover: Option<Takeover> = None;
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let outcome = match words[0] {
            "segment" => {
                chain = chain.extended(segment(&words[1..]));
                continue;
            }
            // salvage <lost replicas> <floor>
            "salvage" => {
                let order = crate::chain::Salvage {
                    segment: chain.epoch(),
                    lost: words[1].split(',').map(who).collect(),
                    floor: lsn(words[2]).unwrap_or_default(),
                };
                chain = chain.with_salvage(order).unwrap();
                continue;
            }
            // take <epoch> <replicas>
            "take" => {
                let nodes: Vec<NodeId> = words[2].split(',').map(|word| who(word).0).collect();
                let (epoch, quorum) = (Epoch(words[1].parse().unwrap()), nodes.len() / 2 + 1);
                let limits = SequencerLimits::default();
                let begun = Takeover::new(LOG, epoch, 1, chain.clone(), nodes, quorum, limits);
                begun.map(|begun| takeover = Some(begun))
            }
            word => {
                let found = takeover.as_mut().unwrap();
                match word {
                    // promised <who> <tail> <committed> [trimmed <lsn>] [newest <epoch>]
                    "promised" => {
                        let (node, storage) = who(words[1]);
                        let option = |name| {
                            let at = words.iter().position(|word| *word == name)?;
                            words[at + 1].parse().ok()
                        };
                        let outcome = FenceOutcome::Promised {
                            tail: lsn(words[2]),
                            committed: lsn(words[3]).unwrap_or_default(),
                            trimmed: Lsn(option("trimmed").unwrap_or(0)),
                            newest: Epoch(option("newest").unwrap_or(0)),
                        };
                        found.on_fenced(node, FenceReply { storage, outcome })
                    }
                    // refused <who> <epoch>
                    "refused" => {
                        let (node, storage) = who(words[1]);
                        let promised = Epoch(words[2].parse().unwrap());
                        let outcome = FenceOutcome::Refused { promised };
                        found.on_fenced(node, FenceReply { storage, outcome })
                    }
                    // records <epoch> <first> <count>
                    "records" => {
                        let number = |at: usize| words[at].parse::<u64>().unwrap();
                        let lsns = number(2)..number(2) + number(3);
                        let record = |lsn| Record::new(LOG, Epoch(number(1)), Lsn(lsn), "x".into());
                        found.on_records(lsns.map(record).collect())
                    }
                    "trimmed" => found.on_trimmed(lsn(words[1]).unwrap()),
                    // stored <who> <tail>
                    "stored" | "fenced" => {
                        let (node, storage) = who(words[1]);
                        let number = words[2].parse().unwrap();
                        let reply = AppendReply {
                            partition: LOG,
                            epoch: found.epoch(),
                            storage,
                            outcome: match word {
                                "stored" => AppendOutcome::Stored { tail: Lsn(number) },
                                _ => AppendOutcome::Fenced {
                                    promised: Epoch(number),
                                },
                            },
                        };
                        found.on_append_reply(node, reply)
                    }
                    // reloaded <version> / conflict <version>, with the chain as it is now
                    "reloaded" => found.on_reloaded(words[1].parse().unwrap(), chain.clone()),
                    "conflict" => {
                        let version = words[1].parse().unwrap();
                        found.on_conflict(version, chain.clone()).map(|won| {
                            writeln!(out, "{line} -> {}", if won { "won" } else { "again" })
                                .unwrap();
                        })
                    }
                    "drop" => {
                        chain = chain.trimmed(lsn(words[1]).unwrap());
                        continue;
                    }
                    "published" => {
                        let (_, sequencer) = found.on_published().unwrap();
                        writeln!(out, "committed {}", sequencer.committed()).unwrap();
                        Ok(())
                    }
                    unknown => panic!("{unknown}"),
                }
            }
        };
        match outcome {
            Ok(()) => {
                let wants = show(takeover.as_mut().unwrap());
                writeln!(out, "{line} -> {wants}").unwrap();
            }
            Err(error) => writeln!(out, "{line} -> {error}").unwrap(),
        }
    }
    transcript.assert_eq(&out);
}

#[test]
fn the_first_segment_begins_at_one() {
    check(
        "take 1 1,2,3
         stored 2 1
         stored 3 1
         published",
        expect![[r#"
            take 1 1,2,3 -> write [1..1)
            stored 2 1 -> write [1..1)
            stored 3 1 -> publish on 1: e1[1..]@1?,2,3
            committed 1
            published -> nothing
        "#]],
    );
}

#[test]
fn a_leader_is_replaced_and_its_suffix_handed_over() {
    check(
        "segment 1 1 1,2,3
         take 2 1,2,3
         promised 2 8 5
         promised 3 7 6
         records 1 6 2
         stored 3 8
         stored 2 8
         published",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 2 8 5 -> fence e1 at 1,3
            promised 3 7 6 -> read e1 [6..8) from 2,3,1
            records 1 6 2 -> write [6..8)
            stored 3 8 -> write [6..8)
            stored 2 8 -> publish on 1: e1[1..6]@1,2,3 e2[6..]@1,2,3
            committed 8
            published -> nothing
        "#]],
    );
}

#[test]
fn a_wiped_or_foreign_disk_is_nobody() {
    check(
        "segment 1 1 1,2,3
         take 2 1,2,3
         promised 3- - 0
         promised 9 20 20
         promised 2 8 8
         promised 1 8 8
         stored 3- 8
         stored 2 8",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 3- - 0 -> fence e1 at 1,2,3
            promised 9 20 20 -> fence e1 at 1,2,3
            promised 2 8 8 -> fence e1 at 1,3
            promised 1 8 8 -> write [8..8)
            stored 3- 8 -> write [8..8)
            stored 2 8 -> publish on 1: e1[1..8]@1,2,3 e2[8..]@1,2,3-
        "#]],
    );
}

#[test]
fn a_voter_that_never_heard_of_the_segment_counts_as_empty() {
    check(
        "segment 1 1 1,2,3
         segment 4 10 1,2,3
         take 5 1,2,3
         promised 2 12 10
         promised 3 - 0",
        expect![[r#"
            take 5 1,2,3 -> fence e4 at 1,2,3
            promised 2 12 10 -> fence e4 at 1,3
            promised 3 - 0 -> read e4 [10..12) from 2,3,1
        "#]],
    );
}

#[test]
fn strangers_of_the_last_segment_are_not_asked() {
    check(
        "segment 1 1 1,2,3?
         take 2 1,2,3
         promised 3 - 0
         promised 2 4 4
         stored 2 4
         stored 3 4",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2
            promised 3 - 0 -> fence e1 at 1,2
            promised 2 4 4 -> write [4..4)
            stored 2 4 -> write [4..4)
            stored 3 4 -> publish on 1: e1[1..4]@1,2,3? e2[4..]@1,2,3
        "#]],
    );
}

#[test]
fn what_a_dead_taker_left_is_not_believed() {
    // e2 died after writing its suffix: nodes 1 and 2 have a segment of it, and the chain does not.
    check(
        "segment 1 1 1,2,3
         take 3 1,2,3
         promised 1 6 4 newest 2
         promised 2 6 4 newest 2
         reloaded 1
         records 2 4 2
         records 1 4 2",
        expect![[r#"
            take 3 1,2,3 -> fence e1 at 1,2,3
            promised 1 6 4 newest 2 -> fence e1 at 2,3
            promised 2 6 4 newest 2 -> reload
            reloaded 1 -> read e1 [4..6) from 2,1,3
            records 2 4 2 -> read e1 [4..6) from 2,1,3
            records 1 4 2 -> write [4..6)
        "#]],
    );
}

#[test]
fn a_segment_that_was_published_meanwhile_is_fenced_instead() {
    check(
        "segment 1 1 1,2,3
         take 3 1,2,3
         promised 1 6 4 newest 2
         promised 2 6 4 newest 2
         segment 2 4 1,2,3
         reloaded 2
         promised 1 6 6
         promised 3 6 6
         stored 1 6
         stored 2 6",
        expect![[r#"
            take 3 1,2,3 -> fence e1 at 1,2,3
            promised 1 6 4 newest 2 -> fence e1 at 2,3
            promised 2 6 4 newest 2 -> reload
            reloaded 2 -> fence e2 at 1,2,3
            promised 1 6 6 -> fence e2 at 2,3
            promised 3 6 6 -> write [6..6)
            stored 1 6 -> write [6..6)
            stored 2 6 -> publish on 2: e1[1..4]@1,2,3 e2[4..6]@1,2,3 e3[6..]@1,2,3
        "#]],
    );
}

#[test]
fn losing_the_compare_and_set_ends_the_attempt() {
    check(
        "segment 1 1 1,2,3
         take 3 1,2,3
         promised 1 4 4
         promised 2 4 4
         stored 1 4
         stored 2 4
         segment 2 4 1,2,3
         conflict 2
         segment 5 4 1,2,3
         conflict 3",
        expect![[r#"
            take 3 1,2,3 -> fence e1 at 1,2,3
            promised 1 4 4 -> fence e1 at 2,3
            promised 2 4 4 -> write [4..4)
            stored 1 4 -> write [4..4)
            stored 2 4 -> publish on 1: e1[1..4]@1,2,3 e3[4..]@1,2,3
            conflict 2 -> log 7 changed during the takeover by e3; it takes a fresh epoch
            conflict 3 -> log 7 belongs to e5, which is not below e3
        "#]],
    );
}

#[test]
fn a_conflict_may_be_the_own_write_or_a_trim() {
    check(
        "segment 1 1 1,2,3
         segment 2 9 1,2,3
         take 3 1,2,3
         promised 1 12 12
         promised 2 12 12
         stored 1 12
         stored 2 12
         drop 9
         conflict 6
         segment 3 12 1,2,3
         conflict 7
         published",
        expect![[r#"
            take 3 1,2,3 -> fence e2 at 1,2,3
            promised 1 12 12 -> fence e2 at 2,3
            promised 2 12 12 -> write [12..12)
            stored 1 12 -> write [12..12)
            stored 2 12 -> publish on 1: e1[1..9]@1,2,3 e2[9..12]@1,2,3 e3[12..]@1,2,3
            conflict 6 -> again
            conflict 6 -> publish on 6: e2[9..12]@1,2,3 e3[12..]@1,2,3
            conflict 7 -> won
            conflict 7 -> publish on 6: e2[9..12]@1,2,3 e3[12..]@1,2,3
            committed 12
            published -> nothing
        "#]],
    );
}

#[test]
fn higher_epochs_depose() {
    check(
        "segment 4 1 1,2,3
         take 4 1,2,3
         take 5 1,2,3
         refused 2 6
         take 5 1,2,3
         promised 1 1 1
         promised 2 1 1
         fenced 3 9",
        expect![[r#"
            take 4 1,2,3 -> log 7 belongs to e4, which is not below e4
            take 5 1,2,3 -> fence e4 at 1,2,3
            refused 2 6 -> log 7 belongs to e6, which is not below e5
            take 5 1,2,3 -> fence e4 at 1,2,3
            promised 1 1 1 -> fence e4 at 2,3
            promised 2 1 1 -> write [1..1)
            fenced 3 9 -> log 7 belongs to e9, which is not below e5
        "#]],
    );
}

#[test]
fn replica_sets_change_between_segments() {
    check(
        "segment 1 1 1,2,3
         take 2 3,4,5
         promised 3 6 5
         promised 1 5 5
         records 1 5 1
         stored 3 6
         stored 1 6
         stored 5 6",
        expect![[r#"
            take 2 3,4,5 -> fence e1 at 1,2,3
            promised 3 6 5 -> fence e1 at 1,2
            promised 1 5 5 -> read e1 [5..6) from 3,1,2
            records 1 5 1 -> write [5..6)
            stored 3 6 -> write [5..6)
            stored 1 6 -> write [5..6)
            stored 5 6 -> publish on 1: e1[1..5]@1,2,3 e2[5..]@3,4?,5
        "#]],
    );
}

#[test]
fn what_is_trimmed_is_committed_and_not_handed_over() {
    check(
        "segment 1 1 1,2,3
         take 2 1,2,3
         promised 3 9 2 trimmed 4
         promised 1 8 3
         records 1 4 2
         trimmed 7
         records 1 7 2",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 3 9 2 trimmed 4 -> fence e1 at 1,2
            promised 1 8 3 -> read e1 [4..9) from 3,1,2
            records 1 4 2 -> read e1 [6..9) from 3,1,2
            trimmed 7 -> read e1 [7..9) from 3,1,2
            records 1 7 2 -> write [7..9)
        "#]],
    );
}

#[test]
fn a_commit_that_none_holds_waits_for_the_others() {
    // Node 2 has heard of a commit that is on neither of the two: a disk lost what it had acked.
    check(
        "segment 1 1 1,2,3
         take 2 1,2,3
         promised 1 4 4
         promised 2 5 8
         promised 3 9 8",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 1 4 4 -> fence e1 at 2,3
            promised 2 5 8 -> fence e1 at 3
            promised 3 9 8 -> read e1 [8..9) from 3,2,1
        "#]],
    );
}

#[test]
fn what_is_left_is_kept_when_an_operator_gives_the_rest_up() {
    // Two of three are gone: their disks answer with other storage ids.
    check(
        "segment 1 1 1,2,3
         take 2 1,2,3
         promised 3 9 6
         salvage 1,2 -
         take 3 1,2,3
         promised 1- - 0
         promised 3 9 6
         records 1 6 3
         stored 3 9
         stored 1- 9
         published",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 3 9 6 -> fence e1 at 1,2
            take 3 1,2,3 -> fence e1 at 1,2,3
            promised 1- - 0 -> fence e1 at 1,2,3
            promised 3 9 6 -> read e1 [6..9) from 3,1,2
            records 1 6 3 -> write [6..9)
            stored 3 9 -> write [6..9)
            stored 1- 9 -> publish on 1: e1[1..6]@1,2,3 e3[6..]@1-,2?,3 salvaged by e3 at 9
            committed 9
            published -> nothing
        "#]],
    );
}

#[test]
fn who_is_not_given_up_is_waited_for() {
    check(
        "segment 1 1 1,2,3,4,5
         salvage 1,2,3 -
         take 2 1,2,3,4,5
         promised 4 7 5
         promised 5 9 6",
        expect![[r#"
            take 2 1,2,3,4,5 -> fence e1 at 1,2,3,4,5
            promised 4 7 5 -> fence e1 at 1,2,3,5
            promised 5 9 6 -> read e1 [6..9) from 5,4,1,2,3
        "#]],
    );
}

#[test]
fn a_log_that_holds_less_than_a_store_begins_anew_behind_it() {
    check(
        "segment 1 1 1,2,3
         salvage 1,2 15
         take 2 1,2,3
         promised 3 9 6
         stored 3 15
         stored 2- 15",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 3 9 6 -> write [15..15)
            stored 3 15 -> write [15..15)
            stored 2- 15 -> publish on 1: e2[15..]@1?,2-,3 salvaged by e2 at 15
        "#]],
    );
    // Even with no replica at all.
    check(
        "segment 1 1 1,2,3
         salvage 1,2,3 15
         take 2 1,2,3
         stored 1- 15
         stored 2- 15",
        expect![[r#"
            take 2 1,2,3 -> write [15..15)
            stored 1- 15 -> write [15..15)
            stored 2- 15 -> publish on 1: e2[15..]@1-,2-,3? salvaged by e2 at 15
        "#]],
    );
}

#[test]
fn an_order_is_not_used_where_a_quorum_answers_after_all() {
    check(
        "segment 1 1 1,2,3
         salvage 1,2 -
         take 2 1,2,3
         promised 1 12 8
         promised 3 9 6
         records 1 8 4
         stored 3 12
         stored 1 12",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 1 12 8 -> fence e1 at 2,3
            promised 3 9 6 -> read e1 [8..12) from 1,3,2
            records 1 8 4 -> write [8..12)
            stored 3 12 -> write [8..12)
            stored 1 12 -> publish on 1: e1[1..8]@1,2,3 e2[8..]@1,2,3
        "#]],
    );
}

#[test]
fn a_commit_that_nobody_holds_any_more_is_given_up_by_order_only() {
    check(
        "segment 1 1 1,2,3
         salvage 1,2 -
         take 2 1,2,3
         promised 3 5 8",
        expect![[r#"
            take 2 1,2,3 -> fence e1 at 1,2,3
            promised 3 5 8 -> write [5..5)
        "#]],
    );
}
