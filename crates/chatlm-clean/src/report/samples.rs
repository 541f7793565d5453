//! A few of the rows that each rule dropped, drawn with a seed: each of them had the same chance.

use chatlm_dataset::Row;
use chatlm_job::{Random, mix};
use serde_json::{Map, Value, json};

use crate::sample::Rule;

/// Samples a rule.
const MOST: usize = 5;
/// Fields of a row that are shown, and characters of each.
const FIELDS: usize = 12;
const CHARACTERS: usize = 200;

/// A reservoir for each rule.
pub(super) struct Samples {
    rules: Vec<Reservoir>,
}

struct Reservoir {
    seen: u64,
    random: Random,
    drawn: Vec<(u64, Value)>,
}

impl Samples {
    pub(super) fn new(rules: usize, seed: u64) -> Self {
        let reservoir = |rule| Reservoir {
            seen: 0,
            random: Random::new(mix(seed, rule)),
            drawn: Vec::new(),
        };
        Self {
            rules: (0..rules as u64).map(reservoir).collect(),
        }
    }

    pub(super) fn add(&mut self, rule: usize, row: &Row) {
        let reservoir = &mut self.rules[rule];
        let place = if reservoir.drawn.len() < MOST {
            reservoir.drawn.len()
        } else {
            reservoir.random.below(reservoir.seen + 1) as usize
        };
        let number = reservoir.seen;
        reservoir.seen += 1;
        if place >= MOST {
            return;
        }
        let told = (number, tell(row));
        match reservoir.drawn.get_mut(place) {
            Some(drawn) => *drawn = told,
            None => reservoir.drawn.push(told),
        }
    }

    pub(super) fn to_json(&self, rules: &[Rule]) -> Vec<Value> {
        let mut told = Vec::new();
        for (rule, reservoir) in rules.iter().zip(&self.rules) {
            let mut drawn: Vec<_> = reservoir.drawn.iter().collect();
            drawn.sort_by_key(|(number, _)| *number);
            for (_, sample) in drawn {
                let mut sample = sample.clone();
                sample["rule"] = rule.name.into();
                told.push(sample);
            }
        }
        told
    }
}

fn tell(row: &Row) -> Value {
    let fields: Map<String, Value> = row
        .fields
        .iter()
        .take(FIELDS)
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => shorten(text),
                other => shorten(&other.to_string()),
            };
            (name.clone(), text.into())
        })
        .collect();
    json!({ "rule": "", "file": &*row.file, "row": row.row, "fields": fields })
}

/// At most [`CHARACTERS`] characters, the last one `…` where some are missing.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        None => text.to_owned(),
        Some(_) => text.chars().take(CHARACTERS - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_the_same_chance_and_the_seed_decides() {
        let draw = |seed: u64| {
            let mut samples = Samples::new(1, seed);
            for row in 0..20 {
                let mut fields = Map::new();
                fields.insert("text".to_owned(), "长".repeat(300).into());
                let file = "f".into();
                samples.add(0, &Row { file, row, fields });
            }
            samples.to_json(&[crate::rules::length::empty_prompt()])
        };
        assert_eq!(draw(1), draw(1));
        let mut hits = [0u32; 20];
        for seed in 0..2000 {
            let drawn = draw(seed);
            let rows: Vec<u64> = drawn.iter().filter_map(|d| d["row"].as_u64()).collect();
            assert!(rows.len() == MOST && rows.is_sorted());
            for row in rows {
                hits[row as usize] += 1;
            }
        }
        // 500 each on average, 19 the standard deviation.
        assert!(hits.iter().all(|hit| (400..600).contains(hit)), "{hits:?}");
        let sample = &draw(7)[0];
        assert_eq!(sample["rule"], "empty-prompt");
        assert_eq!(
            sample["fields"]["text"].as_str().map(|t| t.chars().count()),
            Some(200)
        );
    }
}
