//! Attention in f64, as its definition says.

/// One call over rows laid end to end.
pub struct Plain<'a> {
    pub heads: usize,
    pub width: usize,
    pub causal: bool,
    pub queries: &'a [u32],
    pub keys: &'a [u32],
    /// (heads, 2 · longest − 1), or none.
    pub bias: &'a [f64],
    pub longest: usize,
    /// The mask of (row, head, query, key).
    pub mask: &'a dyn Fn(usize, usize, usize, usize) -> f64,
}

pub struct Gradients {
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    pub bias: Vec<f64>,
}

impl Plain<'_> {
    fn inner(&self) -> usize {
        self.heads * self.width
    }

    pub fn places(&self) -> usize {
        self.queries.last().copied().unwrap_or(0) as usize
    }

    fn distance(&self, head: usize, query: usize, key: usize) -> usize {
        head * (2 * self.longest - 1) + key + self.longest - 1 - query
    }

    /// Calls `each(row, head, query, places of the visible keys, of the query)`.
    fn lines(&self, mut each: impl FnMut(usize, usize, usize, Vec<usize>, usize)) {
        for row in 0..self.queries.len() - 1 {
            let (first, count) = (
                self.queries[row] as usize,
                (self.queries[row + 1] - self.queries[row]) as usize,
            );
            let keys = (self.keys[row + 1] - self.keys[row]) as usize;
            for head in 0..self.heads {
                for query in 0..count {
                    let seen = if self.causal {
                        (query + 1).min(keys)
                    } else {
                        keys
                    };
                    each(row, head, query, (0..seen).collect(), first + query);
                }
            }
        }
    }

    fn dot(&self, a: &[f64], b: &[f64], at: usize, other: usize, head: usize) -> f64 {
        let from = |place: usize| place * self.inner() + head * self.width;
        let (a, b) = (
            &a[from(at)..][..self.width],
            &b[from(other)..][..self.width],
        );
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// The probabilities of a query's keys and the log of their sum.
    fn softmax(
        &self,
        q: &[f64],
        k: &[f64],
        row: usize,
        head: usize,
        query: usize,
        seen: &[usize],
    ) -> (Vec<f64>, f64) {
        let (first, first_key) = (self.queries[row] as usize, self.keys[row] as usize);
        let scores: Vec<f64> = seen
            .iter()
            .map(|&key| {
                let bias = if self.bias.is_empty() {
                    0.0
                } else {
                    self.bias[self.distance(head, query, key)]
                };
                self.dot(q, k, first + query, first_key + key, head) + bias
            })
            .collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        (
            scores.iter().map(|s| (s - top).exp() / total).collect(),
            top + total.ln(),
        )
    }

    /// The output, and the norms (heads, places).
    pub fn forward(&self, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut out = vec![0.0; q.len()];
        let mut norms = vec![f64::NEG_INFINITY; self.heads * self.places()];
        self.lines(|row, head, query, seen, place| {
            if seen.is_empty() {
                return;
            }
            let (p, norm) = self.softmax(q, k, row, head, query, &seen);
            norms[head * self.places() + place] = norm;
            for &key in &seen {
                let p = p[key] * (self.mask)(row, head, query, key);
                let from = (self.keys[row] as usize + key) * self.inner() + head * self.width;
                for column in 0..self.width {
                    out[place * self.inner() + head * self.width + column] += p * v[from + column];
                }
            }
        });
        (out, norms)
    }

    /// Of `Σ g · out`.
    pub fn backward(&self, q: &[f64], k: &[f64], v: &[f64], g: &[f64]) -> Gradients {
        let mut to = Gradients {
            q: vec![0.0; q.len()],
            k: vec![0.0; k.len()],
            v: vec![0.0; v.len()],
            bias: vec![0.0; self.bias.len()],
        };
        self.lines(|row, head, query, seen, place| {
            if seen.is_empty() {
                return;
            }
            let (p, _) = self.softmax(q, k, row, head, query, &seen);
            let key_place = |key: usize| self.keys[row] as usize + key;
            let mask = |key: usize| (self.mask)(row, head, query, key);
            let slopes: Vec<f64> = seen
                .iter()
                .map(|&key| self.dot(g, v, place, key_place(key), head) * mask(key))
                .collect();
            let mean: f64 = p.iter().zip(&slopes).map(|(p, s)| p * s).sum();
            let own = place * self.inner() + head * self.width;
            for &key in &seen {
                let ds = p[key] * (slopes[key] - mean);
                let other = key_place(key) * self.inner() + head * self.width;
                for c in 0..self.width {
                    to.q[own + c] += ds * k[other + c];
                    to.k[other + c] += ds * q[own + c];
                    to.v[other + c] += p[key] * mask(key) * g[own + c];
                }
                if !self.bias.is_empty() {
                    to.bias[self.distance(head, query, key)] += ds;
                }
            }
        });
        to
    }
}
