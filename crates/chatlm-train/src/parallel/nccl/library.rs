//! The functions of NCCL that are called, found in `libnccl.so.2` when they are needed: neither the build nor
//! the addon's loading needs the library. Types and numbers are those of nccl.h in NCCL 2.32.
#![expect(unsafe_code, reason = "functions of a C library")]

use std::ffi::{CStr, c_char, c_int, c_void};

/// What a call needs that has gone well.
const SUCCESS: c_int = 0;
const FLOAT32: c_int = 7;
const SUM: c_int = 0;
/// `NCCL_UNIQUE_ID_BYTES`.
pub(super) const ID_BYTES: usize = 128;

/// What the library is called; the loader looks where the addon and the system say.
pub(super) const NAME: &str = "libnccl.so.2";

/// `ncclUniqueId`, which is handed over by value.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Id(pub(super) [u8; ID_BYTES]);

/// `ncclComm_t`.
pub(super) type Comm = *mut c_void;

/// A place in a device's memory, and the stream whose work is to be waited for.
pub(super) type Address = *mut c_void;

pub(super) type GetUniqueId = unsafe extern "C" fn(*mut Id) -> c_int;
pub(super) type CommInitRank = unsafe extern "C" fn(*mut Comm, c_int, Id, c_int) -> c_int;
pub(super) type CommAbort = unsafe extern "C" fn(Comm) -> c_int;
pub(super) type Group = unsafe extern "C" fn() -> c_int;
pub(super) type Reduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    c_int,
    Comm,
    Address,
) -> c_int;
pub(super) type Broadcast =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Address) -> c_int;
pub(super) type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// The functions by address; whoever makes one says that they are NCCL's, or act as NCCL's do.
pub(super) struct Functions {
    pub(super) get_unique_id: GetUniqueId,
    pub(super) comm_init_rank: CommInitRank,
    pub(super) comm_abort: CommAbort,
    pub(super) group_start: Group,
    pub(super) group_end: Group,
    pub(super) reduce: Reduce,
    pub(super) broadcast: Broadcast,
    pub(super) get_error_string: GetErrorString,
}

impl Functions {
    /// Loads the library, which stays loaded: its threads may outlive every communicator.
    pub(super) fn load(name: &str) -> Result<Self, String> {
        // SAFETY: NCCL's library runs no code of its own when it is loaded but the C++ constructors that
        // every program with NCCL runs.
        let library = unsafe { libloading::Library::new(name) }.map_err(|error| told(&error))?;
        let library = Box::leak(Box::new(library));
        macro_rules! function {
            ($symbol:literal, $type:ty) => {
                // SAFETY: the type is that of nccl.h for the function of this name.
                *unsafe { library.get::<$type>($symbol) }.map_err(|error| told(&error))?
            };
        }
        Ok(Self {
            get_unique_id: function!("ncclGetUniqueId", GetUniqueId),
            comm_init_rank: function!("ncclCommInitRank", CommInitRank),
            comm_abort: function!("ncclCommAbort", CommAbort),
            group_start: function!("ncclGroupStart", Group),
            group_end: function!("ncclGroupEnd", Group),
            reduce: function!("ncclReduce", Reduce),
            broadcast: function!("ncclBroadcast", Broadcast),
            get_error_string: function!("ncclGetErrorString", GetErrorString),
        })
    }

    /// A new name for a group of workers.
    pub(super) fn unique_id(&self) -> Result<Id, String> {
        let mut id = Id([0; ID_BYTES]);
        // SAFETY: the library writes an id into what is one.
        self.check("ncclGetUniqueId", unsafe {
            (self.get_unique_id)(&raw mut id)
        })?;
        Ok(id)
    }

    /// Joins the group of `id` on the device that is current on this thread. Comes back when all have.
    pub(super) fn join(&self, id: Id, rank: usize, world: usize) -> Result<Comm, String> {
        let mut comm = std::ptr::null_mut();
        // SAFETY: the library writes a communicator into a place for one.
        let status =
            unsafe { (self.comm_init_rank)(&raw mut comm, world as c_int, id, rank as c_int) };
        self.check("ncclCommInitRank", status)?;
        Ok(comm)
    }

    /// Gives a communicator back, whatever it is doing.
    ///
    /// # Safety
    /// `comm` is of [`Self::join`], and nothing uses it any more.
    pub(super) unsafe fn abort(&self, comm: Comm) {
        // SAFETY: as above. Nobody can do anything about what it answers.
        let _ = unsafe { (self.comm_abort)(comm) };
    }

    /// What `calls` asks for becomes one piece of work for the device.
    pub(super) fn group(&self, calls: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        // SAFETY: no arguments; every start has its end.
        self.check("ncclGroupStart", unsafe { (self.group_start)() })?;
        let called = calls();
        // SAFETY: as above.
        let ended = self.check("ncclGroupEnd", unsafe { (self.group_end)() });
        called.and(ended)
    }

    /// Sums everybody's `count` values of f32 at `at` into those of worker `root`; the others' stay.
    ///
    /// # Safety
    /// `comm` is of [`Self::join`]; at `at` are `count` values on its device, which nothing but work
    /// ordered behind `stream` touches until that work is done. All workers make the same calls in the
    /// same order.
    pub(super) unsafe fn reduce(
        &self,
        comm: Comm,
        (at, count): (Address, usize),
        root: usize,
        stream: Address,
    ) -> Result<(), String> {
        // SAFETY: as above; in place, as nccl.h allows where both addresses are the same.
        let status =
            unsafe { (self.reduce)(at, at, count, FLOAT32, SUM, root as c_int, comm, stream) };
        self.check("ncclReduce", status)
    }

    /// Gives everybody the `count` values of f32 that worker `root` has at `at`.
    ///
    /// # Safety
    /// As of [`Self::reduce`].
    pub(super) unsafe fn broadcast(
        &self,
        comm: Comm,
        (at, count): (Address, usize),
        root: usize,
        stream: Address,
    ) -> Result<(), String> {
        // SAFETY: as above; in place, as nccl.h allows.
        let status =
            unsafe { (self.broadcast)(at, at, count, FLOAT32, root as c_int, comm, stream) };
        self.check("ncclBroadcast", status)
    }

    fn check(&self, what: &str, status: c_int) -> Result<(), String> {
        if status == SUCCESS {
            return Ok(());
        }
        // SAFETY: the library answers a text of its own that stays.
        let text = unsafe {
            let text = (self.get_error_string)(status);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
        };
        Err(format!("{what}: {}", text.unwrap_or_default()))
    }
}

/// What the loader says, which names the file.
fn told(error: &libloading::Error) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
