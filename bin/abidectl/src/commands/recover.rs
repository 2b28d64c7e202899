//! `abidectl recover metadata` and `abidectl recover logs`: going on when more was lost than replication covers.
//!
//! What is left goes to stdout, what would be lost and the question to stderr. `--yes` does not answer: it has to be
//! typed what is given up. The node that is asked checks everything again before it does anything.

use std::fmt::Write as _;
use std::time::Duration;

use abide_rpc::proto::recovery::log_voter::State;
use abide_rpc::proto::recovery::{
    LogPosition, LogSurvey, LogVoter, MetadataHolding, MetadataSurvey, RecoverLog, RecoverMetadata,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::Node;
use crate::confirm::{Answer, confirm};
use crate::failure::Failure;
use crate::output::{self, json_lines, node, nodes, or_dash, table};

/// How long what was ordered may take to show.
const DONE_WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// So many partitions are named in what has to be typed; of more their number.
const NAMED_MAX: usize = 4;

/// Has the cluster go on with the metadata of one server.
pub(crate) async fn metadata(asked: &Node, json: bool) -> Result<String, Failure> {
    let survey = asked.survey_metadata().await?;
    output::print(&metadata_survey(&survey, json))?;
    if survey.quorum {
        return Err(Failure::NotLost {
            what: "a majority of the metadata servers answers".to_owned(),
        });
    }
    let best =
        (survey.servers.iter()).find(|server| server.node != 0 && server.node == survey.best);
    let Some(best) = best else {
        return Err(Failure::NothingLeft {
            what: "no metadata server that answers holds anything of a cluster".to_owned(),
        });
    };
    typed(&metadata_plan(best, &survey), best.name.clone())?;
    let order = RecoverMetadata {
        node: best.node,
        fingerprint: best.fingerprint,
        last: best.last,
    };
    let fingerprint = asked.go_on_with_metadata(order).await?;
    eprintln!(
        "{} ends now and goes on when it is started again; waiting for it",
        best.name
    );
    wait_for_metadata(asked, best, fingerprint).await?;
    if json {
        return Ok(json_lines([json!({
            "node": node(best.node),
            "fingerprint": format!("{fingerprint:016x}"),
        })]));
    }
    Ok(format!(
        "{} is the only voter of the cluster {fingerprint:016x}\n",
        best.name
    ))
}

/// Goes on if the word is typed, and only then.
fn typed(plan: &[String], word: String) -> Result<(), Failure> {
    confirm(plan, &Answer::Word(word), false).map_err(|_| Failure::NotTyped)
}

async fn wait_for_metadata(
    asked: &Node,
    best: &MetadataHolding,
    fingerprint: u64,
) -> Result<(), Failure> {
    let went_on = |survey: &MetadataSurvey| {
        let mut servers = survey.servers.iter();
        servers.any(|server| server.node == best.node && server.fingerprint == fingerprint)
    };
    let deadline = Instant::now() + DONE_WITHIN;
    loop {
        // The one that goes on may be the one that is asked, and the others end as well when they notice.
        let elsewhere = Node::connect_to(&best.address, asked.target()).await;
        let surveyed = match &elsewhere {
            Ok(elsewhere) => elsewhere.survey_metadata().await,
            Err(_) => asked.survey_metadata().await,
        };
        if surveyed.is_ok_and(|survey| went_on(&survey)) {
            return Ok(());
        }
        if deadline < Instant::now() {
            return Err(Failure::NotYet {
                what: format!("{} was not started again", best.name),
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

fn metadata_survey(survey: &MetadataSurvey, json: bool) -> String {
    if json {
        return json_lines(survey.servers.iter().map(metadata_object));
    }
    let header = [
        "NODE",
        "NAME",
        "ADDRESS",
        "TERM",
        "LAST",
        "COMMITTED",
        "APPLIED",
        "VOTERS",
        "STATE",
    ];
    table(&header, survey.servers.iter().map(metadata_row))
}

fn metadata_row(server: &MetadataHolding) -> Vec<String> {
    let member = server.node != 0;
    let state = match (member, server.unreachable.is_empty()) {
        (true, _) => "answers".to_owned(),
        (false, true) => "holds nothing".to_owned(),
        (false, false) => format!("unreachable: {}", server.unreachable),
    };
    vec![
        or_dash(member.then(|| node(server.node))),
        or_dash((!server.name.is_empty()).then_some(&server.name)),
        server.address.clone(),
        or_dash(member.then_some(server.term)),
        or_dash(server.last.as_ref().map(position)),
        or_dash(member.then_some(server.committed)),
        or_dash(member.then_some(server.applied)),
        nodes(&server.voters),
        state,
    ]
}

/// Index and term of the last entry.
fn position(last: &LogPosition) -> String {
    format!("{}@{}", last.index, last.term)
}

fn metadata_object(server: &MetadataHolding) -> Value {
    let member = server.node != 0;
    let documents: serde_json::Map<String, Value> = server
        .documents
        .iter()
        .map(|document| (document.key.clone(), document.version.into()))
        .collect();
    json!({
        "node": member.then(|| node(server.node)),
        "name": server.name,
        "address": server.address,
        "unreachable": (!server.unreachable.is_empty()).then_some(&server.unreachable),
        "fingerprint": member.then(|| format!("{:016x}", server.fingerprint)),
        "term": server.term,
        "last": server.last.as_ref().map(|last| last.index),
        "last_term": server.last.as_ref().map(|last| last.term),
        "committed": server.committed,
        "applied": server.applied,
        "voters": server.voters.iter().map(|voter| node(*voter)).collect::<Vec<String>>(),
        "documents": documents,
    })
}

fn metadata_plan(best: &MetadataHolding, survey: &MetadataSurvey) -> Vec<String> {
    let last = best.last.as_ref().map_or(0, |last| last.index);
    let gone: Vec<u32> = best
        .voters
        .iter()
        .copied()
        .filter(|voter| *voter != best.node)
        .filter(|voter| !survey.servers.iter().any(|server| server.node == *voter))
        .collect();
    let mut plan = vec![
        format!(
            "{} ({}) becomes the only voter of the metadata plane, with what it holds: {} documents, entries up to {last}.",
            best.name,
            node(best.node),
            best.documents.len(),
        ),
        format!(
            "What the others committed behind entry {last} is lost: registrations, changes of configuration, leaders, \
             nodes. Only they would know; it is nothing unless {} was behind when they were lost.",
            best.name
        ),
    ];
    for server in &survey.servers {
        if server.node != 0 && server.node != best.node {
            let held = server.last.as_ref().map_or(0, |last| last.index);
            plan.push(format!(
                "{} ({}) holds entries up to {held} and joins anew; its metadata directory is put aside.",
                server.name,
                node(server.node),
            ));
        }
    }
    if !gone.is_empty() {
        plan.push(format!(
            "{} count as lost. Should they come back with their disks, what they hold of the metadata is put aside \
             and they join anew.",
            nodes(&gone)
        ));
    }
    plan.push(
        "The cluster gets another fingerprint. Every node has to be started again; those that are supervised end by \
         themselves and are."
            .to_owned(),
    );
    plan
}

/// Has logs go on with the replicas that are left.
pub(crate) async fn logs(asked: &Node, partitions: &[u16], json: bool) -> Result<String, Failure> {
    let survey = asked.survey_logs(partitions).await?;
    let stuck: Vec<&LogSurvey> = survey.iter().filter(|log| log.stuck).collect();
    let shown = if partitions.is_empty() {
        stuck.clone()
    } else {
        survey.iter().collect()
    };
    output::print(&logs_survey(&shown, json))?;
    if stuck.is_empty() {
        return Err(Failure::NotLost {
            what: "of every log enough replicas answer".to_owned(),
        });
    }
    if let Some(log) = stuck.iter().find(|log| !log.obstacle.is_empty()) {
        return Err(Failure::NotYet {
            what: format!("log {} cannot go on: {}", log.partition, log.obstacle),
        });
    }
    typed(&logs_plan(&stuck), word(&stuck))?;
    let mut ordered = Vec::new();
    for log in stuck {
        ordered.push((log.partition, order(asked, log).await?));
    }
    wait_for_logs(asked, &ordered).await?;
    if json {
        return Ok(json_lines(ordered.iter().map(
            |(partition, epoch)| json!({ "partition": partition, "epoch": epoch }),
        )));
    }
    let mut text = String::new();
    for (partition, epoch) in ordered {
        // Writing to a string does not fail.
        let _ = writeln!(text, "log {partition} goes on under epoch {epoch}");
    }
    Ok(text)
}

/// Orders the recovery of one log. What others do to the partition table meanwhile changes versions, not what is lost:
/// as long as that is what was agreed to, it is tried again.
async fn order(asked: &Node, log: &LogSurvey) -> Result<u64, Failure> {
    let deadline = Instant::now() + DONE_WITHIN;
    let mut version = log.version;
    loop {
        let request = RecoverLog {
            partition: log.partition,
            version,
            kept: log.kept,
        };
        let failure = match asked.go_on_with_log(request).await {
            Ok(epoch) => return Ok(epoch),
            Err(failure) => failure,
        };
        let partition = u16::try_from(log.partition).unwrap_or(u16::MAX);
        let now = asked.survey_logs(&[partition]).await?;
        let same = now
            .iter()
            .find(|now| now.stuck && now.kept == log.kept && now.epoch == log.epoch);
        match same {
            Some(same) if Instant::now() < deadline => version = same.version,
            _ => return Err(failure),
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn wait_for_logs(asked: &Node, ordered: &[(u32, u64)]) -> Result<(), Failure> {
    let deadline = Instant::now() + DONE_WITHIN;
    loop {
        let survey = asked.survey_logs(&[]).await.unwrap_or_default();
        let done = |(partition, epoch): &(u32, u64)| {
            survey
                .iter()
                .any(|log| log.partition == *partition && *epoch <= log.epoch)
        };
        let waiting: Vec<String> = ordered
            .iter()
            .filter(|order| !done(order))
            .map(|(partition, _)| partition.to_string())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if deadline < Instant::now() {
            return Err(Failure::NotYet {
                what: format!("nobody leads the logs {} yet", waiting.join(" ")),
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

fn word(stuck: &[&LogSurvey]) -> String {
    if stuck.len() <= NAMED_MAX {
        let names: Vec<String> = stuck.iter().map(|log| log.partition.to_string()).collect();
        format!("lose {}", names.join(" "))
    } else {
        format!("lose records of {} logs", stuck.len())
    }
}

fn logs_survey(logs: &[&LogSurvey], json: bool) -> String {
    if json {
        return json_lines(logs.iter().map(|log| log_object(log)));
    }
    let header = [
        "LOG", "EPOCH", "BASE", "NEEDED", "REPLICAS", "STORES", "KEPT", "KNOWN", "STATE",
    ];
    table(&header, logs.iter().map(|log| log_row(log)))
}

fn log_row(log: &LogSurvey) -> Vec<String> {
    let voters: Vec<String> = log.voters.iter().map(voter).collect();
    let stores: Vec<String> = log
        .stores
        .iter()
        .map(|store| format!("{}:{}", node(store.node), store.applied))
        .collect();
    let state = match (log.stuck, log.ordered) {
        (false, _) => "enough replicas",
        (true, false) => "stuck",
        (true, true) => "stuck, recovery ordered",
    };
    vec![
        log.partition.to_string(),
        log.epoch.to_string(),
        log.base.to_string(),
        format!("{}/{}", log.needed, log.voters.len()),
        voters.join(" "),
        or_dash((!stores.is_empty()).then(|| stores.join(" "))),
        format!("<{}", log.kept),
        format!("<{}", log.known),
        state.to_owned(),
    ]
}

/// `N3:184` for one that answers with its tail.
fn voter(voter: &LogVoter) -> String {
    let state = match voter.state() {
        State::Present => voter.tail.to_string(),
        State::OtherDisk => "other-disk".to_owned(),
        State::Unreachable => "unreachable".to_owned(),
    };
    format!("{}:{state}", node(voter.node))
}

fn log_object(log: &LogSurvey) -> Value {
    let voters: Vec<Value> = log
        .voters
        .iter()
        .map(|voter| {
            json!({
                "node": node(voter.node),
                "storage": format!("{:016x}", voter.storage),
                "state": match voter.state() {
                    State::Present => "present",
                    State::OtherDisk => "other-disk",
                    State::Unreachable => "unreachable",
                },
                "tail": voter.tail,
                "committed": voter.committed,
                "unreachable": (!voter.unreachable.is_empty()).then_some(&voter.unreachable),
            })
        })
        .collect();
    let stores: Vec<Value> = log
        .stores
        .iter()
        .map(|store| json!({ "node": node(store.node), "applied": store.applied, "state": store.state }))
        .collect();
    json!({
        "partition": log.partition,
        "version": log.version,
        "epoch": log.epoch,
        "base": log.base,
        "needed": log.needed,
        "voters": voters,
        "stores": stores,
        "stuck": log.stuck,
        "kept": log.kept,
        "known": log.known,
        "begins_anew": log.anew,
        "ordered": log.ordered,
        "obstacle": (!log.obstacle.is_empty()).then_some(&log.obstacle),
    })
}

fn logs_plan(stuck: &[&LogSurvey]) -> Vec<String> {
    let mut plan = Vec::new();
    for log in stuck {
        let present = log
            .voters
            .iter()
            .filter(|voter| voter.state() == State::Present);
        let (there, voters) = (present.count(), log.voters.len());
        let mut line = format!(
            "log {}: {there} of {voters} replicas answer, and it takes {}. Records below {} are kept; ",
            log.partition, log.needed, log.kept
        );
        // Writing to a string does not fail.
        let _ = if log.kept < log.known {
            write!(
                line,
                "{} to {} were there and are lost, with all behind them.",
                log.kept,
                log.known - 1
            )
        } else {
            write!(
                line,
                "those from {} on are lost, if there were any: only the lost replicas would know.",
                log.kept
            )
        };
        if log.anew {
            line.push_str(
                " No log server that answers holds all of what a partition store has applied: the log begins anew \
                 behind that store, and the others are filled from it.",
            );
        }
        plan.push(line);
    }
    plan.push(
        "What is lost was acknowledged to clients: calls they believe accepted, results they were told, steps that \
         handlers took. Replicas that are only down would bring all of it back: start them instead, if they exist. \
         Those that come back later are filled anew."
            .to_owned(),
    );
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use abide_rpc::proto::recovery::{DocumentVersion, PartitionStore};
    use expect_test::expect;

    fn survivor() -> MetadataHolding {
        MetadataHolding {
            node: 3,
            name: "node3".into(),
            address: "10.0.0.3:5122".into(),
            fingerprint: 0xabc,
            term: 4,
            last: Some(LogPosition {
                term: 4,
                node: 1,
                index: 118,
            }),
            committed: 117,
            applied: 117,
            voters: vec![1, 2, 3],
            quorum: 2,
            documents: vec![DocumentVersion {
                key: "nodes".into(),
                version: 9,
            }],
            ..MetadataHolding::default()
        }
    }

    fn gone(address: &str) -> MetadataHolding {
        MetadataHolding {
            address: address.into(),
            unreachable: "connection refused".into(),
            ..MetadataHolding::default()
        }
    }

    fn log() -> LogSurvey {
        let voter = |node, state, tail| LogVoter {
            node,
            storage: 7,
            state,
            tail,
            committed: tail,
            unreachable: String::new(),
        };
        LogSurvey {
            partition: 5,
            version: 12,
            epoch: 7,
            base: 150,
            voters: vec![
                voter(1, State::Unreachable as i32, 0),
                voter(2, State::OtherDisk as i32, 0),
                voter(3, State::Present as i32, 184),
            ],
            needed: 2,
            stores: vec![PartitionStore {
                node: 3,
                applied: 180,
                state: "active".into(),
            }],
            stuck: true,
            kept: 184,
            known: 184,
            anew: false,
            ordered: false,
            obstacle: String::new(),
        }
    }

    #[test]
    fn what_is_left_of_the_metadata_is_a_row_per_server() {
        let survey = MetadataSurvey {
            servers: vec![survivor(), gone("10.0.0.1:5122"), gone("10.0.0.2:5122")],
            quorum: false,
            best: 3,
        };
        expect![[r#"
            NODE  NAME   ADDRESS        TERM  LAST   COMMITTED  APPLIED  VOTERS    STATE
            N3    node3  10.0.0.3:5122  4     118@4  117        117      N1 N2 N3  answers
            -     -      10.0.0.1:5122  -     -      -          -        -         unreachable: connection refused
            -     -      10.0.0.2:5122  -     -      -          -        -         unreachable: connection refused
        "#]].assert_eq(&metadata_survey(&survey, false));
        expect![[r#"
            node3 (N3) becomes the only voter of the metadata plane, with what it holds: 1 documents, entries up to 118.
            What the others committed behind entry 118 is lost: registrations, changes of configuration, leaders, nodes. Only they would know; it is nothing unless node3 was behind when they were lost.
            N1 N2 count as lost. Should they come back with their disks, what they hold of the metadata is put aside and they join anew.
            The cluster gets another fingerprint. Every node has to be started again; those that are supervised end by themselves and are."#]].assert_eq(&metadata_plan(&survivor(), &survey).join("\n"));
        expect![[r#"
            {"address":"10.0.0.3:5122","applied":117,"committed":117,"documents":{"nodes":9},"fingerprint":"0000000000000abc","last":118,"last_term":4,"name":"node3","node":"N3","term":4,"unreachable":null,"voters":["N1","N2","N3"]}
            {"address":"10.0.0.1:5122","applied":0,"committed":0,"documents":{},"fingerprint":null,"last":null,"last_term":null,"name":"","node":null,"term":0,"unreachable":"connection refused","voters":[]}
            {"address":"10.0.0.2:5122","applied":0,"committed":0,"documents":{},"fingerprint":null,"last":null,"last_term":null,"name":"","node":null,"term":0,"unreachable":"connection refused","voters":[]}
        "#]].assert_eq(&metadata_survey(&survey, true));
    }

    #[test]
    fn what_is_left_of_a_log_is_a_row() {
        expect![[r#"
            LOG  EPOCH  BASE  NEEDED  REPLICAS                             STORES  KEPT  KNOWN  STATE
            5    7      150   2/3     N1:unreachable N2:other-disk N3:184  N3:180  <184  <184   stuck
        "#]].assert_eq(&logs_survey(&[&log()], false));
        expect![[r#"
            log 5: 1 of 3 replicas answer, and it takes 2. Records below 184 are kept; those from 184 on are lost, if there were any: only the lost replicas would know.
            What is lost was acknowledged to clients: calls they believe accepted, results they were told, steps that handlers took. Replicas that are only down would bring all of it back: start them instead, if they exist. Those that come back later are filled anew."#]].assert_eq(&logs_plan(&[&log()]).join("\n"));
        let behind = LogSurvey {
            kept: 190,
            known: 200,
            anew: true,
            ..log()
        };
        expect![[r#"
            log 5: 1 of 3 replicas answer, and it takes 2. Records below 190 are kept; 190 to 199 were there and are lost, with all behind them. No log server that answers holds all of what a partition store has applied: the log begins anew behind that store, and the others are filled from it.
            What is lost was acknowledged to clients: calls they believe accepted, results they were told, steps that handlers took. Replicas that are only down would bring all of it back: start them instead, if they exist. Those that come back later are filled anew."#]].assert_eq(&logs_plan(&[&behind]).join("\n"));
        expect![[r#"
            {"base":150,"begins_anew":false,"epoch":7,"kept":184,"known":184,"needed":2,"obstacle":null,"ordered":false,"partition":5,"stores":[{"applied":180,"node":"N3","state":"active"}],"stuck":true,"version":12,"voters":[{"committed":0,"node":"N1","state":"unreachable","storage":"0000000000000007","tail":0,"unreachable":null},{"committed":0,"node":"N2","state":"other-disk","storage":"0000000000000007","tail":0,"unreachable":null},{"committed":184,"node":"N3","state":"present","storage":"0000000000000007","tail":184,"unreachable":null}]}
        "#]].assert_eq(&logs_survey(&[&log()], true));
    }

    #[test]
    fn what_is_lost_has_to_be_typed() {
        let log = log();
        assert_eq!(word(&[&log]), "lose 5");
        assert_eq!(word(&[&log; 5]), "lose records of 5 logs");
    }
}
