//! A library that acts as NCCL does, on the processor's memory, between threads: what is called in a group
//! is done when the group ends, once everybody is there; who calls something else is told so.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use super::library::{Address, Comm, Functions, ID_BYTES, Id};

const INVALID_USAGE: c_int = 5;

/// One call: an address as a number, values, the root, and whether it sums.
#[derive(Clone, Copy)]
struct Call {
    at: usize,
    count: usize,
    root: c_int,
    sums: bool,
}

/// The workers of one id.
struct Meeting {
    barrier: Barrier,
    calls: Vec<Mutex<Vec<Call>>>,
}

struct Member {
    meeting: Arc<Meeting>,
    rank: usize,
}

static MEETINGS: Mutex<Option<HashMap<[u8; ID_BYTES], Arc<Meeting>>>> = Mutex::new(None);
static IDS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Communicators that this thread has made and not given back.
    pub(super) static LIVING: Cell<usize> = const { Cell::new(0) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static QUEUED: RefCell<Vec<(usize, Call)>> = const { RefCell::new(Vec::new()) };
    /// Groups that this thread has ended, and calls in them.
    pub(super) static WORK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

unsafe extern "C" fn get_unique_id(id: *mut Id) -> c_int {
    let mut bytes = [0; ID_BYTES];
    bytes[..8].copy_from_slice(&IDS.fetch_add(1, Ordering::Relaxed).to_ne_bytes());
    // By value, as a whole, or not at all.
    bytes[ID_BYTES - 1] = 77;
    // SAFETY: the caller gives a place for an id.
    unsafe { *id = Id(bytes) };
    0
}

unsafe extern "C" fn comm_init_rank(comm: *mut Comm, world: c_int, id: Id, rank: c_int) -> c_int {
    if id.0[ID_BYTES - 1] != 77 || rank < 0 || rank >= world {
        return INVALID_USAGE;
    }
    let world = world as usize;
    let mut meetings = MEETINGS.lock().unwrap();
    let meeting = meetings.get_or_insert_default().entry(id.0);
    let meeting = meeting.or_insert_with(|| {
        Arc::new(Meeting {
            barrier: Barrier::new(world),
            calls: (0..world).map(|_| Mutex::default()).collect(),
        })
    });
    let member = Member {
        meeting: meeting.clone(),
        rank: rank as usize,
    };
    LIVING.set(LIVING.get() + 1);
    // SAFETY: the caller gives a place for a communicator.
    unsafe { *comm = Box::into_raw(Box::new(member)).cast() };
    0
}

/// Of a worker whose device does not join.
unsafe extern "C" fn no_init(_: *mut Comm, _: c_int, _: Id, _: c_int) -> c_int {
    INVALID_USAGE
}

unsafe extern "C" fn comm_abort(comm: Comm) -> c_int {
    LIVING.set(LIVING.get() - 1);
    // SAFETY: of `comm_init_rank`, and given back once.
    drop(unsafe { Box::from_raw(comm.cast::<Member>()) });
    0
}

unsafe extern "C" fn group_start() -> c_int {
    DEPTH.set(DEPTH.get() + 1);
    0
}

unsafe extern "C" fn group_end() -> c_int {
    DEPTH.set(DEPTH.get() - 1);
    if DEPTH.get() > 0 {
        return 0;
    }
    let queued = QUEUED.take();
    let (groups, calls) = WORK.get();
    WORK.set((groups + 1, calls + queued.len()));
    let Some(&(comm, _)) = queued.first() else {
        return 0;
    };
    // SAFETY: of `comm_init_rank`, and not given back while it is called.
    let member = unsafe { &*(comm as *const Member) };
    let own: Vec<Call> = queued.into_iter().map(|(_, call)| call).collect();
    *member.meeting.calls[member.rank].lock().unwrap() = own.clone();
    member.meeting.barrier.wait();
    let all: Vec<Vec<Call>> = member
        .meeting
        .calls
        .iter()
        .map(|c| c.lock().unwrap().clone())
        .collect();
    let shape =
        |calls: &[Call]| -> Vec<_> { calls.iter().map(|c| (c.count, c.root, c.sums)).collect() };
    let alike = all.iter().all(|calls| shape(calls) == shape(&own));
    for place in 0..if alike { own.len() } else { 0 } {
        let Call {
            count, root, sums, ..
        } = own[place];
        let values = |rank: usize| all[rank][place].at as *mut f32;
        if sums && root as usize == member.rank {
            for at in 0..count {
                // SAFETY: every worker has said that `count` values are there, and waits.
                let sum = (0..all.len())
                    .map(|rank| unsafe { *values(rank).add(at) })
                    .sum();
                // SAFETY: as above; only the root writes.
                unsafe { *values(member.rank).add(at) = sum };
            }
        } else if !sums && root as usize != member.rank {
            // SAFETY: as above; the root's are only read, and no memory is two workers'.
            unsafe {
                std::ptr::copy_nonoverlapping(values(root as usize), values(member.rank), count);
            };
        }
    }
    member.meeting.barrier.wait();
    if alike { 0 } else { INVALID_USAGE }
}

fn queue(comm: Comm, call: Call) -> c_int {
    if DEPTH.get() == 0 {
        return INVALID_USAGE;
    }
    QUEUED.with_borrow_mut(|queued| queued.push((comm as usize, call)));
    0
}

unsafe extern "C" fn reduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind: c_int,
    operation: c_int,
    root: c_int,
    comm: Comm,
    _stream: Address,
) -> c_int {
    // f32, a sum, in place.
    if kind != 7 || operation != 0 || from != to.cast_const() {
        return INVALID_USAGE;
    }
    queue(
        comm,
        Call {
            at: to as usize,
            count,
            root,
            sums: true,
        },
    )
}

unsafe extern "C" fn broadcast(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind: c_int,
    root: c_int,
    comm: Comm,
    _stream: Address,
) -> c_int {
    if kind != 7 || from != to.cast_const() {
        return INVALID_USAGE;
    }
    queue(
        comm,
        Call {
            at: to as usize,
            count,
            root,
            sums: false,
        },
    )
}

unsafe extern "C" fn get_error_string(_: c_int) -> *const c_char {
    c"invalid usage".as_ptr()
}

/// The stand-in; or one whose device does not join.
pub(super) fn functions(joins: bool) -> Functions {
    Functions {
        get_unique_id,
        comm_init_rank: if joins { comm_init_rank } else { no_init },
        comm_abort,
        group_start,
        group_end,
        reduce,
        broadcast,
        get_error_string,
    }
}
