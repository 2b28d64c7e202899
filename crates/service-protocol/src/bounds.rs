//! Keeps small payloads from becoming large messages.
//!
//! An empty header takes two bytes on the wire and fifty in memory, so that a payload within the size limit could
//! still take gigabytes when decoded. Whoever honestly sends more fields than this is not known.

use crate::message_type::MessageType;

/// Fields of one message, and of the failure or key list inside it.
pub(crate) const FIELDS_MAX: usize = 50_000;

/// Says what is wrong with a payload of the given type.
pub(crate) fn check(ty: MessageType, payload: &[u8]) -> Result<(), String> {
    // The member that may hold repeated fields of its own, by type.
    let nested = match ty {
        MessageType::Output | MessageType::ProposeRunCompletion => Some(15),
        MessageType::GetEagerStateKeys => Some(14),
        MessageType::CompletePromise | MessageType::CompleteAwakeable => Some(3),
        MessageType::SendSignal => Some(6),
        _ => None,
    };
    let mut left = FIELDS_MAX;
    let mut fields = payload;
    while let Some(field) = next_field(&mut fields)? {
        spend(&mut left)?;
        if let (Some(mut inner), true) = (field.bytes, Some(field.number) == nested) {
            while next_field(&mut inner)?.is_some() {
                spend(&mut left)?;
            }
        }
    }
    Ok(())
}

fn spend(left: &mut usize) -> Result<(), String> {
    *left = left
        .checked_sub(1)
        .ok_or_else(|| format!("more than {FIELDS_MAX} fields"))?;
    Ok(())
}

struct Field<'a> {
    number: u64,
    /// The content, if it is of the kind that has a length.
    bytes: Option<&'a [u8]>,
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<Field<'a>>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = varint(rest)?;
    let bytes = match tag & 7 {
        0 => {
            varint(rest)?;
            None
        }
        1 => {
            take(rest, 8)?;
            None
        }
        2 => {
            let length = varint(rest)?;
            Some(take(rest, length)?)
        }
        5 => {
            take(rest, 4)?;
            None
        }
        kind => return Err(format!("invalid wire type {kind}")),
    };
    Ok(Some(Field {
        number: tag >> 3,
        bytes,
    }))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], String> {
    let (taken, after) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or("a field is longer than its message")?;
    *rest = after;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    prost::encoding::decode_varint(rest).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_empty_fields_are_refused() {
        let headers = [0x22, 0x00].repeat(FIELDS_MAX + 1);
        assert!(check(MessageType::Call, &headers).is_err());
        assert!(check(MessageType::Call, &headers[2..]).is_ok());
    }

    #[test]
    fn many_empty_fields_inside_a_failure_are_refused() {
        let metadata = [0x1a, 0x00].repeat(FIELDS_MAX);
        let mut payload = vec![0x7a];
        prost::encoding::encode_varint(metadata.len() as u64, &mut payload);
        payload.extend(metadata);
        assert!(check(MessageType::Output, &payload).is_err());
        assert!(check(MessageType::SetState, &payload).is_ok());
    }

    #[test]
    fn large_values_are_no_matter() {
        let mut payload = vec![0x72];
        prost::encoding::encode_varint(1_000_000, &mut payload);
        payload.extend(vec![0; 1_000_000]);
        assert!(check(MessageType::Output, &payload).is_ok());
    }
}
