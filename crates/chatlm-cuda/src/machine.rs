//! What runs kernels: a GPU, or the emulator of the tests.

/// A file of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Module {
    Adafactor,
    AdamW,
    Attention,
    AttentionBackward,
    Decode,
    Embedding,
    FeedForward,
    Loss,
    Norm,
    Sums,
}

/// What activations are stored as; sums are f32 or f64 whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F32,
    F16,
    BF16,
}

impl Element {
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// As kernels' names end.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// A piece of a machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    address: u64,
    bytes: u64,
}

impl Memory {
    /// # Safety
    ///
    /// There are `bytes` bytes at `address` in the memory of the machine that this is given to, aligned
    /// to their elements, until the last kernel that was launched with it is done; nothing else writes
    /// them meanwhile, or reads them where a kernel writes.
    #[expect(
        unsafe_code,
        reason = "the one promise about addresses that kernels rest on"
    )]
    pub unsafe fn new(address: u64, bytes: u64) -> Self {
        Self { address, bytes }
    }

    pub fn address(self) -> u64 {
        self.address
    }

    pub fn bytes(self) -> u64 {
        self.bytes
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    /// An address; 0 for none.
    Address(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl From<Memory> for Arg {
    fn from(memory: Memory) -> Self {
        Self::Address(memory.address)
    }
}

impl From<Option<Memory>> for Arg {
    fn from(memory: Option<Memory>) -> Self {
        Self::Address(memory.map_or(0, |memory| memory.address))
    }
}

macro_rules! arg {
    ($($type:ty => $name:ident),*) => {
        $(impl From<$type> for Arg {
            fn from(value: $type) -> Self {
                Self::$name(value)
            }
        })*
    };
}
arg!(u32 => U32, u64 => U64, f32 => F32, f64 => F64);

impl From<bool> for Arg {
    fn from(value: bool) -> Self {
        Self::U32(u32::from(value))
    }
}

/// One launch of a kernel. Only this crate makes them, with the kernel's own arguments.
#[derive(Debug, Clone)]
pub struct Call {
    module: Module,
    kernel: String,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    arguments: Vec<Arg>,
}

impl Call {
    pub(crate) fn new(
        module: Module,
        kernel: impl Into<String>,
        (grid, threads): ([u32; 3], u32),
        arguments: Vec<Arg>,
    ) -> Self {
        Self {
            module,
            kernel: kernel.into(),
            grid,
            threads,
            shared: 0,
            arguments,
        }
    }

    /// With this many bytes of shared memory besides the kernel's own.
    pub(crate) fn shared(self, shared: u32) -> Self {
        Self { shared, ..self }
    }

    pub fn module(&self) -> Module {
        self.module
    }

    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Blocks in each direction.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Bytes of dynamic shared memory.
    pub fn shared_bytes(&self) -> u32 {
        self.shared
    }

    pub fn arguments(&self) -> &[Arg] {
        &self.arguments
    }
}

/// What runs kernels, one after the other in the order of the calls. What it hands out itself lives as
/// long as it does.
pub trait Machine {
    type Error;

    /// An error about arguments that do not fit.
    fn refuse(&self, what: String) -> Self::Error;

    fn launch(&self, call: &Call) -> Result<(), Self::Error>;

    /// New memory of zeros.
    fn zeros(&self, bytes: u64) -> Result<Memory, Self::Error>;

    /// New memory that holds `values`.
    fn numbers(&self, values: &[u32]) -> Result<Memory, Self::Error>;

    /// New memory that holds `values`.
    fn keys(&self, values: &[u64]) -> Result<Memory, Self::Error>;
}

/// Dropout's mask as chatlm-kernels draws it.
#[derive(Debug, Clone, Copy)]
pub struct Dropout<'a> {
    /// One a row, mixed with the site.
    pub keys: &'a [u64],
    /// The share that is dropped, of 2³².
    pub threshold: u32,
    /// What is kept is multiplied by.
    pub scale: f32,
}

impl Dropout<'_> {
    /// As kernels take it: keys, threshold, scale.
    pub(crate) fn arguments<M: Machine>(
        drop: Option<&Self>,
        rows: usize,
        machine: &M,
    ) -> Result<[Arg; 3], M::Error> {
        let Some(drop) = drop else {
            return Ok([Arg::Address(0), Arg::U32(0), Arg::F32(1.0)]);
        };
        if drop.keys.len() != rows {
            return Err(machine.refuse(format!(
                "{} keys of dropout for {rows} rows",
                drop.keys.len()
            )));
        }
        let keys = machine.keys(drop.keys)?;
        Ok([keys.into(), drop.threshold.into(), drop.scale.into()])
    }
}

/// Refuses memory that is smaller than a kernel will touch: `(what it is, the memory, bytes)`.
pub(crate) fn check<M: Machine>(
    machine: &M,
    all: &[(&str, Option<Memory>, u64)],
) -> Result<(), M::Error> {
    for (what, memory, bytes) in all {
        if let Some(memory) = memory
            && memory.bytes < *bytes
        {
            return Err(machine.refuse(format!("{what} has {} bytes, not {bytes}", memory.bytes)));
        }
    }
    Ok(())
}

/// A size as kernels take it.
pub(crate) fn small<M: Machine>(machine: &M, what: &str, size: usize) -> Result<u32, M::Error> {
    u32::try_from(size)
        .ok()
        .filter(|&size| i32::try_from(size).is_ok())
        .ok_or_else(|| machine.refuse(format!("{size} {what} are more than a kernel takes")))
}

/// Blocks of at most this many go in the second direction of a grid.
pub(crate) const MOST: u32 = 65_535;

/// Rows that one block adds up, where a thread has a column: 64, or as many as the grid needs.
pub(crate) fn rows_a_chunk(rows: u32) -> u32 {
    rows.div_ceil(MOST).max(64)
}
