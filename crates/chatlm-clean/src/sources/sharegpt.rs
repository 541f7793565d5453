//! ShareGPT and what is laid out like it: `conversations`, `conversation` or `messages`, a list of turns
//! as `{from, value}`, `{role, content}` or `{human, assistant}`.
//!
//! The model knows no earlier turns, so a conversation gives its first exchange, or with
//! [`crate::Turns::Each`] every one as a row of its own. What the system says is left out.

use chatlm_dataset::Row;

use super::conversation::{draw, list, listed};
use super::{for_purpose, questions};
use crate::options::CleanOptions;
use crate::rules::{characters, exchange, length, spaces};
use crate::sample::Sample;
use crate::source::{Kind, Recipe};

pub(super) static KIND: Kind = Kind {
    compat: &[],
    turns: true,
    ..questions("sharegpt", recipe)
};

fn recipe(options: &CleanOptions) -> Recipe {
    let rules = vec![
        exchange::no_exchange(),
        characters::characters(),
        spaces::spaces(),
        for_purpose(options.purpose),
        length::empty_prompt(),
        length::empty_answer("empty-response"),
    ];
    let turns = options.turns;
    Recipe {
        draw: Box::new(move |row: &Row, samples: &mut Vec<Sample>| {
            let field = listed(row).unwrap_or("conversations");
            draw(list(row, field)?, turns, samples);
            Ok(())
        }),
        rules,
    }
}
