//! What the store itself keeps beside the rows. Durable: golden bytes in the test.

use abide_types::{Epoch, Lsn};

/// The table that is the store's own; all others are its user's.
pub(crate) const OWN_TABLE: u8 = 0;
/// The first key of the user's tables.
pub(crate) const ROWS_START: &[u8] = &[OWN_TABLE + 1];
/// Key of the only row of the store's own table: `format(1) applied-lsn(8)`, and behind it `history(8)` if that is not
/// zero; big endian.
pub(crate) const APPLIED_KEY: &[u8] = &[OWN_TABLE];

/// Format of the rows of a partition that this version writes and knows.
pub(crate) const FORMAT: u8 = 1;

pub(crate) fn encode_applied(applied: Lsn, history: Epoch) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend_from_slice(&applied.0.to_be_bytes());
    if history != Epoch(0) {
        value.extend_from_slice(&history.0.to_be_bytes());
    }
    value
}

/// The applied LSN and the history, or the format that is not known.
pub(crate) fn decode_applied(value: &[u8]) -> Result<(Lsn, Epoch), u8> {
    match value.split_first() {
        Some((&FORMAT, rest)) => {
            let (lsn, history) = rest.split_first_chunk().ok_or(FORMAT)?;
            let history = match history {
                [] => 0,
                history => u64::from_be_bytes(history.try_into().map_err(|_| FORMAT)?),
            };
            Ok((Lsn(u64::from_be_bytes(*lsn)), Epoch(history)))
        }
        Some((&format, _)) => Err(format),
        None => Err(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_pinned() {
        let lsn = Lsn(0x0102_0304_0506_0708);
        let value = encode_applied(lsn, Epoch(0));
        assert_eq!(value, [1, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(decode_applied(&value), Ok((lsn, Epoch(0))));
        let value = encode_applied(lsn, Epoch(9));
        assert_eq!(value, [1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(decode_applied(&value), Ok((lsn, Epoch(9))));
        assert_eq!(decode_applied(&value[..12]), Err(1));
        assert_eq!(decode_applied(&[2, 0]), Err(2));
        assert_eq!(decode_applied(&[1, 0]), Err(1));
        assert_eq!(decode_applied(&[]), Err(0));
    }
}
