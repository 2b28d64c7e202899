//! The schema as everybody here reads it, parsed once per change.

use std::sync::Arc;

use abide_metadata::{Metadata, Versioned, View, keys};
use abide_schema::{Defaults, Schema};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Starts to follow the schema document.
pub(crate) fn follow(
    metadata: &Metadata,
    defaults: Defaults,
    stop: CancellationToken,
) -> watch::Receiver<Arc<Schema>> {
    let mut views = metadata.watch();
    let mut version = 0;
    let view = Arc::clone(&views.borrow_and_update());
    let first = newer(&view, &mut version, &defaults);
    let first = first.unwrap_or_else(|| Arc::new(Schema::new([], defaults.clone())));
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            if let Some(schema) = newer(&view, &mut version, &defaults) {
                sender.send_replace(schema);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sender.closed() => return,
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    });
    receiver
}

/// The document if it is another than that of `version`. One that is not understood leaves the last one in use.
fn newer(view: &View, version: &mut u64, defaults: &Defaults) -> Option<Arc<Schema>> {
    let Versioned {
        version: stored,
        value,
    } = view.raw(keys::SCHEMA)?;
    if stored == version {
        return None;
    }
    *version = *stored;
    match Schema::from_json(value, defaults.clone()) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(error) => {
            tracing::error!(version = stored, %error, "a schema that is not understood; the one before it stays in use");
            None
        }
    }
}
