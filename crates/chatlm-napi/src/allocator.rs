//! The addon's allocator: mimalloc that, while a model trains, never gives pages back, since fresh pages
//! cost more than the arithmetic on them (ARCHITECTURE.md has the figures).

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mi_option_e`, which the bindings do not name.
const PURGE_DELAY: i32 = 15;

/// Milliseconds after which free pages go back while answers are written.
const SOON: std::ffi::c_long = 100;

/// Runs when Node loads the addon, before any large allocation.
#[napi_derive::module_init]
fn keep_pages() {
    purge_delay(-1);
}

/// -1: never.
fn purge_delay(milliseconds: std::ffi::c_long) {
    #[expect(
        unsafe_code,
        reason = "mimalloc's options are set through its C interface"
    )]
    // SAFETY: sets an option of the allocator; a plain store, valid at any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds);
    }
}

/// What the process is about to do. Training wants speed: large pages, none given back. Answers want
/// little memory: small pages, given back once they are free. The last word counts for the whole
/// process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Training,
    Answers,
}

pub(crate) fn prepare_for(work: Work) {
    let training = work == Work::Training;
    purge_delay(if training { -1 } else { SOON });
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "a process setting")]
        // SAFETY: a system call on numbers; where it is refused, nothing changes.
        unsafe {
            let disabled = std::ffi::c_ulong::from(!training);
            libc::prctl(libc::PR_SET_THP_DISABLE, disabled, 0, 0, 0);
        }
    }
}
