//! How long texts are, in characters: counted one by one below 1024 characters and above in 64 steps
//! for each doubling, so that a fixed table tells quantiles to 1.6 %.

use serde_json::{Value, json};

/// Below this, every length has a place of its own.
const EXACT: usize = 1024;
/// Places for each doubling above.
const STEPS: usize = 64;
const QUANTILES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

pub(super) struct Lengths {
    places: Vec<u64>,
    /// By the histogram's edges.
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    min: usize,
    max: usize,
}

/// Where a length is counted.
fn place(length: usize) -> usize {
    if length < EXACT {
        return length;
    }
    let doublings = (length / EXACT).ilog2() as usize;
    let step = ((length >> doublings) - EXACT) / (EXACT / STEPS);
    EXACT + doublings * STEPS + step
}

/// The smallest length counted at a place.
fn least(place: usize) -> usize {
    if place < EXACT {
        return place;
    }
    let (doublings, step) = ((place - EXACT) / STEPS, (place - EXACT) % STEPS);
    (EXACT + step * (EXACT / STEPS)) << doublings
}

/// More than any length needs.
const EDGES: usize = 57;

/// The histogram's edges: 0, 1, 2, 5, 10, 20, 50, …
fn edge(number: usize) -> usize {
    match number.checked_sub(1) {
        None => 0,
        Some(power) => [1, 2, 5][power % 3] * 10usize.pow((power / 3) as u32),
    }
}

impl Lengths {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            buckets: Vec::new(),
            count: 0,
            sum: 0,
            min: usize::MAX,
            max: 0,
        }
    }

    pub(super) fn add(&mut self, length: usize) {
        count(&mut self.places, place(length));
        let after = (1..=EDGES).find(|number| edge(*number) > length);
        count(&mut self.buckets, after.unwrap_or(EDGES) - 1);
        self.count += 1;
        self.sum += length as u64;
        self.min = self.min.min(length);
        self.max = self.max.max(length);
    }

    /// The smallest length that at least this share of the texts does not exceed.
    fn quantile(&self, share: f64) -> usize {
        let rank = ((share * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.places.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(self.max, least).max(self.min)
    }

    pub(super) fn to_json(&self) -> Value {
        if self.count == 0 {
            return json!({
                "count": 0, "min": null, "max": null, "mean": null,
                "quantiles": [], "histogram": [],
            });
        }
        let quantile = |q: &f64| json!({ "q": q, "value": self.quantile(*q) });
        let first = self.buckets.iter().position(|count| *count > 0);
        let buckets = self.buckets.iter().enumerate().skip(first.unwrap_or(0));
        let bucket = |(number, count): (usize, &u64)| json!({ "from": edge(number), "to": edge(number + 1), "count": count });
        json!({
            "count": self.count,
            "min": self.min,
            "max": self.max,
            "mean": self.sum as f64 / self.count as f64,
            "quantiles": QUANTILES.iter().map(quantile).collect::<Vec<_>>(),
            "histogram": buckets.map(bucket).collect::<Vec<_>>(),
        })
    }
}

fn count(table: &mut Vec<u64>, place: usize) {
    if table.len() <= place {
        table.resize(place + 1, 0);
    }
    table[place] += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_near_and_in_order() {
        for length in (0..5000).chain((5000..40_000_000).step_by(7777)) {
            let least = least(place(length));
            assert!(least <= length && length - least <= length * 16 / 1000);
            assert!(length < EXACT || place(length + 1) - place(length) <= 1);
            assert!(length >= EXACT || least == length);
        }
    }

    #[test]
    fn quantiles_and_buckets_of_the_first_thousand_are_exact() {
        let mut lengths = Lengths::new();
        (1..=1000).for_each(|length| lengths.add(length));
        let value = lengths.to_json();
        let quantiles = value["quantiles"].as_array().map_or(&[][..], Vec::as_slice);
        let values: Vec<_> = quantiles.iter().map(|q| q["value"].as_u64()).collect();
        assert_eq!(values, [10, 50, 250, 500, 750, 950, 990].map(Some));
        assert_eq!(value["mean"], 500.5);
        assert_eq!(
            value["histogram"][0],
            json!({ "from": 1, "to": 2, "count": 1 })
        );
        assert_eq!(
            value["histogram"][9],
            json!({ "from": 1000, "to": 2000, "count": 1 })
        );
        assert!(Lengths::new().to_json()["min"].is_null());
    }
}
