//! Near-duplicates: shingles, MinHash, LSH, verified Jaccard similarity, clusters.
