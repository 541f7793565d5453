//! Joins data and model: training runs and generation sessions on threads of their own.
