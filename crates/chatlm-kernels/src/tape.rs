//! A tape of operators: each records how its gradient flows back, and what that needs. Played
//! backwards, every record is dropped as soon as it has run, so activations are freed on the way;
//! gradients of weights are added up in buffers that stay from step to step.
//!
//! candle's own autograd keeps all activations until the end, writes zeros before each first
//! gradient, and makes a new tensor for every sum; it serves here as the twin (see [`twin`]).

use std::cell::{Cell, RefCell};

use candle_core::{Device, Result, Tensor, Var, bail};

use crate::gemm::Precision;
use crate::gradients::Gradients;
use crate::rows::{fused, read, write};

/// A weight, and its place among the gradients where it is trained.
#[derive(Debug, Clone)]
pub struct Weight {
    tensor: Tensor,
    index: Option<usize>,
}

impl Weight {
    /// `index` counts the trained weights as [`Gradients`] does; `None` for a frozen one.
    pub fn new(tensor: Tensor, index: Option<usize>) -> Self {
        Self { tensor, index }
    }

    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    pub fn index(&self) -> Option<usize> {
        self.index
    }
}

/// A tensor that an operator made or takes.
#[derive(Debug, Clone)]
pub struct Value {
    tensor: Tensor,
    /// Where its gradient gathers; `None` where nobody asks for it.
    slot: Option<usize>,
}

impl Value {
    /// A tensor without a gradient.
    pub fn constant(tensor: Tensor) -> Self {
        Self { tensor, slot: None }
    }

    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    pub fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// The same value, its elements in order.
    pub(crate) fn contiguous(&self) -> Result<Self> {
        Ok(Self {
            tensor: self.tensor.contiguous()?,
            slot: self.slot,
        })
    }

    /// The place of the gradient alone, so that the backward does not hold the tensor.
    pub(crate) fn without_tensor(&self) -> Result<Self> {
        Ok(Self {
            tensor: Tensor::zeros(0, self.tensor.dtype(), self.tensor.device())?,
            slot: self.slot,
        })
    }

    /// Whether its gradient is asked for.
    pub fn tracked(&self) -> bool {
        self.slot.is_some()
    }
}

type Step = Box<dyn FnOnce(&mut Backward<'_, '_>) -> Result<()>>;

/// What operators write their backward on.
pub struct Tape {
    on: bool,
    precision: Precision,
    steps: RefCell<Vec<Step>>,
    slots: Cell<usize>,
}

impl Tape {
    /// A tape for one forward and one backward pass.
    pub fn new(precision: Precision) -> Self {
        Self {
            on: true,
            precision,
            steps: RefCell::default(),
            slots: Cell::new(0),
        }
    }

    /// A tape that records nothing: inference.
    pub fn off(precision: Precision) -> Self {
        Self {
            on: false,
            ..Self::new(precision)
        }
    }

    /// What matrix products round their operands to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    fn slot(&self) -> usize {
        let slot = self.slots.get();
        self.slots.set(slot + 1);
        slot
    }

    /// A value whose gradient is kept, to be asked for after the backward pass.
    pub fn leaf(&self, tensor: Tensor) -> Value {
        Value {
            tensor,
            slot: self.on.then(|| self.slot()),
        }
    }

    /// An operator's result. `step` gets its gradient; it is left out where nothing `tracked` went in.
    pub(crate) fn result(
        &self,
        tensor: Tensor,
        tracked: bool,
        step: impl FnOnce(&mut Backward<'_, '_>, Tensor) -> Result<()> + 'static,
    ) -> Value {
        if !(self.on && tracked) {
            return Value::constant(tensor);
        }
        let slot = self.slot();
        self.steps.borrow_mut().push(Box::new(move |backward| {
            match backward.slots[slot].take() {
                Some(gradient) => step(backward, gradient),
                None => Ok(()),
            }
        }));
        Value {
            tensor,
            slot: Some(slot),
        }
    }

    /// Tells the backward pass that nothing recorded before this adds to the gradients of `weights`
    /// any more: so they may be used, and their memory too (see [`Gradients::with_sink`]).
    pub fn last_use_of(&self, weights: &[&Weight]) {
        let indices: Vec<usize> = weights.iter().filter_map(|weight| weight.index).collect();
        if self.on && !indices.is_empty() {
            self.steps.borrow_mut().push(Box::new(move |backward| {
                for &index in &indices {
                    backward.gradients.ready(index);
                }
                Ok(())
            }));
        }
    }

    /// `run` of `inputs`, keeping only the inputs: the backward pass computes what is inside again
    /// (Chen et al. 2016, "Training deep nets with sublinear memory cost").
    pub fn recomputed(
        &self,
        inputs: Vec<Value>,
        run: impl Fn(&Tape, &[Value]) -> Result<Value> + 'static,
    ) -> Result<Value> {
        let result = run(&Tape::off(self.precision), &inputs)?;
        let precision = self.precision;
        // Weights inside may be trained even where no input is.
        Ok(
            self.result(result.into_tensor(), true, move |backward, gradient| {
                let tape = Tape::new(precision);
                let leaves: Vec<Value> = inputs
                    .iter()
                    .map(|input| match input.slot {
                        Some(_) => tape.leaf(input.tensor.clone()),
                        None => input.clone(),
                    })
                    .collect();
                let result = run(&tape, &leaves)?;
                let mut seeds = vec![(result, gradient)];
                // Sums go on from where they are, so that nothing is added in another order.
                for (input, leaf) in inputs.iter().zip(&leaves) {
                    if let Some(sum) = input.slot.and_then(|slot| backward.slots[slot].take()) {
                        seeds.push((leaf.clone(), sum));
                    }
                }
                let mut found = tape.play(seeds, backward.gradients)?;
                for (input, leaf) in inputs.iter().zip(&leaves) {
                    // Added, as one value may be several inputs.
                    if let Some(gradient) = leaf.slot.and_then(|slot| found[slot].take()) {
                        backward.add(input, gradient)?;
                    }
                }
                Ok(())
            }),
        )
    }

    /// Plays the tape backwards from the gradients of some of its values, adding to those of the
    /// weights.
    pub fn backward(
        self,
        seeds: Vec<(Value, Tensor)>,
        gradients: &mut Gradients<'_>,
    ) -> Result<()> {
        self.play(own(seeds)?, gradients).map(|_| ())
    }

    /// The same; answers the gradients of `leaves`, zeros where none came.
    pub fn backward_to(
        self,
        leaves: &[&Value],
        seeds: Vec<(Value, Tensor)>,
        gradients: &mut Gradients<'_>,
    ) -> Result<Vec<Tensor>> {
        let mut found = self.play(own(seeds)?, gradients)?;
        leaves
            .iter()
            .map(|leaf| match leaf.slot.and_then(|slot| found[slot].take()) {
                Some(gradient) => Ok(gradient),
                None => leaf.tensor.zeros_like(),
            })
            .collect()
    }

    fn play(
        self,
        seeds: Vec<(Value, Tensor)>,
        gradients: &mut Gradients<'_>,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut backward = Backward {
            slots: vec![None; self.slots.get()],
            gradients,
        };
        for (value, gradient) in seeds {
            if value.tensor.dims() != gradient.dims() {
                bail!(
                    "a gradient of {:?} for {:?}",
                    gradient.dims(),
                    value.tensor.dims()
                );
            }
            backward.add(&value, gradient)?;
        }
        let mut steps = self.steps.into_inner();
        while let Some(step) = steps.pop() {
            step(&mut backward)?;
        }
        Ok(backward.slots)
    }
}

/// Gradients of the caller's as tensors that are nobody else's: sums are made in place.
fn own(seeds: Vec<(Value, Tensor)>) -> Result<Vec<(Value, Tensor)>> {
    seeds
        .into_iter()
        .map(|(value, gradient)| Ok((value, gradient.force_contiguous()?)))
        .collect()
}

/// A backward pass under way.
pub(crate) struct Backward<'a, 'sink> {
    slots: Vec<Option<Tensor>>,
    pub(crate) gradients: &'a mut Gradients<'sink>,
}

impl Backward<'_, '_> {
    /// Adds to a value's gradient. The tensor must be nobody else's: later sums are made in place.
    pub(crate) fn add(&mut self, value: &Value, gradient: Tensor) -> Result<()> {
        let Some(slot) = value.slot else {
            return Ok(());
        };
        self.slots[slot] = Some(match self.slots[slot].take() {
            None => gradient,
            Some(sum) if fused(&[&sum, &gradient]) => {
                let gradient = read(&gradient)?;
                write(&sum, |sum| crate::math::add_to(sum, &gradient))?;
                sum
            }
            Some(sum) => (sum + gradient)?,
        });
        Ok(())
    }

    /// Computes a gradient straight into its place: `compute(values, add)` writes the values, or
    /// adds to those that are there.
    pub(crate) fn accumulate(
        &mut self,
        value: &Value,
        compute: impl FnOnce(&mut [f32], bool) -> Result<()>,
    ) -> Result<()> {
        let Some(slot) = value.slot else {
            return Ok(());
        };
        if let Some(sum) = &self.slots[slot] {
            return write(sum, |sum| compute(sum, true))?;
        }
        let mut values = crate::rows::zeros(value.tensor.elem_count());
        compute(&mut values, false)?;
        let gradient = Tensor::from_vec(values, value.tensor.shape(), &Device::Cpu)?;
        self.slots[slot] = Some(gradient);
        Ok(())
    }
}

/// An operator of candle's own on a device without a kernel here: `run` over inputs and weights,
/// with candle's autograd, over a forward pass of its own, behind its backward.
pub(crate) fn twin(
    tape: &Tape,
    inputs: &[&Value],
    weights: &[&Weight],
    run: impl Fn(&[Tensor], &[Tensor]) -> Result<Tensor> + 'static,
) -> Result<Value> {
    let inputs: Vec<Value> = inputs.iter().map(|&input| input.clone()).collect();
    let weights: Vec<Weight> = weights.iter().map(|&weight| weight.clone()).collect();
    let plain = |values: &[Value]| -> Vec<Tensor> {
        values.iter().map(|value| value.tensor.clone()).collect()
    };
    let held: Vec<Tensor> = weights.iter().map(|weight| weight.tensor.clone()).collect();
    let tensor = run(&plain(&inputs), &held)?;
    let tracked =
        inputs.iter().any(Value::tracked) || weights.iter().any(|weight| weight.index.is_some());
    Ok(tape.result(tensor, tracked, move |backward, gradient| {
        let vars = |tensors: Vec<&Tensor>| -> Result<Vec<Var>> {
            tensors.into_iter().map(Var::from_tensor).collect()
        };
        let ins = vars(inputs.iter().map(|input| &input.tensor).collect())?;
        let held = vars(weights.iter().map(|weight| &weight.tensor).collect())?;
        let tensors = |vars: &[Var]| -> Vec<Tensor> {
            vars.iter().map(|var| var.as_tensor().clone()).collect()
        };
        let result = run(&tensors(&ins), &tensors(&held))?;
        if result.dims() != gradient.dims() {
            bail!(
                "a gradient of {:?} for {:?}",
                gradient.dims(),
                result.dims()
            );
        }
        let mut store = (result * gradient)?.sum_all()?.backward()?;
        for (input, var) in inputs.iter().zip(&ins) {
            if let Some(gradient) = store.remove(var.as_tensor()) {
                backward.add(input, gradient.contiguous()?)?;
            }
        }
        for (weight, var) in weights.iter().zip(&held) {
            if let (Some(index), Some(gradient)) = (weight.index, store.remove(var.as_tensor())) {
                backward.gradients.add(index, &gradient)?;
            }
        }
        Ok(())
    }))
}
