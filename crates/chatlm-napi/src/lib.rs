//! The Node border.
