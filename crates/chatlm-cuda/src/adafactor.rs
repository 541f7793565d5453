//! Adafactor (Shazeer and Stern 2018) as transformers' `Adafactor`; the same numbers as chatlm-optim's.
//! Nothing is read back: the sums between its passes stay on the machine.

use crate::machine::{Arg, Call, Element, Machine, Memory, Module, check, rows_a_chunk, small};
use crate::sums::{CHUNK, add_up, chunks, squared_norm, total};

const THREADS: u32 = 256;
const BLOCKS: u32 = 4096;

/// Its switches, as transformers names them.
#[derive(Debug, Clone, Copy)]
pub struct Adafactor {
    pub relative_step: bool,
    pub scale_parameter: bool,
    pub warmup_init: bool,
    pub weight_decay: f64,
}

/// The second moments of a weight, f32.
#[derive(Debug, Clone, Copy)]
pub enum Factors {
    /// For matrices: means of squares over the other dimension.
    Matrix {
        rows: usize,
        columns: usize,
        row: Memory,
        column: Memory,
    },
    /// For all else.
    Whole { count: usize, second: Memory },
}

/// One weight in f32, its gradient and its moments.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    pub weight: Memory,
    pub gradient: Memory,
    /// Of the gradient.
    pub element: Element,
    pub factors: Factors,
}

/// What the last pass takes besides the weight.
struct Step {
    /// f64 (2): Σ w², Σ update².
    sums: Memory,
    rate: f64,
    relative: bool,
    decay: f64,
}

impl Step {
    fn arguments(&self) -> [Arg; 4] {
        [
            self.sums.into(),
            self.rate.into(),
            self.relative.into(),
            self.decay.into(),
        ]
    }
}

impl Adafactor {
    /// Updates a weight from `scale · gradient` at `step`, counted from 1. Without `relative_step` the
    /// given learning rate is used.
    pub fn update<M: Machine>(
        &self,
        machine: &M,
        of: &Weight,
        scale: f32,
        learning_rate: f64,
        step: u64,
    ) -> Result<(), M::Error> {
        let count = match of.factors {
            Factors::Matrix { rows, columns, .. } => rows * columns,
            Factors::Whole { count, .. } => count,
        };
        check(
            machine,
            &[
                ("the weight", Some(of.weight), count as u64 * 4),
                (
                    "the gradient",
                    Some(of.gradient),
                    count as u64 * of.element.bytes(),
                ),
            ],
        )?;
        if step == 0 {
            return Err(machine.refuse("steps are counted from 1".to_owned()));
        }
        if count == 0 {
            return Ok(());
        }
        let sums = machine.zeros(16)?;
        if self.scale_parameter {
            squared_norm(machine, Element::F32, of.weight, count, sums, 0)?;
        }
        let beta = 1.0 - (step as f64).powf(-0.8);
        let decay: [Arg; 2] = [(beta as f32).into(), ((1.0 - beta) as f32).into()];
        let step = Step {
            sums,
            rate: self.rate(learning_rate, step),
            relative: self.scale_parameter,
            decay: self.weight_decay,
        };
        match of.factors {
            Factors::Matrix {
                rows,
                columns,
                row,
                column,
            } => {
                let sizes = (
                    small(machine, "rows", rows)?,
                    small(machine, "columns", columns)?,
                );
                matrix(machine, of, (row, column), sizes, scale, decay, &step)
            }
            Factors::Whole { second, .. } => whole(machine, of, second, count, scale, decay, &step),
        }
    }

    /// transformers' `_get_lr`, but for the weight's own size, which the last pass multiplies by.
    fn rate(&self, learning_rate: f64, step: u64) -> f64 {
        if !self.relative_step {
            return learning_rate;
        }
        let least = if self.warmup_init {
            1e-6 * step as f64
        } else {
            1e-2
        };
        least.min(1.0 / (step as f64).sqrt())
    }
}

fn matrix<M: Machine>(
    machine: &M,
    of: &Weight,
    (row, column): (Memory, Memory),
    (rows, columns): (u32, u32),
    scale: f32,
    [beta, rest]: [Arg; 2],
    step: &Step,
) -> Result<(), M::Error> {
    let (element, g): (_, Arg) = (of.element.name(), of.gradient.into());
    check(
        machine,
        &[
            ("row moments", Some(row), u64::from(rows) * 4),
            ("column moments", Some(column), u64::from(columns) * 4),
        ],
    )?;
    let launch = |kernel: String, grid: [u32; 3], arguments: Vec<Arg>| {
        machine.launch(&Call::new(
            Module::Adafactor,
            kernel,
            (grid, THREADS),
            arguments,
        ))
    };
    // Pass 1: the means of squares move on.
    launch(
        format!("adafactor_rows_{element}"),
        [rows, 1, 1],
        vec![g, scale.into(), columns.into(), beta, rest, row.into()],
    )?;
    let chunk = rows_a_chunk(rows);
    let (count, blocks) = (rows.div_ceil(chunk), columns.div_ceil(THREADS));
    let parts = machine.zeros(u64::from(count) * u64::from(columns) * 8)?;
    launch(
        format!("adafactor_columns_{element}"),
        [blocks, count, 1],
        vec![
            g,
            scale.into(),
            rows.into(),
            columns.into(),
            chunk.into(),
            parts.into(),
        ],
    )?;
    let by_column = machine.zeros(u64::from(columns) * 4)?;
    launch(
        "adafactor_column_factors".to_owned(),
        [blocks, 1, 1],
        vec![
            parts.into(),
            count.into(),
            rows.into(),
            columns.into(),
            beta,
            rest,
            column.into(),
            by_column.into(),
        ],
    )?;
    let (sum, by_row) = (machine.zeros(8)?, machine.zeros(u64::from(rows) * 4)?);
    total(machine, row, rows, sum, 0)?;
    launch(
        "adafactor_row_factors".to_owned(),
        [rows.div_ceil(THREADS), 1, 1],
        vec![row.into(), sum.into(), rows.into(), by_row.into()],
    )?;
    // Pass 2: the update's size.
    let squares = machine.zeros(u64::from(rows) * 8)?;
    let factors: [Arg; 2] = [by_row.into(), by_column.into()];
    let [r, c] = factors;
    launch(
        format!("adafactor_squares_{element}"),
        [rows, 1, 1],
        vec![g, scale.into(), columns.into(), r, c, squares.into()],
    )?;
    add_up(machine, squares, rows, step.sums, 1)?;
    // Pass 3.
    let [sums, rate, relative, decay] = step.arguments();
    let values = u64::from(rows) * u64::from(columns);
    launch(
        format!("adafactor_apply_{element}"),
        [rows, 1, 1],
        vec![
            of.weight.into(),
            g,
            scale.into(),
            columns.into(),
            r,
            c,
            sums,
            values.into(),
            rate,
            relative,
            decay,
        ],
    )
}

fn whole<M: Machine>(
    machine: &M,
    of: &Weight,
    second: Memory,
    count: usize,
    scale: f32,
    [beta, rest]: [Arg; 2],
    step: &Step,
) -> Result<(), M::Error> {
    let (element, g): (_, Arg) = (of.element.name(), of.gradient.into());
    check(
        machine,
        &[("second moments", Some(second), count as u64 * 4)],
    )?;
    let blocks = chunks(machine, count)?;
    let parts = machine.zeros(u64::from(blocks) * 8)?;
    let values = Arg::from(count as u64);
    machine.launch(&Call::new(
        Module::Adafactor,
        format!("adafactor_whole_{element}"),
        ([blocks, 1, 1], THREADS),
        vec![
            g,
            scale.into(),
            values,
            CHUNK.into(),
            beta,
            rest,
            second.into(),
            parts.into(),
        ],
    ))?;
    add_up(machine, parts, blocks, step.sums, 1)?;
    let [sums, rate, relative, decay] = step.arguments();
    machine.launch(&Call::new(
        Module::Adafactor,
        format!("adafactor_apply_whole_{element}"),
        ([(blocks * 32).min(BLOCKS), 1, 1], THREADS),
        vec![
            of.weight.into(),
            g,
            scale.into(),
            values,
            second.into(),
            sums,
            rate,
            relative,
            decay,
        ],
    ))
}
