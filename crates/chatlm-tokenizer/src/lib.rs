//! BPE training, encoding and decoding through the tokenizers crate.
