//! The addon's allocator: mimalloc that never gives pages back, since fresh pages cost more than
//! the arithmetic on them (ARCHITECTURE.md has the figures).

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mi_option_e`, which the bindings do not name.
const PURGE_DELAY: i32 = 15;

/// Runs when Node loads the addon, before any large allocation.
#[napi_derive::module_init]
fn keep_pages() {
    #[expect(
        unsafe_code,
        reason = "mimalloc's options are set through its C interface"
    )]
    // SAFETY: sets an option of the allocator; a plain store, valid at any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
}

/// Whether large pages may back new memory: they make training faster, and answers larger by tens of
/// megabytes of room that nothing uses. Of the whole process; the last word counts.
pub(crate) fn large_pages(allowed: bool) {
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "a process setting")]
        // SAFETY: a system call on numbers; where it is refused, nothing changes.
        unsafe {
            libc::prctl(
                libc::PR_SET_THP_DISABLE,
                libc::c_ulong::from(!allowed),
                0,
                0,
                0,
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = allowed;
}
