//! Gradients of the trained weights in f32: where this crate's kernels run, plain memory that is taken
//! once and written again at every step; on other devices tensors there.

use candle_core::{DType, Device, Result, Tensor};

use crate::math::add_to;
use crate::rows::read;

/// What takes a gradient that is complete: the weight's index and its values.
pub type Sink<'a> = Box<dyn FnMut(usize, &[f32]) + Send + 'a>;

/// The gradients of all trained weights, by index.
pub struct Gradients<'a> {
    sizes: Vec<usize>,
    /// Which ones this step has written.
    written: Vec<bool>,
    room: Room<'a>,
}

enum Room<'a> {
    /// All side by side, from the first write on: one piece of memory wastes none at its edges.
    Whole {
        values: Vec<f32>,
        starts: Vec<usize>,
        /// Told of gradients that are complete, where the caller said that they are; and which were.
        watch: Option<(Sink<'a>, Vec<bool>)>,
    },
    /// Only those that are not complete yet.
    Passing {
        values: Vec<Vec<f32>>,
        /// Buffers that the sink has emptied.
        free: Vec<Vec<f32>>,
        sink: Sink<'a>,
    },
    /// Tensors on the weights' device. None is anybody else's, so a kernel may add in place.
    Device(Vec<Option<Tensor>>),
}

impl<'a> Gradients<'a> {
    /// Room for weights of these many values; taken from the system as it is first written.
    pub fn new(sizes: Vec<usize>) -> Self {
        let starts = sizes
            .iter()
            .scan(0, |next, size| {
                *next += size;
                Some(*next - size)
            })
            .collect();
        let room = Room::Whole {
            values: Vec::new(),
            starts,
            watch: None,
        };
        Self {
            written: vec![false; sizes.len()],
            sizes,
            room,
        }
    }

    /// Gradients that stay tensors on the weights' device; see [`Self::tensor`].
    pub fn on_device(sizes: Vec<usize>) -> Self {
        Self {
            written: vec![false; sizes.len()],
            room: Room::Device(vec![None; sizes.len()]),
            sizes,
        }
    }

    /// Gradients that are handed to `sink` as soon as they are complete, and then forgotten: no two
    /// layers' are held at once. What no backward pass completes is handed over by [`Self::finish`].
    pub fn with_sink(sizes: Vec<usize>, sink: Sink<'a>) -> Self {
        Self {
            written: vec![false; sizes.len()],
            room: Room::Passing {
                values: vec![Vec::new(); sizes.len()],
                free: Vec::new(),
                sink,
            },
            sizes,
        }
    }

    /// Forgets what is written; the processor's memory stays.
    pub fn clear(&mut self) {
        self.written.fill(false);
        self.unwatch();
        if let Room::Device(tensors) = &mut self.room {
            tensors.fill(None);
        }
    }

    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Whether they are tensors on the weights' device.
    pub fn are_tensors(&self) -> bool {
        matches!(self.room, Room::Device(_))
    }

    /// A weight's gradient on its device, or nothing where it had no part in the loss, or where
    /// gradients lie in plain memory.
    pub fn tensor(&self, index: usize) -> Option<&Tensor> {
        match &self.room {
            Room::Device(tensors) => tensors[index].as_ref(),
            Room::Whole { .. } | Room::Passing { .. } => None,
        }
    }

    /// A weight's gradient, or nothing where it had no part in the loss.
    ///
    /// Panics where gradients are tensors.
    pub fn get(&self, index: usize) -> Option<&[f32]> {
        if !self.written[index] {
            return None;
        }
        Some(match &self.room {
            Room::Whole { values, starts, .. } => &values[starts[index]..][..self.sizes[index]],
            Room::Passing { values, .. } => &values[index],
            Room::Device(_) => panic!("gradients on a device are asked for as tensors"),
        })
    }

    /// `compute(values, add)` writes a gradient, or adds to what is there.
    pub(crate) fn write(&mut self, index: usize, compute: impl FnOnce(&mut [f32], bool)) {
        let size = self.sizes[index];
        let values = match &mut self.room {
            Room::Whole { values, starts, .. } => {
                if values.is_empty() {
                    *values = vec![0.0; self.sizes.iter().sum()];
                }
                &mut values[starts[index]..][..size]
            }
            Room::Passing { values, free, .. } => {
                let values = &mut values[index];
                if values.len() != size {
                    // The smallest that fits, so that the large ones stay for the large weights.
                    let fits = (0..free.len())
                        .filter(|&place| free[place].capacity() >= size)
                        .min_by_key(|&place| free[place].capacity());
                    *values = fits
                        .map(|place| free.swap_remove(place))
                        .unwrap_or_default();
                    values.resize(size, 0.0);
                }
                values.as_mut_slice()
            }
            Room::Device(_) => panic!("kernels of the processor write to plain memory"),
        };
        compute(values, self.written[index]);
        self.written[index] = true;
    }

    /// Adds a tensor of any device.
    pub(crate) fn add(&mut self, index: usize, gradient: &Tensor) -> Result<()> {
        if let Room::Device(tensors) = &mut self.room {
            let gradient = gradient.to_dtype(DType::F32)?;
            tensors[index] = Some(match tensors[index].take() {
                Some(sum) => (sum + gradient)?,
                None => gradient.contiguous()?,
            });
            self.written[index] = true;
            return Ok(());
        }
        let gradient = gradient
            .to_dtype(DType::F32)?
            .to_device(&Device::Cpu)?
            .contiguous()?;
        let gradient = read(&gradient)?;
        self.write(index, |values, add| {
            if add {
                add_to(values, &gradient);
            } else {
                values.copy_from_slice(&gradient);
            }
        });
        Ok(())
    }

    /// The weight's gradient is complete.
    pub(crate) fn ready(&mut self, index: usize) {
        match &mut self.room {
            Room::Passing { values, free, sink } => {
                if std::mem::take(&mut self.written[index]) {
                    sink(index, &values[index]);
                    free.push(std::mem::take(&mut values[index]));
                }
            }
            Room::Whole {
                values,
                starts,
                watch: Some((watch, told)),
            } if self.written[index] && !told[index] => {
                told[index] = true;
                watch(index, &values[starts[index]..][..self.sizes[index]]);
            }
            Room::Whole { .. } | Room::Device(_) => {}
        }
    }

    /// From here on `sink` is told of each gradient as soon as it is complete, and all of them stay: for
    /// the last of several backward passes that add up. [`Self::clear`] ends it.
    pub fn watch(&mut self, sink: Sink<'a>) {
        if let Room::Whole { watch, .. } = &mut self.room {
            *watch = Some((sink, vec![false; self.sizes.len()]));
        }
    }

    pub fn unwatch(&mut self) {
        if let Room::Whole { watch, .. } = &mut self.room {
            *watch = None;
        }
    }

    /// Hands what is left to the sink.
    pub fn finish(&mut self) {
        for index in 0..self.len() {
            self.ready(index);
        }
    }
}
