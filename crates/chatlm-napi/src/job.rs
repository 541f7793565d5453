//! Cancelling and progress, given to every long call.

use chatlm_job::{Cancel, Job, Reporter};
use napi::bindgen_prelude::{FromNapiRef, FromNapiValue, TypeName, ValidateNapiValue};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Status, ValueType};
use napi_derive::napi;

/// Asks running calls to save and stop; one token may be given to several calls.
#[napi]
#[derive(Default)]
pub struct CancelToken {
    pub(crate) cancel: Cancel,
}

#[napi]
impl CancelToken {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag. The call rejects with `CANCELLED` at the next row group, batch or step.
    #[napi]
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    #[napi(getter)]
    pub fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// A cancel token as an argument: what it shares with the token may go to another thread.
pub struct CancelHandle(Cancel);

impl TypeName for CancelHandle {
    fn type_name() -> &'static str {
        "CancelToken"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl ValidateNapiValue for CancelHandle {}

impl FromNapiValue for CancelHandle {
    #[expect(unsafe_code, reason = "the trait's signature")]
    unsafe fn from_napi_value(
        env: napi::sys::napi_env,
        value: napi::sys::napi_value,
    ) -> napi::Result<Self> {
        // SAFETY: env and value are passed on as napi gave them; the reference ends here.
        let token = unsafe { CancelToken::from_napi_ref(env, value)? };
        Ok(Self(token.cancel.clone()))
    }
}

/// How far a call is; told at most ten times a second.
#[napi(object)]
pub struct Progress {
    /// What is being done, such as `read`, `verify`, `generate`.
    pub stage: String,
    pub done: f64,
    /// Missing where the end is not known.
    pub total: Option<f64>,
    /// What is counted, such as `rows`.
    pub unit: String,
}

/// A callback that never throws into Rust and does not keep Node alive.
pub type OnProgress = ThreadsafeFunction<Progress, (), Progress, Status, false, true>;

pub(crate) fn job(on_progress: Option<OnProgress>, cancel: Option<CancelHandle>) -> Job {
    let cancel = cancel.map(|handle| handle.0).unwrap_or_default();
    let progress = on_progress.map_or_else(Reporter::silent, |callback| {
        Reporter::new(move |p| {
            let progress = Progress {
                stage: p.stage,
                done: p.done as f64,
                total: p.total.map(|n| n as f64),
                unit: p.unit,
            };
            // A full or closed queue loses a progress report, nothing else.
            let _ = callback.call(progress, ThreadsafeFunctionCallMode::NonBlocking);
        })
    });
    Job { cancel, progress }
}
