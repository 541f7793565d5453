//! A device as a [`Machine`], and candle's tensors as its memory.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::{CudaDevice, DType, Device, Error, Result, Shape, Storage, Tensor, bail};

use crate::machine::{Arg, Call, Element, Machine, Memory, Module};

/// Shared memory that a kernel gets without asking.
const SHARED: u32 = 48 << 10;

macro_rules! fatbin {
    ($file:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $file, ".fatbin"))
    };
}

/// A file of kernels for 8.0, 8.6, 8.9 and 9.0, and as PTX of 9.0 for what is newer.
fn image(module: Module) -> &'static [u8] {
    match module {
        Module::Adafactor => fatbin!("adafactor"),
        Module::AdamW => fatbin!("adamw"),
        Module::Attention => fatbin!("attention"),
        Module::AttentionBackward => fatbin!("attention_backward"),
        Module::Decode => fatbin!("decode"),
        Module::Embedding => fatbin!("embedding"),
        Module::FeedForward => fatbin!("feedforward"),
        Module::Loss => fatbin!("loss"),
        Module::Norm => fatbin!("norm"),
        Module::Sums => fatbin!("sums"),
    }
}

/// Loads each file once a device.
fn function(device: &CudaDevice, module: Module, name: &str) -> Result<CudaFunction> {
    type Modules = HashMap<(DeviceId, Module), Arc<CudaModule>>;
    static LOADED: OnceLock<Mutex<Modules>> = OnceLock::new();
    let mut loaded = LOADED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let found = loaded.get(&(device.id(), module)).cloned();
    let found = if let Some(found) = found {
        found
    } else {
        let stream = device.cuda_stream();
        let image = Ptx::from_binary(image(module).to_vec());
        let new = stream.context().load_module(image).map_err(Error::wrap)?;
        loaded.insert((device.id(), module), new.clone());
        new
    };
    found.load_function(name).map_err(Error::wrap)
}

/// Whether the kernels run on this tensor.
pub fn supported(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && element(tensor.dtype()).is_ok()
}

/// What a tensor's values are stored as.
pub fn element(dtype: DType) -> Result<Element> {
    match dtype {
        DType::F32 => Ok(Element::F32),
        DType::F16 => Ok(Element::F16),
        DType::BF16 => Ok(Element::BF16),
        other => bail!("kernels take f32, f16 and bf16, not {other:?}"),
    }
}

/// One operator's work on a device: what it needs besides tensors lives until it is dropped, and is
/// given back in the stream's order.
pub struct Session {
    device: CudaDevice,
    held: RefCell<Vec<Box<dyn Any>>>,
}

impl Session {
    /// Work on the device of `tensor`.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        match tensor.device() {
            Device::Cuda(device) => Ok(Self {
                device: device.clone(),
                held: RefCell::default(),
            }),
            other => bail!("a kernel for NVIDIA GPUs on {other:?}"),
        }
    }

    fn hold<T: DeviceRepr + 'static>(&self, slice: CudaSlice<T>) -> Memory {
        let bytes = slice.num_bytes() as u64;
        let address = slice.device_ptr(&self.device.cuda_stream()).0;
        self.held.borrow_mut().push(Box::new(slice));
        #[expect(unsafe_code, reason = "an address becomes memory")]
        // SAFETY: the slice lives as long as the session and is given back after what its stream holds.
        unsafe {
            Memory::new(address, bytes)
        }
    }

    /// A new tensor whose values a kernel is to write, every one.
    pub(super) fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        #[expect(unsafe_code, reason = "memory that is not cleared first")]
        // SAFETY: the kernels write every value of what is asked for here before anything reads it.
        unsafe {
            Tensor::empty(shape, dtype, &Device::Cuda(self.device.clone()))
        }
    }

    /// Where a tensor's values are.
    pub(super) fn memory(&self, tensor: &Tensor) -> Result<Memory> {
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets())
        else {
            bail!(
                "a kernel wants contiguous values on an NVIDIA GPU, not {:?}",
                tensor.layout()
            )
        };
        if storage.device.id() != self.device.id() {
            bail!("the tensors of a call are on different devices");
        }
        let stream = self.device.cuda_stream();
        let (address, size) = match &storage.slice {
            CudaStorageSlice::F32(values) => (values.device_ptr(&stream).0, 4),
            CudaStorageSlice::F16(values) => (values.device_ptr(&stream).0, 2),
            CudaStorageSlice::BF16(values) => (values.device_ptr(&stream).0, 2),
            CudaStorageSlice::U32(values) => (values.device_ptr(&stream).0, 4),
            CudaStorageSlice::F64(values) => (values.device_ptr(&stream).0, 8),
            _ => bail!("a kernel of {:?}", tensor.dtype()),
        };
        #[expect(unsafe_code, reason = "an address becomes memory")]
        // SAFETY: the caller keeps the tensor until the kernels are queued; its memory is given back in
        // the order of the same stream. candle queues all of a device's work on that one stream.
        unsafe {
            Ok(Memory::new(
                address + (from * size) as u64,
                ((to - from) * size) as u64,
            ))
        }
    }

    /// The same, of a tensor that may not be there.
    pub(super) fn maybe(&self, tensor: Option<&Tensor>) -> Result<Option<Memory>> {
        tensor.map(|tensor| self.memory(tensor)).transpose()
    }

    /// The memory of a tensor that must be of this type.
    pub(super) fn of(&self, tensor: &Tensor, dtype: DType) -> Result<Memory> {
        if tensor.dtype() != dtype {
            bail!("a tensor of {:?} where {dtype:?} is wanted", tensor.dtype());
        }
        self.memory(tensor)
    }
}

/// Refuses tensors whose types differ, and answers their type.
pub(super) fn same(tensors: &[&Tensor]) -> Result<(Element, DType)> {
    let Some(first) = tensors.first() else {
        bail!("a call without tensors")
    };
    if let Some(other) = tensors.iter().find(|other| other.dtype() != first.dtype()) {
        bail!(
            "tensors of {:?} and {:?} in one call",
            first.dtype(),
            other.dtype()
        );
    }
    Ok((element(first.dtype())?, first.dtype()))
}

impl Machine for Session {
    type Error = Error;

    fn refuse(&self, what: String) -> Error {
        Error::Msg(what).bt()
    }

    fn launch(&self, call: &Call) -> Result<()> {
        let function = function(&self.device, call.module(), call.kernel())?;
        if call.shared_bytes() > SHARED {
            function
                .set_attribute(
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    call.shared_bytes() as i32,
                )
                .map_err(Error::wrap)?;
        }
        let stream = self.device.cuda_stream();
        let mut arguments = stream.launch_builder(&function);
        for argument in call.arguments() {
            match argument {
                Arg::Address(x) | Arg::U64(x) => arguments.arg(x),
                Arg::U32(x) => arguments.arg(x),
                Arg::F32(x) => arguments.arg(x),
                Arg::F64(x) => arguments.arg(x),
            };
        }
        let [x, y, z] = call.grid();
        let size = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (call.threads(), 1, 1),
            shared_mem_bytes: call.shared_bytes(),
        };
        #[expect(unsafe_code, reason = "a kernel runs")]
        // SAFETY: only this crate makes calls, with the kernel's own arguments over checked memory; the
        // same code and the same kernels are tested over an emulator that looks for stray writes.
        unsafe {
            arguments.launch(size).map_err(Error::wrap)?;
        }
        Ok(())
    }

    fn zeros(&self, bytes: u64) -> Result<Memory> {
        Ok(self.hold(self.device.alloc_zeros::<u8>((bytes as usize).max(1))?))
    }

    fn numbers(&self, values: &[u32]) -> Result<Memory> {
        if values.is_empty() {
            return self.zeros(0);
        }
        Ok(self.hold(self.device.clone_htod(values)?))
    }

    fn keys(&self, values: &[u64]) -> Result<Memory> {
        if values.is_empty() {
            return self.zeros(0);
        }
        Ok(self.hold(self.device.clone_htod(values)?))
    }
}
