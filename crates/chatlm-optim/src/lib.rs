//! AdamW, Adafactor, schedules and clipping; all state can be saved.
