//! Tables in and out, streaming, shuffle, batches and the resumable cursor.
