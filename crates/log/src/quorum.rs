//! How many are enough.

use abide_types::Lsn;

/// Answers to a fence that meet every write quorum: with *N* voters and write quorum *R*, *N−R+1* of them.
pub fn fence_quorum(voters: usize, write_quorum: usize) -> usize {
    assert!(0 < write_quorum, "a write quorum has members");
    (voters + 1).saturating_sub(write_quorum).max(1)
}

/// The tail below which a write quorum holds every record: the `write_quorum`-th highest of `tails`, or
/// nothing when there are fewer. Sorts `tails`.
pub fn quorum_tail(tails: &mut [Lsn], write_quorum: usize) -> Option<Lsn> {
    assert!(0 < write_quorum, "a write quorum has members");
    tails.sort_unstable_by(|a, b| b.cmp(a));
    tails.get(write_quorum - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fence_quorum_meets_every_write_quorum() {
        for voters in 1..8 {
            for write_quorum in 1..=voters {
                assert_eq!(
                    fence_quorum(voters, write_quorum) + write_quorum,
                    voters + 1
                );
            }
        }
    }

    #[test]
    fn the_commit_is_the_rth_highest_tail() {
        let tails = |tails: &[u64], write_quorum| {
            let mut tails: Vec<Lsn> = tails.iter().copied().map(Lsn).collect();
            quorum_tail(&mut tails, write_quorum)
        };
        assert_eq!(tails(&[3, 9, 5], 1), Some(Lsn(9)));
        assert_eq!(tails(&[3, 9, 5], 2), Some(Lsn(5)));
        assert_eq!(tails(&[3, 9, 5], 3), Some(Lsn(3)));
        assert_eq!(tails(&[3], 2), None);
    }
}
