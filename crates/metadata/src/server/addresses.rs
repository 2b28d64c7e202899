//! Where the other servers are, by id. Nodes may come back at another address, so the membership of raft
//! holds none: what counts is the newest that was heard, from the `nodes` document or from the server itself.

use std::collections::BTreeMap;

use abide_types::{Generation, NodeId, Role};
use parking_lot::RwLock;

use crate::documents::Nodes;

/// Addresses with the generation that they are known from.
#[derive(Default)]
pub(crate) struct AddressBook {
    known: RwLock<BTreeMap<NodeId, (Generation, String)>>,
}

impl AddressBook {
    /// The address of a server.
    pub(crate) fn get(&self, node: NodeId) -> Option<String> {
        self.known
            .read()
            .get(&node)
            .map(|(_, address)| address.clone())
    }

    /// Every server that is known.
    pub(crate) fn all(&self) -> Vec<(NodeId, Generation, String)> {
        self.known
            .read()
            .iter()
            .map(|(node, (generation, address))| (*node, *generation, address.clone()))
            .collect()
    }

    /// Notes what a server says of itself, or of another, unless something newer is known. A server is
    /// believed about its own generation even where the document has it with another address: it is the one
    /// that is about to be registered.
    pub(crate) fn learn(&self, node: NodeId, generation: Generation, address: &str) {
        if address.is_empty() {
            return;
        }
        let mut known = self.known.write();
        match known.get(&node) {
            Some((newer, _)) if *newer > generation => {}
            _ => {
                known.insert(node, (generation, address.to_owned()));
            }
        }
    }

    /// Notes what the document says, and forgets servers that are none any more.
    pub(crate) fn update(&self, nodes: &Nodes) {
        for (node, entry) in nodes.with_role(Role::MetadataServer) {
            let known = self.known.read().get(&node).map(|(newer, _)| *newer);
            if known.is_none_or(|known| known < entry.generation) {
                self.learn(node, entry.generation, &entry.address);
            }
        }
        self.known
            .write()
            .retain(|node, _| !nodes.nodes.contains_key(node) || nodes.get(*node).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_address_counts() {
        let book = AddressBook::default();
        book.learn(NodeId(1), Generation(2), "a:1");
        book.learn(NodeId(1), Generation(1), "old:1");
        assert_eq!(book.get(NodeId(1)).as_deref(), Some("a:1"));
        book.learn(NodeId(1), Generation(3), "b:1");
        assert_eq!(book.get(NodeId(1)).as_deref(), Some("b:1"));
    }
}
