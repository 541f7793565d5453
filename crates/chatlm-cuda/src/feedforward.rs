//! What stands between the matrix products: dropout (Srivastava et al. 2014), alone or joined with the
//! residual sum, ReLU, or the gated GELU of T5 v1.1 (Hendrycks and Gimpel 2016; Shazeer 2020). Masks are
//! made again from their keys, bit for bit the processor's.

use crate::machine::{Arg, Call, Dropout, Element, Machine, Memory, Module, check, small};

const THREADS: u32 = 128;

/// Hidden values `(places, width)` of rows laid end to end: all that is read and written has this shape.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a> {
    pub element: Element,
    pub width: usize,
    /// Where each row begins, and where the last ends.
    pub starts: &'a [u32],
    pub drop: Option<Dropout<'a>>,
}

impl Hidden<'_> {
    /// Launches `kernel(memory…, rows, dropout, width, out…)`; a `None` among the memory is a null.
    fn launch<M: Machine>(
        &self,
        machine: &M,
        kernel: &str,
        read: &[Option<Memory>],
        write: &[Memory],
    ) -> Result<(), M::Error> {
        let places = self.starts.last().copied().unwrap_or(0);
        let width = small(machine, "columns", self.width)?;
        if self.starts.first() != Some(&0) || !self.starts.is_sorted() {
            return Err(machine.refuse(format!("rows that begin at {:?}", self.starts)));
        }
        let bytes = u64::from(places) * u64::from(width) * self.element.bytes();
        for &memory in read {
            check(machine, &[("what is read", memory, bytes)])?;
        }
        for &memory in write {
            check(machine, &[("what is written", Some(memory), bytes)])?;
        }
        if places == 0 || width == 0 {
            return Ok(());
        }
        let mut arguments: Vec<Arg> = read.iter().map(|&memory| memory.into()).collect();
        if self.drop.is_some() {
            let rows = self.starts.windows(2).enumerate();
            let row_of: Vec<u32> = rows
                .flat_map(|(row, ends)| (ends[0]..ends[1]).map(move |_| row as u32))
                .collect();
            let starts = machine.numbers(self.starts)?;
            arguments.append(&mut vec![machine.numbers(&row_of)?.into(), starts.into()]);
        } else {
            arguments.extend([Arg::Address(0), Arg::Address(0)]);
        }
        arguments.extend(Dropout::arguments(
            self.drop.as_ref(),
            self.starts.len() - 1,
            machine,
        )?);
        arguments.push(width.into());
        arguments.extend(write.iter().map(|&memory| Arg::from(memory)));
        machine.launch(&Call::new(
            Module::FeedForward,
            format!("feedforward_{kernel}_{}", self.element.name()),
            ([places, 1, 1], THREADS),
            arguments,
        ))
    }

    /// `out = x + dropout(y)`; without `x`, `dropout(y)`, which is also its own backward.
    pub fn residual<M: Machine>(
        &self,
        machine: &M,
        x: Option<Memory>,
        y: Memory,
        out: Memory,
    ) -> Result<(), M::Error> {
        self.launch(machine, "residual", &[x, Some(y)], &[out])
    }

    /// `out = dropout(max(x, 0))`.
    pub fn relu<M: Machine>(&self, machine: &M, x: Memory, out: Memory) -> Result<(), M::Error> {
        self.launch(machine, "relu", &[Some(x)], &[out])
    }

    /// The gradient of [`Self::relu`]'s x, from its result and its result's gradient.
    pub fn relu_backward<M: Machine>(
        &self,
        machine: &M,
        result: Memory,
        gradient: Memory,
        dx: Memory,
    ) -> Result<(), M::Error> {
        let places = self.starts.last().copied().unwrap_or(0);
        let width = small(machine, "columns", self.width)?;
        let bytes = u64::from(places) * u64::from(width) * self.element.bytes();
        check(
            machine,
            &[
                ("the result", Some(result), bytes),
                ("the gradient", Some(gradient), bytes),
                ("dx", Some(dx), bytes),
            ],
        )?;
        if bytes == 0 {
            return Ok(());
        }
        let scale = self.drop.map_or(1.0, |drop| drop.scale);
        machine.launch(&Call::new(
            Module::FeedForward,
            format!("feedforward_relu_backward_{}", self.element.name()),
            ([places, 1, 1], THREADS),
            vec![
                result.into(),
                gradient.into(),
                scale.into(),
                width.into(),
                dx.into(),
            ],
        ))
    }

    /// `out = dropout(gelu(x) · y)`, GELU in its tanh form.
    pub fn gated_gelu<M: Machine>(
        &self,
        machine: &M,
        x: Memory,
        y: Memory,
        out: Memory,
    ) -> Result<(), M::Error> {
        self.launch(machine, "gated", &[Some(x), Some(y)], &[out])
    }

    /// The gradients of x and y.
    pub fn gated_gelu_backward<M: Machine>(
        &self,
        machine: &M,
        [x, y, gradient]: [Memory; 3],
        [dx, dy]: [Memory; 2],
    ) -> Result<(), M::Error> {
        let read = [Some(x), Some(y), Some(gradient)];
        self.launch(machine, "gated_backward", &read, &[dx, dy])
    }
}
