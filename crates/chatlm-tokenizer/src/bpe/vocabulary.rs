//! Tokens by id and by text.

use std::collections::HashMap;

/// The vocabulary while it grows.
#[derive(Debug, Default, Clone)]
pub(crate) struct Vocabulary {
    ids: HashMap<Box<str>, u32>,
    tokens: Vec<Box<str>>,
    /// Initial symbols that each token was made of.
    lengths: Vec<u32>,
}

impl Vocabulary {
    /// The id of a token, which is new where the text was unknown.
    pub(crate) fn add(&mut self, token: &str, length: u32) -> (u32, bool) {
        if let Some(id) = self.ids.get(token) {
            return (*id, false);
        }
        let id = self.tokens.len() as u32;
        self.tokens.push(token.into());
        self.lengths.push(length);
        self.ids.insert(token.into(), id);
        (id, true)
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn token(&self, id: u32) -> &str {
        &self.tokens[id as usize]
    }

    pub(crate) fn length(&self, id: u32) -> u32 {
        self.lengths[id as usize]
    }

    pub(crate) fn tokens(&self) -> &[Box<str>] {
        &self.tokens
    }
}
