//! The chain of a log: which epoch wrote which stretch to which replicas.
//!
//! It is metadata, changed by compare-and-set only: by a takeover ([`LogChain::extended`]), by a leader that
//! makes a replica a voter of its own segment ([`LogChain::enrolled`]) and by trimming
//! ([`LogChain::trimmed`]). An operator adds an order to go on without replicas that are lost
//! ([`LogChain::with_salvage`]); the takeover that obeys it leaves a mark ([`Salvaged`]).

use abide_types::{Epoch, Lsn, NodeId};
use serde::{Deserialize, Serialize};

use crate::message::StorageId;

/// A replica of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    /// The node whose log server it is.
    pub node: NodeId,
    /// Its storage. `None`: never met so far; it is streamed to and counts for nothing.
    pub storage: Option<StorageId>,
}

/// A stretch of a log that was written under one epoch by one node to one replica set.
///
/// Invariant: `1 <= write_quorum <= members`, members are distinct, and `base <= end`. A closed segment
/// holds committed records only and never changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    epoch: Epoch,
    base: Lsn,
    end: Option<Lsn>,
    members: Vec<Member>,
    write_quorum: usize,
}

/// Why a chain is not one.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The bytes are not JSON of the right shape.
    #[error("the log chain is not readable")]
    Json(#[source] serde_json::Error),
    /// A rule is broken.
    #[error("the log chain is broken at the segment of {epoch}: {rule}")]
    Broken {
        /// The segment's epoch.
        epoch: Epoch,
        /// What should hold.
        rule: &'static str,
    },
}

impl Segment {
    /// A new open segment.
    pub fn open(
        epoch: Epoch,
        base: Lsn,
        members: Vec<Member>,
        write_quorum: usize,
    ) -> Result<Self, ChainError> {
        let segment = Self {
            epoch,
            base,
            end: None,
            members,
            write_quorum,
        };
        segment.check()?;
        Ok(segment)
    }

    fn check(&self) -> Result<(), ChainError> {
        let broken = |rule| {
            Err(ChainError::Broken {
                epoch: self.epoch,
                rule,
            })
        };
        let mut nodes: Vec<NodeId> = self.members.iter().map(|member| member.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() != self.members.len() {
            return broken("its replicas are distinct");
        }
        if self.write_quorum == 0 || self.write_quorum > self.members.len() {
            return broken("its write quorum is at least 1 and at most its number of replicas");
        }
        if self.base < Lsn::FIRST {
            return broken("its base is at least 1");
        }
        if self.end.is_some_and(|end| end <= self.base) {
            return broken("a closed segment has records");
        }
        Ok(())
    }

    /// The epoch that owns it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its first LSN.
    pub fn base(&self) -> Lsn {
        self.base
    }

    /// The first LSN behind it; `None` while it is open.
    pub fn end(&self) -> Option<Lsn> {
        self.end
    }

    /// Its replicas.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The nodes of its replicas.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().map(|member| member.node)
    }

    /// How many voters must hold a record for it to be committed.
    pub fn write_quorum(&self) -> usize {
        self.write_quorum
    }

    /// The recorded storage of a replica.
    pub fn storage(&self, node: NodeId) -> Option<StorageId> {
        self.members
            .iter()
            .find(|member| member.node == node)?
            .storage
    }

    /// How many replicas count toward quorums.
    pub fn voters(&self) -> usize {
        let voting = |member: &&Member| member.storage.is_some();
        self.members.iter().filter(voting).count()
    }
}

/// An operator's order: the next takeover may go on without the fence quorum of the last segment.
///
/// It is void once the segment is not the last any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Salvage {
    /// The segment that it is about.
    pub segment: Epoch,
    /// Voters that are not waited for. They are known by their storage: the same node with another disk is a
    /// replica like any other, and one that comes back with this disk counts for nothing it held.
    pub lost: Vec<(NodeId, StorageId)>,
    /// Some partition store in reach has applied everything below. If no replica in reach has as much, the log
    /// begins anew here, and other stores are filled from that one.
    pub floor: Lsn,
}

/// A takeover that went on without the fence quorum: there may have been other records from `at` on.
///
/// A partition store that applied such records and does not know of this is of no use (see the crate `processor`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salvaged {
    /// The epoch that took over.
    pub epoch: Epoch,
    /// The first record that may have been another one before.
    pub at: Lsn,
}

/// The segments of a log, oldest first.
///
/// Invariant: epochs rise, every segment begins where the one before it ends, and exactly the last is open.
/// A log that nobody led yet has none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LogChain {
    segments: Vec<Segment>,
    salvage: Option<Salvage>,
    salvaged: Vec<Salvaged>,
}

impl LogChain {
    /// Its segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The open one.
    pub fn last(&self) -> Option<&Segment> {
        self.segments.last()
    }

    /// The order to go on without lost replicas, while it stands.
    pub fn salvage(&self) -> Option<&Salvage> {
        let salvage = self.salvage.as_ref()?;
        (self.last()?.epoch == salvage.segment).then_some(salvage)
    }

    /// Where records may have been lost, oldest first.
    pub fn salvaged(&self) -> &[Salvaged] {
        &self.salvaged
    }

    /// The chain with an order for its last segment; `None` if that is another one by now.
    #[must_use]
    pub fn with_salvage(&self, salvage: Salvage) -> Option<Self> {
        let mut chain = self.clone();
        (chain.last()?.epoch == salvage.segment).then_some(())?;
        chain.salvage = Some(salvage);
        Some(chain)
    }

    /// The highest epoch; [`Epoch`] 0 when there is none.
    pub fn epoch(&self) -> Epoch {
        self.last().map_or(Epoch(0), Segment::epoch)
    }

    /// The first LSN that the chain still covers.
    pub fn first_lsn(&self) -> Lsn {
        self.segments.first().map_or(Lsn::FIRST, Segment::base)
    }

    /// The segment that holds `lsn`.
    pub fn segment_at(&self, lsn: Lsn) -> Option<&Segment> {
        let behind = self.segments.partition_point(|found| found.base <= lsn);
        self.segments.get(behind.checked_sub(1)?)
    }

    /// The storage that the newest segment with `node` recorded for it.
    pub fn known_storage(&self, node: NodeId) -> Option<StorageId> {
        let mut newest_first = self.segments.iter().rev();
        newest_first.find_map(|segment| segment.storage(node))
    }

    /// The chain after a takeover: the last segment ends where `segment` begins. One that would be empty
    /// is left out, since it holds nothing that anybody could read.
    ///
    /// # Panics
    /// When the epoch does not rise or `segment` begins before the last one does.
    #[must_use]
    pub fn extended(&self, segment: Segment) -> Self {
        let mut segments = self.segments.clone();
        assert!(segment.end.is_none(), "a new segment is open");
        if let Some(last) = segments.last_mut() {
            assert!(last.epoch < segment.epoch, "epochs rise along a chain");
            assert!(last.base <= segment.base, "a commit never goes back");
            if last.base < segment.base {
                last.end = Some(segment.base);
            } else {
                segments.pop();
            }
        }
        segments.push(segment);
        Self {
            segments,
            salvage: None,
            salvaged: self.salvaged.clone(),
        }
    }

    /// The chain after a takeover that went on without the fence quorum and kept what is below `at`. With `anew` no
    /// replica holds what is below the new segment: the log begins with it.
    ///
    /// # Panics
    /// As [`Self::extended`].
    #[must_use]
    pub fn salvaged_with(&self, segment: Segment, at: Lsn, anew: bool) -> Self {
        let mark = Salvaged {
            epoch: segment.epoch,
            at,
        };
        let mut chain = self.extended(segment);
        if anew {
            let front = chain.segments.len() - 1;
            chain.segments.drain(..front);
        }
        chain.salvaged.push(mark);
        chain
    }

    /// The chain with `storage` recorded for `node` in the open segment; `None` when `epoch` does not own
    /// that segment or the node is no replica of it.
    #[must_use]
    pub fn enrolled(&self, epoch: Epoch, node: NodeId, storage: StorageId) -> Option<Self> {
        let mut chain = self.clone();
        let last = chain.segments.last_mut()?;
        if last.epoch != epoch {
            return None;
        }
        let mut members = last.members.iter_mut();
        members.find(|member| member.node == node)?.storage = Some(storage);
        Some(chain)
    }

    /// The chain without the segments that end at or below `trimmed`.
    #[must_use]
    pub fn trimmed(&self, trimmed: Lsn) -> Self {
        let needed = |segment: &&Segment| segment.end.is_none_or(|end| trimmed < end);
        Self {
            segments: self.segments.iter().filter(needed).cloned().collect(),
            salvage: self.salvage.clone(),
            salvaged: self.salvaged.clone(),
        }
    }

    /// Whether a taker that fenced the last segment of `self` may publish upon `newer` as well: only the
    /// trimmed front differs.
    pub fn same_end(&self, newer: &Self) -> bool {
        self.last() == newer.last()
    }

    /// The document of the metadata plane.
    pub fn to_json(&self) -> Vec<u8> {
        let document = ChainDocument {
            segments: self.segments.iter().map(SegmentDocument::from).collect(),
            salvage: self.salvage.as_ref().map(SalvageDocument::from),
            salvaged: self.salvaged.iter().map(SalvagedDocument::from).collect(),
        };
        serde_json::to_vec(&document).expect("numbers and texts always have a JSON form")
    }

    /// Reads the document of the metadata plane.
    pub fn from_json(json: &[u8]) -> Result<Self, ChainError> {
        let document: ChainDocument = serde_json::from_slice(json).map_err(ChainError::Json)?;
        let mut segments: Vec<Segment> = Vec::with_capacity(document.segments.len());
        for segment in document.segments {
            let segment = Segment::try_from(segment)?;
            segment.check()?;
            if let Some(before) = segments.last() {
                let broken = |rule| ChainError::Broken {
                    epoch: segment.epoch,
                    rule,
                };
                if segment.epoch <= before.epoch {
                    return Err(broken("epochs rise along a chain"));
                }
                if before.end != Some(segment.base) {
                    return Err(broken("it begins where the one before it ends"));
                }
            }
            segments.push(segment);
        }
        match segments.last() {
            Some(Segment {
                end: Some(_),
                epoch,
                ..
            }) => Err(ChainError::Broken {
                epoch: *epoch,
                rule: "the last segment is open",
            }),
            _ => Ok(Self {
                segments,
                salvage: document.salvage.map(Salvage::try_from).transpose()?,
                salvaged: document.salvaged.into_iter().map(Salvaged::from).collect(),
            }),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainDocument {
    segments: Vec<SegmentDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salvage: Option<SalvageDocument>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    salvaged: Vec<SalvagedDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SalvageDocument {
    segment: u64,
    lost: Vec<MemberDocument>,
    floor: u64,
}

#[derive(Serialize, Deserialize)]
struct SalvagedDocument {
    epoch: u64,
    at: u64,
}

#[derive(Serialize, Deserialize)]
struct SegmentDocument {
    epoch: u64,
    base: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    replicas: Vec<MemberDocument>,
    write_quorum: usize,
}

#[derive(Serialize, Deserialize)]
struct MemberDocument {
    node: u32,
    /// Hexadecimal: JSON tools round 64-bit numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    storage: Option<String>,
}

impl From<&Member> for MemberDocument {
    fn from(member: &Member) -> Self {
        Self {
            node: member.node.0,
            storage: member.storage.map(|storage| storage.to_string()),
        }
    }
}

impl MemberDocument {
    fn member(self, epoch: Epoch) -> Result<Member, ChainError> {
        let hexadecimal = |text: String| {
            u64::from_str_radix(&text, 16).map_err(|_| ChainError::Broken {
                epoch,
                rule: "storage ids are hexadecimal",
            })
        };
        let storage = self.storage.map(hexadecimal).transpose()?;
        Ok(Member {
            node: NodeId(self.node),
            storage: storage.map(StorageId),
        })
    }
}

impl From<&Salvage> for SalvageDocument {
    fn from(salvage: &Salvage) -> Self {
        let lost = |(node, storage): &(NodeId, StorageId)| MemberDocument {
            node: node.0,
            storage: Some(storage.to_string()),
        };
        Self {
            segment: salvage.segment.0,
            lost: salvage.lost.iter().map(lost).collect(),
            floor: salvage.floor.0,
        }
    }
}

impl TryFrom<SalvageDocument> for Salvage {
    type Error = ChainError;

    fn try_from(document: SalvageDocument) -> Result<Self, ChainError> {
        let segment = Epoch(document.segment);
        let lost = |found: MemberDocument| {
            let member = found.member(segment)?;
            let storage = member.storage.ok_or(ChainError::Broken {
                epoch: segment,
                rule: "lost replicas are known by their storage",
            })?;
            Ok((member.node, storage))
        };
        Ok(Self {
            segment,
            lost: document
                .lost
                .into_iter()
                .map(lost)
                .collect::<Result<_, ChainError>>()?,
            floor: Lsn(document.floor),
        })
    }
}

impl From<&Salvaged> for SalvagedDocument {
    fn from(mark: &Salvaged) -> Self {
        Self {
            epoch: mark.epoch.0,
            at: mark.at.0,
        }
    }
}

impl From<SalvagedDocument> for Salvaged {
    fn from(document: SalvagedDocument) -> Self {
        Self {
            epoch: Epoch(document.epoch),
            at: Lsn(document.at),
        }
    }
}

impl From<&Segment> for SegmentDocument {
    fn from(segment: &Segment) -> Self {
        Self {
            epoch: segment.epoch.0,
            base: segment.base.0,
            end: segment.end.map(|end| end.0),
            replicas: segment.members.iter().map(MemberDocument::from).collect(),
            write_quorum: segment.write_quorum,
        }
    }
}

impl TryFrom<SegmentDocument> for Segment {
    type Error = ChainError;

    fn try_from(document: SegmentDocument) -> Result<Self, ChainError> {
        let epoch = Epoch(document.epoch);
        let members: Result<Vec<Member>, ChainError> = (document.replicas.into_iter())
            .map(|found| found.member(epoch))
            .collect();
        Ok(Self {
            epoch,
            base: Lsn(document.base),
            end: document.end.map(Lsn),
            members: members?,
            write_quorum: document.write_quorum,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn member(node: u32) -> Member {
        Member {
            node: NodeId(node),
            storage: (node != 3).then_some(StorageId(u64::from(node) << 60)),
        }
    }

    fn segment(epoch: u64, base: u64) -> Segment {
        Segment::open(
            Epoch(epoch),
            Lsn(base),
            vec![member(1), member(2), member(3)],
            2,
        )
        .unwrap()
    }

    #[test]
    fn the_document_reads_back() {
        let chain = LogChain::default()
            .extended(segment(1, 1))
            .extended(segment(4, 10));
        expect_test::expect![[r#"{"segments":[{"epoch":1,"base":1,"end":10,"replicas":[{"node":1,"storage":"1000000000000000"},{"node":2,"storage":"2000000000000000"},{"node":3}],"write_quorum":2},{"epoch":4,"base":10,"replicas":[{"node":1,"storage":"1000000000000000"},{"node":2,"storage":"2000000000000000"},{"node":3}],"write_quorum":2}]}"#]]
        .assert_eq(std::str::from_utf8(&chain.to_json()).unwrap());
        assert_eq!(LogChain::from_json(&chain.to_json()).unwrap(), chain);
    }

    #[test]
    fn an_order_to_salvage_stands_for_its_segment_only() {
        let chain = LogChain::default()
            .extended(segment(1, 1))
            .extended(segment(4, 10));
        let order = |segment| Salvage {
            segment: Epoch(segment),
            lost: vec![(NodeId(2), StorageId(2 << 60))],
            floor: Lsn(20),
        };
        assert_eq!(chain.with_salvage(order(1)), None);
        let ordered = chain.with_salvage(order(4)).unwrap();
        assert_eq!(LogChain::from_json(&ordered.to_json()).unwrap(), ordered);
        assert_eq!(ordered.trimmed(Lsn(10)).salvage(), Some(&order(4)));
        assert_eq!(ordered.extended(segment(5, 12)).salvage(), None);

        let begun_anew = ordered.salvaged_with(segment(6, 20), Lsn(20), true);
        expect_test::expect![[r#"{"segments":[{"epoch":6,"base":20,"replicas":[{"node":1,"storage":"1000000000000000"},{"node":2,"storage":"2000000000000000"},{"node":3}],"write_quorum":2}],"salvaged":[{"epoch":6,"at":20}]}"#]]
        .assert_eq(std::str::from_utf8(&begun_anew.to_json()).unwrap());
        assert_eq!(
            LogChain::from_json(&begun_anew.to_json()).unwrap(),
            begun_anew
        );
        let later = begun_anew.extended(segment(7, 30)).trimmed(Lsn(30));
        let mark = Salvaged {
            epoch: Epoch(6),
            at: Lsn(20),
        };
        assert_eq!(later.salvaged(), [mark], "the mark outlives its segment");
    }

    #[test]
    fn lookups_walk_the_segments() {
        let chain = LogChain::default()
            .extended(segment(1, 1))
            .extended(segment(4, 10))
            .extended(segment(5, 10));
        let epochs: Vec<u64> = chain.segments().iter().map(|s| s.epoch().0).collect();
        assert_eq!(epochs, [1, 5], "the empty segment is gone");
        assert_eq!(chain.segment_at(Lsn(9)).unwrap().epoch(), Epoch(1));
        assert_eq!(chain.segment_at(Lsn(10)).unwrap().epoch(), Epoch(5));
        assert_eq!(chain.segment_at(Lsn::ZERO), None);
        assert_eq!(chain.trimmed(Lsn(9)), chain);
        assert_eq!(chain.trimmed(Lsn(10)).first_lsn(), Lsn(10));
        assert_eq!(
            chain.known_storage(NodeId(2)),
            Some(StorageId(0x2000_0000_0000_0000))
        );
        assert_eq!(chain.known_storage(NodeId(3)), None);
        assert!(chain.enrolled(Epoch(1), NodeId(3), StorageId(9)).is_none());
        let enrolled = chain.enrolled(Epoch(5), NodeId(3), StorageId(9)).unwrap();
        assert_eq!(enrolled.last().unwrap().voters(), 3);
    }

    #[test]
    fn broken_documents_say_what_should_hold() {
        let error = |json: &str| {
            LogChain::from_json(json.as_bytes())
                .unwrap_err()
                .to_string()
        };
        let replicas = r#""replicas":[{"node":1},{"node":2}],"write_quorum""#;
        assert_eq!(error("{"), "the log chain is not readable");
        expect_test::expect![[r#"
            the log chain is broken at the segment of e1: its write quorum is at least 1 and at most its number of replicas
            the log chain is broken at the segment of e1: the last segment is open
            the log chain is broken at the segment of e2: it begins where the one before it ends"#]]
        .assert_eq(
            &[
                error(&format!(r#"{{"segments":[{{"epoch":1,"base":1,{replicas}:3}}]}}"#)),
                error(&format!(r#"{{"segments":[{{"epoch":1,"base":1,"end":2,{replicas}:1}}]}}"#)),
                error(&format!(
                    r#"{{"segments":[{{"epoch":1,"base":1,"end":2,{replicas}:1}},{{"epoch":2,"base":3,{replicas}:1}}]}}"#
                )),
            ]
            .join("\n"),
        );
    }
}
