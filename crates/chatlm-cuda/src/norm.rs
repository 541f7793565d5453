//! T5's layer norm joined with the residual sum before it (Zhang and Sennrich 2019, "Root Mean Square
//! Layer Normalization"): `y = x + r`, `n = y / sqrt(mean(y²) + eps) · w`.

use crate::machine::{Call, Element, Machine, Memory, Module, check, rows_a_chunk, small};

const THREADS: u32 = 256;

/// `(rows, width)` of x, r, y and n.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    pub element: Element,
    pub rows: usize,
    pub width: usize,
}

/// What the forward reads and writes: all `(rows, width)`, but `weight (width)` and `scales (rows)` in f32.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    pub x: Memory,
    /// What is added to x, and where the sum goes (it may be x).
    pub residual: Option<(Memory, Memory)>,
    pub weight: Memory,
    pub normed: Memory,
    /// 1/rms of each row, for the backward.
    pub scales: Option<Memory>,
}

/// What the backward reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// What was normalized.
    pub y: Memory,
    pub weight: Memory,
    pub scales: Memory,
    /// The gradient of the result.
    pub gradient: Memory,
    /// What flows into y from elsewhere, added to dx.
    pub beside: Option<Memory>,
    /// The gradient of x and of r; may be `beside`.
    pub dx: Memory,
    /// The weight's gradient, f32 (width), and whether it is added to what is there.
    pub dw: Option<(Memory, bool)>,
}

impl Norm {
    /// Rows, width, and the bytes of a tensor.
    fn sizes<M: Machine>(&self, machine: &M) -> Result<(u32, u32, u64), M::Error> {
        let rows = small(machine, "rows", self.rows)?;
        let width = small(machine, "columns", self.width)?;
        Ok((
            rows,
            width,
            self.rows as u64 * self.width as u64 * self.element.bytes(),
        ))
    }

    pub fn forward<M: Machine>(
        &self,
        machine: &M,
        with: &Forward,
        eps: f64,
    ) -> Result<(), M::Error> {
        let (rows, width, bytes) = self.sizes(machine)?;
        let (r, y) = (
            with.residual.map(|both| both.0),
            with.residual.map(|both| both.1),
        );
        check(
            machine,
            &[
                ("x", Some(with.x), bytes),
                ("the residual", r, bytes),
                ("the sum", y, bytes),
                (
                    "the norm's weight",
                    Some(with.weight),
                    self.width as u64 * self.element.bytes(),
                ),
                ("the result", Some(with.normed), bytes),
                ("scales", with.scales, self.rows as u64 * 4),
            ],
        )?;
        if rows == 0 || width == 0 {
            return Ok(());
        }
        machine.launch(&Call::new(
            Module::Norm,
            format!("norm_forward_{}", self.element.name()),
            ([rows, 1, 1], THREADS),
            vec![
                with.x.into(),
                r.into(),
                with.weight.into(),
                y.into(),
                with.normed.into(),
                with.scales.into(),
                width.into(),
                (eps as f32).into(),
            ],
        ))
    }

    /// `dx = beside + s·h − y·s³·mean(h·y)` with `s = 1/rms`, `h = gradient · weight`; `dw = Σ gradient·y·s`.
    pub fn backward<M: Machine>(&self, machine: &M, with: &Backward) -> Result<(), M::Error> {
        let (rows, width, bytes) = self.sizes(machine)?;
        check(
            machine,
            &[
                ("y", Some(with.y), bytes),
                (
                    "the norm's weight",
                    Some(with.weight),
                    self.width as u64 * self.element.bytes(),
                ),
                ("scales", Some(with.scales), self.rows as u64 * 4),
                ("the gradient", Some(with.gradient), bytes),
                ("the gradient beside", with.beside, bytes),
                ("dx", Some(with.dx), bytes),
                ("dw", with.dw.map(|dw| dw.0), self.width as u64 * 4),
            ],
        )?;
        if width == 0 {
            return Ok(());
        }
        let name = self.element.name();
        if let Some((dw, add)) = with.dw {
            let chunk = rows_a_chunk(rows);
            let (chunks, blocks) = (rows.div_ceil(chunk), width.div_ceil(THREADS));
            let parts = machine.zeros(u64::from(chunks) * u64::from(width) * 4)?;
            if rows > 0 {
                machine.launch(&Call::new(
                    Module::Norm,
                    format!("norm_weight_{name}"),
                    ([blocks, chunks, 1], THREADS),
                    vec![
                        with.y.into(),
                        with.scales.into(),
                        with.gradient.into(),
                        parts.into(),
                        rows.into(),
                        width.into(),
                        chunk.into(),
                    ],
                ))?;
            }
            machine.launch(&Call::new(
                Module::Sums,
                "sum_columns",
                ([blocks, 1, 1], THREADS),
                vec![
                    parts.into(),
                    chunks.into(),
                    width.into(),
                    dw.into(),
                    add.into(),
                ],
            ))?;
        }
        if rows == 0 {
            return Ok(());
        }
        machine.launch(&Call::new(
            Module::Norm,
            format!("norm_backward_{name}"),
            ([rows, 1, 1], THREADS),
            vec![
                with.y.into(),
                with.weight.into(),
                with.scales.into(),
                with.gradient.into(),
                with.beside.into(),
                with.dx.into(),
                width.into(),
            ],
        ))
    }
}
