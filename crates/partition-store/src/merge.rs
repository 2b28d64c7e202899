//! Walks RocksDB and the overlays above it as one.

use std::ops::ControlFlow;

use bytes::Bytes;
use rocksdb::{DBAccess, DBRawIteratorWithThreadMode};

use crate::overlay::Overlay;

/// Shows `visit` the rows in `[from, to)` in order, the first of `overlays` that has a row deciding, until it
/// breaks off. `base` is bounded by the caller; `None` has no rows.
pub(crate) fn scan<D: DBAccess>(
    overlays: &[&Overlay],
    base: Option<DBRawIteratorWithThreadMode<'_, D>>,
    from: &[u8],
    to: &[u8],
    visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
) -> Result<(), rocksdb::Error> {
    let mut layers: Vec<_> = overlays
        .iter()
        .map(|overlay| overlay.range(from, to).peekable())
        .collect();
    let mut base = base;
    if let Some(base) = &mut base {
        base.seek(from);
    }
    loop {
        let base_key = base.as_ref().and_then(|base| base.key());
        let least = layers
            .iter_mut()
            .filter_map(|layer| layer.peek().map(|(key, _)| *key))
            .min();
        let in_base = match (least, base_key) {
            (None, None) => break,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(least), Some(base_key)) if base_key < &least[..] => true,
            (Some(_), Some(_)) => false,
        };
        if in_base {
            let (Some(base), Some(key)) = (&base, base_key) else {
                break;
            };
            let value = Bytes::copy_from_slice(base.value().unwrap_or_default());
            if visit(key, &value).is_break() {
                return Ok(());
            }
        } else if let Some(least) = least {
            let mut newest = None;
            for layer in &mut layers {
                if let Some((_, row)) = layer.next_if(|(key, _)| *key == least) {
                    newest = newest.or(Some(row));
                }
            }
            if let Some(value) = newest.and_then(|row| row.value.as_ref())
                && visit(least, value).is_break()
            {
                return Ok(());
            }
            if base_key != Some(&least[..]) {
                continue;
            }
        }
        if let Some(base) = &mut base {
            base.next();
        }
    }
    // An iterator that ran into a damaged block is invalid like one at its end.
    base.map_or(Ok(()), |base| base.status())
}
