//! The T5 encoder-decoder on candle tensors with Hugging Face names.
