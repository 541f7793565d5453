//! The on-disk format: manifest, hashes, atomic commit, retention, Hugging Face and PEFT folders.
