//! Pre-training, fine-tuning, preference tuning, losses and evaluation measures.
