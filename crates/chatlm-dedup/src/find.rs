//! Which rows fall: candidates from the index, exact sets decide, connected groups.
//!
//! A row falls when some earlier row, kept or not, is similar. Every verified pair counts for the
//! groups, but a pair whose documents are in one group already need not be compared, except to find
//! the earliest similar row.

use std::sync::atomic::{AtomicU64, Ordering};

use chatlm_job::{Job, Result};
use rayon::prelude::*;

use crate::corpus::Corpus;
use crate::groups::Groups;
use crate::index::Index;
use crate::text::{Shingle, jaccard, jaccard_bound};

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Verdict {
    /// The earliest earlier row that is similar, and how similar it is.
    pub(crate) similar: Option<(u64, f64)>,
    /// The similarity with the first similar row of the other set.
    pub(crate) contaminated: Option<f64>,
    /// The smallest row of the connected group, the row itself where it is alone.
    pub(crate) cluster: u64,
}

impl Verdict {
    pub(crate) fn keeps(&self) -> bool {
        self.similar.is_none() && self.contaminated.is_none()
    }
}

/// What became of one document, compared with documents alone.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    similar: Option<(u32, f64)>,
    contaminated: Option<f64>,
}

/// Judges every row of the corpus.
pub(crate) fn find(corpus: &Corpus, threshold: f64, job: &Job) -> Result<Vec<Verdict>> {
    let bands = corpus.bands();
    let index = Index::build(corpus.keys(), bands, |done| {
        job.progress
            .report("index", done as u64, Some(bands as u64), "bands");
    });
    job.cancel.check()?;

    let search = Search {
        corpus,
        index: &index,
        threshold,
    };
    let found = search.each("compare", job, |document| search.first_similar(document))?;
    let mut groups = Groups::new(corpus.documents() as usize);
    let own = corpus.own();
    for (document, found) in (own..).zip(&found) {
        if let Some((other, _)) = found.similar {
            groups.join(document, other);
        }
    }
    groups.flatten();
    let links = search.each("group", job, |document| {
        let after = found[(document - own) as usize]
            .similar
            .map(|(other, _)| other);
        after.map_or_else(Vec::new, |after| {
            search.other_groups(document, after, &groups)
        })
    })?;
    for (document, others) in (own..).zip(&links) {
        for &other in others {
            groups.join(document, other);
        }
    }
    groups.flatten();
    Ok(verdicts(corpus, &found, &groups))
}

/// From documents back to rows: a repeated text is similar to its first row, or to what that was.
fn verdicts(corpus: &Corpus, found: &[Found], groups: &Groups) -> Vec<Verdict> {
    let own = corpus.own();
    let mut first_rows: Vec<u64> = Vec::with_capacity(found.len());
    let mut verdicts = Vec::with_capacity(corpus.rows().len());
    for (&document, row) in corpus.rows().iter().zip(0u64..) {
        let place = (document - own) as usize;
        let Found {
            similar,
            contaminated,
        } = found[place];
        let repeated = place < first_rows.len();
        if !repeated {
            first_rows.push(row);
        }
        let similar = similar
            .map(|(other, similarity)| (first_rows[(other - own) as usize], similarity))
            .or_else(|| repeated.then(|| (first_rows[place], 1.0)));
        let cluster = first_rows[(groups.smallest(document) - own) as usize];
        verdicts.push(Verdict {
            similar,
            contaminated,
            cluster,
        });
    }
    verdicts
}

struct Search<'a> {
    corpus: &'a Corpus,
    index: &'a Index,
    threshold: f64,
}

impl Search<'_> {
    /// Runs over the documents to judge on all threads, in order, until cancelled.
    fn each<T: Send + Default>(
        &self,
        stage: &str,
        job: &Job,
        judge: impl Fn(u32) -> T + Sync,
    ) -> Result<Vec<T>> {
        let (own, end) = (self.corpus.own(), self.corpus.documents());
        let done = AtomicU64::new(0);
        let results = (own..end)
            .into_par_iter()
            .map(|document| {
                if job.cancel.is_cancelled() {
                    return T::default();
                }
                let result = judge(document);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                if done.is_multiple_of(1024) || done == u64::from(end - own) {
                    job.progress
                        .report(stage, done, Some(u64::from(end - own)), "texts");
                }
                result
            })
            .collect();
        job.cancel.check()?;
        Ok(results)
    }

    fn first_similar(&self, document: u32) -> Found {
        let mut set = Lazy::new(self.corpus, document);
        let own = self.corpus.own();
        let contaminated = self
            .index
            .earlier(document, 0)
            .take_while(|&other| other < own)
            .find_map(|other| self.similarity(&mut set, other));
        let similar = self
            .index
            .earlier(document, own)
            .find_map(|other| Some((other, self.similarity(&mut set, other)?)));
        Found {
            similar,
            contaminated,
        }
    }

    /// Similar documents later than `after` that are not known to be in the document's group.
    fn other_groups(&self, document: u32, after: u32, groups: &Groups) -> Vec<u32> {
        let mut set = Lazy::new(self.corpus, document);
        let group = groups.smallest(document);
        let mut seen = Vec::new();
        self.index
            .earlier(document, after + 1)
            .filter(|&other| {
                let theirs = groups.smallest(other);
                if theirs == group || seen.contains(&theirs) {
                    return false;
                }
                let similar = self.similarity(&mut set, other).is_some();
                if similar {
                    seen.push(theirs);
                }
                similar
            })
            .collect()
    }

    /// The similarity, where it reaches the threshold.
    fn similarity(&self, set: &mut Lazy<'_>, other: u32) -> Option<f64> {
        if jaccard_bound(self.corpus.size(set.document), self.corpus.size(other)) < self.threshold {
            return None;
        }
        let similarity = jaccard(set.get(), &self.corpus.shingles(other));
        (similarity >= self.threshold).then_some(similarity)
    }
}

/// The set of a document, made when the first candidate asks for it.
struct Lazy<'a> {
    corpus: &'a Corpus,
    document: u32,
    set: Option<Vec<Shingle>>,
}

impl<'a> Lazy<'a> {
    fn new(corpus: &'a Corpus, document: u32) -> Self {
        Self {
            corpus,
            document,
            set: None,
        }
    }

    fn get(&mut self) -> &[Shingle] {
        self.set
            .get_or_insert_with(|| self.corpus.shingles(self.document))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::minhash::{Bands, MinHash};
    use crate::text::{normalize, shingles};
    use proptest::prelude::*;

    /// The rule of the contract, computed pair by pair.
    fn brute_force(own: &[String], other: &[String], ngram: usize, threshold: f64) -> Vec<Verdict> {
        let sets = |rows: &[String]| -> Vec<Vec<Shingle>> {
            rows.iter()
                .map(|row| shingles(&normalize(row, ""), ngram))
                .collect()
        };
        let (own, other) = (sets(own), sets(other));
        let mut groups = Groups::new(own.len());
        let verdicts: Vec<Verdict> = (0..own.len())
            .map(|i| {
                let similar: Vec<usize> = (0..i)
                    .filter(|&j| jaccard(&own[i], &own[j]) >= threshold)
                    .collect();
                for &j in &similar {
                    groups.join(i as u32, j as u32);
                }
                Verdict {
                    similar: similar
                        .first()
                        .map(|&j| (j as u64, jaccard(&own[i], &own[j]))),
                    contaminated: other
                        .iter()
                        .map(|set| jaccard(&own[i], set))
                        .find(|similarity| *similarity >= threshold),
                    cluster: 0,
                }
            })
            .collect();
        groups.flatten();
        let cluster = |(v, row)| Verdict {
            cluster: u64::from(groups.smallest(row)),
            ..v
        };
        verdicts.into_iter().zip(0u32..).map(cluster).collect()
    }

    fn pairs(rows: &[String]) -> Vec<(&str, &str)> {
        rows.iter().map(|row| (row.as_str(), "")).collect()
    }

    fn judge(own: &[String], other: &[String], ngram: usize, threshold: f64) -> Vec<Verdict> {
        // So many bands of one row that no pair is missed: the rest must be exact.
        let bands = Bands {
            count: 128,
            rows: 1,
        };
        let mut corpus = Corpus::new(ngram, bands.count, MinHash::new(bands));
        corpus.add(&pairs(other)).unwrap();
        corpus.own_rows_follow();
        for piece in own.chunks(7) {
            corpus.add(&pairs(piece)).unwrap();
        }
        find(&corpus, threshold, &Job::quiet()).unwrap()
    }

    /// Rows of one to four clauses from a small pool, so that many are alike and repeat.
    fn rows(most: usize) -> impl Strategy<Value = Vec<String>> {
        const CLAUSES: [&str; 7] = [
            "床前明月光",
            "疑是地上霜",
            "举头望明月",
            "低头思故乡",
            "",
            "月",
            "Ｍoon light",
        ];
        let row = prop::collection::vec(0usize..CLAUSES.len(), 0..5).prop_map(|places| {
            places
                .into_iter()
                .map(|place| CLAUSES[place])
                .collect::<String>()
        });
        prop::collection::vec(row, 0..most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn verdicts_equal_brute_force(
            own in rows(40), other in rows(6), ngram in 1usize..8, threshold in 0.3f64..1.0,
        ) {
            let expected = brute_force(&own, &other, ngram, threshold);
            prop_assert_eq!(judge(&own, &other, ngram, threshold), expected);
        }
    }

    #[test]
    fn a_row_falls_for_an_earlier_row_that_fell_itself() {
        let rows = [
            "一二三四五六七八九十",
            "一二三四五六七八九",
            "一二三四五六七八",
        ]
        .map(str::to_owned);
        let verdicts = judge(&rows, &[], 1, 0.85);
        assert_eq!(
            verdicts
                .iter()
                .map(|v| v.similar.is_some())
                .collect::<Vec<_>>(),
            [false, true, true]
        );
        assert_eq!(
            verdicts[2].similar.unwrap().0,
            1,
            "not similar enough to row 0"
        );
        assert_eq!(verdicts[2].cluster, 0);
    }

    #[test]
    fn a_cancelled_search_says_so() {
        let bands = Bands { count: 4, rows: 1 };
        let corpus = Corpus::new(5, bands.count, MinHash::new(bands));
        let job = Job::quiet();
        job.cancel.cancel();
        assert_eq!(
            find(&corpus, 0.85, &job).unwrap_err().code(),
            chatlm_job::Code::Cancelled
        );
    }
}
