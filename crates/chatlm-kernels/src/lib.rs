//! Operators with backward for candle, each beside its plain candle twin.
