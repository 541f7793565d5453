//! Raw corpora to prompt and response rows: one file a source, one file a rule.
