//! Errors cross the border as one JSON envelope in the message: `{code, message, help, context}`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chatlm_job::{Error, Result};
use chatlm_run::panic_error;
use napi::bindgen_prelude::spawn_blocking;

pub(crate) fn to_napi(error: &Error) -> napi::Error {
    napi::Error::from_reason(error.to_json())
}

/// Runs work off the event loop; a panic becomes an error.
pub(crate) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> napi::Result<R> {
    spawn_blocking(move || catch_unwind(AssertUnwindSafe(work)))
        .await
        .map_err(|e| to_napi(&Error::internal(e)))?
        .unwrap_or_else(|panic| Err(panic_error(&*panic)))
        .map_err(|e| to_napi(&e))
}

/// The same for short synchronous calls.
pub(crate) fn guarded<R>(work: impl FnOnce() -> Result<R>) -> napi::Result<R> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(panic_error(&*panic)))
        .map_err(|e| to_napi(&e))
}

/// Any serializable value as the JSON that napi hands to JavaScript.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(Error::internal)
}
