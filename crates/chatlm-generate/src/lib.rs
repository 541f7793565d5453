//! Greedy and sampled decoding with a key and value cache.
