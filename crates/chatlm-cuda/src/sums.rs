//! Sums for clipping and for f16's loss scaling.

use crate::machine::{Call, Element, Machine, Memory, Module, check};

pub(crate) const THREADS: u32 = 256;
/// Values of a block: fixed, so that no machine changes a sum.
pub(crate) const CHUNK: u64 = 1 << 15;

/// Blocks of [`CHUNK`] values.
pub(crate) fn chunks<M: Machine>(machine: &M, count: usize) -> Result<u32, M::Error> {
    u32::try_from((count as u64).div_ceil(CHUNK))
        .ok()
        .filter(|&chunks| i32::try_from(chunks).is_ok())
        .ok_or_else(|| machine.refuse(format!("{count} values are more than a kernel takes")))
}

/// `out[index] = Σ parts` of `count` f64.
pub(crate) fn add_up<M: Machine>(
    machine: &M,
    parts: Memory,
    count: u32,
    out: Memory,
    index: u32,
) -> Result<(), M::Error> {
    check(machine, &[("sums", Some(out), (u64::from(index) + 1) * 8)])?;
    machine.launch(&Call::new(
        Module::Sums,
        "sum_f64",
        ([1, 1, 1], THREADS),
        vec![parts.into(), count.into(), out.into(), index.into()],
    ))
}

/// `out[index] = Σ values` of `count` f32, in f64.
pub fn total<M: Machine>(
    machine: &M,
    values: Memory,
    count: u32,
    out: Memory,
    index: u32,
) -> Result<(), M::Error> {
    check(
        machine,
        &[
            ("values", Some(values), u64::from(count) * 4),
            ("sums", Some(out), (u64::from(index) + 1) * 8),
        ],
    )?;
    machine.launch(&Call::new(
        Module::Sums,
        "sum_f32",
        ([1, 1, 1], THREADS),
        vec![values.into(), count.into(), out.into(), index.into()],
    ))
}

/// `out[index] = Σ x²` of `count` values, in f64. It is finite exactly where every value is, since no
/// f32's square overflows there: that is how gradients are looked over before an update.
pub fn squared_norm<M: Machine>(
    machine: &M,
    element: Element,
    x: Memory,
    count: usize,
    out: Memory,
    index: u32,
) -> Result<(), M::Error> {
    check(machine, &[("x", Some(x), count as u64 * element.bytes())])?;
    let blocks = chunks(machine, count)?;
    let parts = machine.zeros(u64::from(blocks) * 8)?;
    if blocks > 0 {
        machine.launch(&Call::new(
            Module::Sums,
            format!("sum_squares_{}", element.name()),
            ([blocks, 1, 1], THREADS),
            vec![x.into(), (count as u64).into(), CHUNK.into(), parts.into()],
        ))?;
    }
    add_up(machine, parts, blocks, out, index)
}
