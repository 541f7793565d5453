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
