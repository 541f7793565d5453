//! The emulator as a machine, and what the tests compare with.
#![expect(unreachable_pub, reason = "a test's module")]

pub mod attend;

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void};

use chatlm_cuda::{Arg, Call, Element, Machine, Memory};
use half::{bf16, f16};

#[expect(unsafe_code, reason = "the emulator is C++")]
// SAFETY: as emulate/emulate.cpp defines them.
unsafe extern "C" {
    fn emulate_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared: usize,
        arguments: *mut *mut c_void,
        order: u32,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn emulate_names(out: *mut c_char, room: usize);
}

/// The names of the kernels that are compiled in.
pub fn names() -> Vec<String> {
    let mut room = vec![0u8; 1 << 16];
    #[expect(unsafe_code, reason = "the emulator is C++")]
    // SAFETY: it writes at most the room's bytes, the last a 0.
    unsafe {
        emulate_names(room.as_mut_ptr().cast(), room.len());
    }
    text(&room).lines().map(str::to_owned).collect()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Bytes before and behind every piece of memory, which no kernel may touch. As numbers they are NaN.
const GUARD: usize = 256;
const POISON: u8 = 0xff;

struct Piece {
    /// u64 for the alignment.
    words: Vec<u64>,
    bytes: usize,
}

/// The processor as a GPU.
pub struct Emulator {
    /// In which order the threads of a block run between barriers.
    order: u32,
    pieces: RefCell<Vec<Piece>>,
    launches: Cell<usize>,
}

/// Orders that differ as much as they can: all warps in lockstep; the last as far as it goes before the
/// others; the first as far as it goes.
const ORDERS: [u32; 3] = [0, 1, 2];

/// Runs `work` with every order of threads: its results must be the same to the last bit.
pub fn in_every_order(work: impl Fn(&Emulator) -> Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let bits = |all: &[Vec<f32>]| -> Vec<Vec<u32>> {
        all.iter()
            .map(|one| one.iter().map(|x| x.to_bits()).collect())
            .collect()
    };
    let first = work(&Emulator::new(ORDERS[0]));
    for order in &ORDERS[1..] {
        let other = work(&Emulator::new(*order));
        assert!(
            bits(&first) == bits(&other),
            "threads' order {order} changes a result"
        );
    }
    first
}

impl Emulator {
    pub fn new(order: u32) -> Self {
        Self {
            order,
            pieces: RefCell::default(),
            launches: Cell::new(0),
        }
    }

    fn add(&self, bytes: usize, fill: u8) -> Memory {
        let words = (bytes + 2 * GUARD).div_ceil(8);
        let mut piece = Piece {
            words: vec![u64::from_ne_bytes([POISON; 8]); words],
            bytes,
        };
        let address = piece.words.as_mut_ptr() as usize + GUARD;
        slice_of(address, bytes).fill(fill);
        self.pieces.borrow_mut().push(piece);
        #[expect(unsafe_code, reason = "memory of the emulator")]
        // SAFETY: the piece lives as long as the emulator, which runs kernels one after the other.
        unsafe {
            Memory::new(address as u64, bytes as u64)
        }
    }

    /// Memory that holds NaN.
    pub fn room(&self, bytes: u64) -> Memory {
        self.add(bytes as usize, POISON)
    }

    pub fn room_for(&self, element: Element, count: usize) -> Memory {
        self.room(count as u64 * element.bytes())
    }

    /// Values as an element.
    pub fn put(&self, element: Element, values: &[f32]) -> Memory {
        let bytes: Vec<u8> = match element {
            Element::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
            Element::F16 => values
                .iter()
                .flat_map(|&x| f16::from_f32(x).to_ne_bytes())
                .collect(),
            Element::BF16 => values
                .iter()
                .flat_map(|&x| bf16::from_f32(x).to_ne_bytes())
                .collect(),
        };
        let memory = self.add(bytes.len(), 0);
        slice_of(memory.address() as usize, bytes.len()).copy_from_slice(&bytes);
        memory
    }

    pub fn f32(&self, values: &[f32]) -> Memory {
        self.put(Element::F32, values)
    }

    /// What a kernel left there; guards are looked at.
    pub fn bytes(&self, memory: Memory) -> Vec<u8> {
        for piece in self.pieces.borrow().iter() {
            let all = slice_of(piece.words.as_ptr() as usize, piece.words.len() * 8);
            let touched = all[..GUARD]
                .iter()
                .chain(&all[GUARD + piece.bytes..])
                .any(|&b| b != POISON);
            assert!(
                !touched,
                "a kernel wrote beside a piece of {} bytes",
                piece.bytes
            );
        }
        slice_of(memory.address() as usize, memory.bytes() as usize).to_vec()
    }

    pub fn get(&self, element: Element, memory: Memory) -> Vec<f32> {
        let bytes = self.bytes(memory);
        match element {
            Element::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f32::from_ne_bytes(b))
                .collect(),
            Element::F16 => {
                let values = bytes.as_chunks().0.iter();
                values.map(|&b| f16::from_ne_bytes(b).to_f32()).collect()
            }
            Element::BF16 => {
                let values = bytes.as_chunks().0.iter();
                values.map(|&b| bf16::from_ne_bytes(b).to_f32()).collect()
            }
        }
    }

    pub fn get_f64(&self, memory: Memory) -> Vec<f64> {
        let bytes = self.bytes(memory);
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&b| f64::from_ne_bytes(b))
            .collect()
    }

    pub fn get_u32(&self, memory: Memory) -> Vec<u32> {
        let bytes = self.bytes(memory);
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&b| u32::from_ne_bytes(b))
            .collect()
    }

    /// f64 zeros.
    pub fn zeros_of(&self, count: usize) -> Memory {
        self.add(count * 8, 0)
    }

    pub fn launches(&self) -> usize {
        self.launches.get()
    }
}

fn slice_of<'a>(address: usize, bytes: usize) -> &'a mut [u8] {
    #[expect(unsafe_code, reason = "memory of the emulator")]
    // SAFETY: only addresses of pieces come here, which live as long as the emulator, on one thread.
    unsafe {
        std::slice::from_raw_parts_mut(address as *mut u8, bytes)
    }
}

impl Machine for Emulator {
    type Error = String;

    fn refuse(&self, what: String) -> String {
        what
    }

    fn launch(&self, call: &Call) -> Result<(), String> {
        self.launches.set(self.launches.get() + 1);
        let name = std::ffi::CString::new(call.kernel()).map_err(|error| error.to_string())?;
        // Every argument in 8 bytes of its own; kernels read as many as they need.
        let mut values: Vec<[u8; 8]> = Vec::new();
        for argument in call.arguments() {
            let mut bytes = [0; 8];
            match *argument {
                Arg::Address(x) | Arg::U64(x) => bytes = x.to_ne_bytes(),
                Arg::U32(x) => bytes[..4].copy_from_slice(&x.to_ne_bytes()),
                Arg::F32(x) => bytes[..4].copy_from_slice(&x.to_ne_bytes()),
                Arg::F64(x) => bytes = x.to_ne_bytes(),
            }
            values.push(bytes);
        }
        // As the driver: what aligns to 8 does.
        let mut aligned: Vec<u64> = values
            .iter()
            .map(|bytes| u64::from_ne_bytes(*bytes))
            .collect();
        let mut addresses: Vec<*mut c_void> = aligned
            .iter_mut()
            .map(|value| std::ptr::from_mut(value).cast())
            .collect();
        let mut error = [0u8; 300];
        #[expect(unsafe_code, reason = "the emulator is C++")]
        // SAFETY: the arguments are the kernel's own, and memory is what this machine handed out.
        let status = unsafe {
            emulate_launch(
                name.as_ptr(),
                call.grid().as_ptr(),
                call.threads(),
                call.shared_bytes() as usize,
                addresses.as_mut_ptr(),
                self.order,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if status == 0 {
            Ok(())
        } else {
            Err(text(&error))
        }
    }

    fn zeros(&self, bytes: u64) -> Result<Memory, String> {
        Ok(self.add(bytes as usize, 0))
    }

    fn numbers(&self, values: &[u32]) -> Result<Memory, String> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let memory = self.add(bytes.len(), 0);
        slice_of(memory.address() as usize, bytes.len()).copy_from_slice(&bytes);
        Ok(memory)
    }

    fn keys(&self, values: &[u64]) -> Result<Memory, String> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let memory = self.add(bytes.len(), 0);
        slice_of(memory.address() as usize, bytes.len()).copy_from_slice(&bytes);
        Ok(memory)
    }
}

/// Values between −size and size.
pub fn random(count: usize, key: u64, size: f32) -> Vec<f32> {
    let mut random = chatlm_job::Random::new(key);
    (0..count)
        .map(|_| (2.0 * random.uniform() as f32 - 1.0) * size)
        .collect()
}

/// As the element keeps it.
pub fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
    values
        .iter()
        .map(|&x| match element {
            Element::F32 => x,
            Element::F16 => f16::from_f32(x).to_f32(),
            Element::BF16 => bf16::from_f32(x).to_f32(),
        })
        .collect()
}

/// How far a result may be off, relative to the largest of the expected: sums are f32 inside, results
/// are rounded once.
pub fn tolerance(element: Element) -> f64 {
    match element {
        Element::F32 => 2e-6,
        Element::F16 => 1e-3,
        Element::BF16 => 8e-3,
    }
}

#[track_caller]
pub fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    close_beside(what, found, expected, tolerance, 1e-3);
}

/// As [`close`], relative to `size` at least.
#[track_caller]
pub fn close_beside(what: &str, found: &[f32], expected: &[f64], tolerance: f64, size: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(size, |size, x| size.max(x.abs()));
    for (place, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs() / size;
        assert!(
            off <= tolerance,
            "{what}[{place}] is {found}, not {expected}: {off:.2e} of {size} off, above {tolerance:.1e}"
        );
    }
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// The derivative of `of` by every value, by central differences.
pub fn differences(at: &[f64], of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    (0..at.len())
        .map(|place| {
            let mut moved = at.to_vec();
            moved[place] += step;
            let above = of(&moved);
            moved[place] -= 2.0 * step;
            (above - of(&moved)) / (2.0 * step)
        })
        .collect()
}
