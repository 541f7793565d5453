//! The LSH index over numbered documents: for each band the documents of each bucket, ascending, so
//! that the earlier documents of a bucket come lazily and in order.

use rayon::prelude::*;

/// Buckets with one document cannot give a candidate.
const ALONE: u32 = u32::MAX;

/// One band: documents that share their bucket with another, bucket after bucket.
#[derive(Debug)]
struct Band {
    documents: Vec<u32>,
    /// Where the bucket of each document starts in `documents`, or [`ALONE`].
    starts: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Index {
    bands: Vec<Band>,
}

impl Index {
    /// From the band keys of all documents, `keys[document * bands + band]`.
    pub(crate) fn build(keys: &[u64], bands: usize, progress: impl Fn(usize) + Sync) -> Self {
        let done = std::sync::atomic::AtomicUsize::new(0);
        let bands = (0..bands)
            .into_par_iter()
            .map(|band| {
                let built = Band::build(keys.iter().skip(band).step_by(bands).copied());
                progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
                built
            })
            .collect();
        Self { bands }
    }

    /// The documents `first..document` that share a bucket with `document`, each once, ascending.
    pub(crate) fn earlier(&self, document: u32, first: u32) -> Earlier<'_> {
        let lists = self
            .bands
            .iter()
            .filter_map(|band| {
                let start = band.starts[document as usize];
                let mut list = &band.documents[(start != ALONE).then_some(start as usize)?..];
                // The document itself is in its bucket, so this stops inside it.
                while list[0] < first.min(document) {
                    list = &list[1..];
                }
                (list[0] < document).then_some(list)
            })
            .collect();
        Earlier { lists, document }
    }
}

impl Band {
    fn build(keys: impl Iterator<Item = u64>) -> Self {
        let mut sorted: Vec<(u64, u32)> = keys.zip(0..).collect();
        sorted.sort_unstable();
        let mut starts = vec![ALONE; sorted.len()];
        let mut documents = Vec::new();
        for bucket in sorted
            .chunk_by(|a, b| a.0 == b.0)
            .filter(|bucket| bucket.len() > 1)
        {
            let start = documents.len() as u32;
            for &(_, document) in bucket {
                starts[document as usize] = start;
                documents.push(document);
            }
        }
        Self { documents, starts }
    }
}

/// Merges the bands' ascending lists; each holds `document`, where it ends for us.
pub(crate) struct Earlier<'a> {
    lists: Vec<&'a [u32]>,
    document: u32,
}

impl Iterator for Earlier<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let least = self.lists.iter().map(|list| list[0]).min()?;
        let document = self.document;
        self.lists.retain_mut(|list| {
            if list[0] == least {
                *list = &list[1..];
            }
            list[0] < document
        });
        Some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn earlier_documents_come_once_and_in_order(
            keys in prop::collection::vec(0u64..6, 0..90), first in 0u32..8,
        ) {
            let keys = &keys[..keys.len() / 3 * 3];
            let index = Index::build(keys, 3, |_| {});
            let rows: Vec<&[u64]> = keys.chunks_exact(3).collect();
            for (i, row) in rows.iter().enumerate() {
                let expected: Vec<u32> = (first as usize..i)
                    .filter(|&j| (0..3).any(|band| rows[j][band] == row[band]))
                    .map(|j| j as u32)
                    .collect();
                prop_assert_eq!(index.earlier(i as u32, first).collect::<Vec<_>>(), expected);
            }
        }
    }
}
