//! Who comes next: clients take turns, each in the order of its own requests.

use std::collections::{HashMap, VecDeque};

use super::Waiting;

#[derive(Default)]
pub(crate) struct Queue {
    of: HashMap<String, VecDeque<Waiting>>,
    /// Clients with requests, the next first.
    turns: VecDeque<String>,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(crate) fn push(&mut self, waiting: Waiting) {
        let own = self.of.entry(waiting.client.clone()).or_default();
        if own.is_empty() {
            self.turns.push_back(waiting.client.clone());
        }
        own.push_back(waiting);
    }

    /// The request whose turn it is, if it fits; nobody overtakes one that does not, so that it comes
    /// to its turn.
    pub(crate) fn pop_if(&mut self, fits: impl FnOnce(&Waiting) -> bool) -> Option<Waiting> {
        let client = self.turns.front()?;
        let own = self.of.get_mut(client)?;
        if !own.front().is_some_and(fits) {
            return None;
        }
        let found = own.pop_front();
        let empty = own.is_empty();
        if let Some(client) = self.turns.pop_front() {
            if empty {
                self.of.remove(&client);
            } else {
                self.turns.push_back(client);
            }
        }
        found
    }

    /// Takes out whatever need not wait any longer.
    pub(crate) fn take_where(&mut self, mut gone: impl FnMut(&Waiting) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for own in self.of.values_mut() {
            for _ in 0..own.len() {
                if let Some(waiting) = own.pop_front() {
                    if gone(&waiting) {
                        taken.push(waiting);
                    } else {
                        own.push_back(waiting);
                    }
                }
            }
        }
        self.of.retain(|_, own| !own.is_empty());
        self.turns.retain(|client| self.of.contains_key(client));
        taken
    }
}
