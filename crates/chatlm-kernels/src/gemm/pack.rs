//! Operands copied into panels: for each step of the inner dimension, the values of a panel's rows
//! (or columns) side by side; what is beyond the edge is 0.
#![expect(
    unsafe_code,
    reason = "panels are written through addresses and processor intrinsics; every caller is in \
              this module's parent"
)]

use rayon::prelude::*;

use super::kernel::Kernel;
use crate::cpu::Cpu;

/// A cache line of packed values.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u32; 16]);

/// One operand: `count` vectors of `depth` values; vector i begins at `i · step`, its values are
/// `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) values: *const f32,
    pub(super) step: usize,
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) depth: usize,
    /// Vectors a panel.
    pub(super) width: usize,
}

// SAFETY: the values are only read, and outlive the call that packs them.
unsafe impl Sync for Source {}
// SAFETY: as above.
unsafe impl Send for Source {}

/// Where the panels go.
#[derive(Clone, Copy)]
struct Panels(*mut u32);

// SAFETY: every task writes panels of its own.
unsafe impl Sync for Panels {}
// SAFETY: as above.
unsafe impl Send for Panels {}

/// Steps of the inner dimension that are a task where all panels are packed side by side.
const STEPS: usize = 8;
/// Values below which one thread packs alone.
const ALONE: usize = 16_384;

/// Packs all panels of `source` into `lines`.
pub(super) fn pack(kernel: &Kernel, source: Source, lines: &mut Vec<Line>, parallel: bool) {
    let depth = kernel.depth(source.depth);
    let panels = source.count.div_ceil(source.width);
    let needed = (panels * depth * source.width).div_ceil(16);
    if lines.len() < needed {
        lines.resize(needed, Line([0; 16]));
    }
    let to = Panels(lines.as_mut_ptr().cast());
    // Where the vectors lie side by side, a task takes some steps of all panels, so that memory is
    // read as it lies; otherwise it takes panels.
    let blocks = if source.step == 1 {
        depth.div_ceil(STEPS)
    } else {
        1
    };
    let one = |task: usize| {
        // Whole copies, as their fields alone may not cross threads.
        let (source, to) = (source, to);
        let (steps, panels) = if blocks > 1 {
            let from = task * STEPS;
            (from..(from + STEPS).min(depth), 0..panels)
        } else {
            (0..depth, task..task + 1)
        };
        let values_a_step = if kernel.pairs { 2 } else { 1 };
        let first = steps.start * values_a_step;
        for panel in panels {
            let part = Source {
                // SAFETY: the panel's first vector exists, as `panels` was rounded up, and so does
                // its first step.
                values: unsafe {
                    source
                        .values
                        .add(panel * source.width * source.step + first * source.stride)
                },
                count: source.width.min(source.count - panel * source.width),
                depth: (steps.len() * values_a_step).min(source.depth - first),
                ..source
            };
            let at = (panel * depth + steps.start) * source.width;
            // SAFETY: `lines` has room for all panels, and these steps of this one are written by no
            // other task.
            unsafe { panel_of(kernel, part, to.0.add(at)) }
        }
    };
    let tasks = if blocks > 1 { blocks } else { panels };
    if parallel && tasks > 1 && source.count * source.depth > ALONE {
        (0..tasks).into_par_iter().for_each(one);
    } else {
        (0..tasks).for_each(one);
    }
}

/// # Safety
/// The source's values must be readable and `to` have room for the panel.
unsafe fn panel_of(kernel: &Kernel, source: Source, to: *mut u32) {
    // SAFETY: the caller's; a kernel is only made for paths that the processor has.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if kernel.cpu >= Cpu::Avx512 {
            return match (source.stride, source.step, kernel.pairs) {
                (1, _, pairs) => x86::along(source, to, pairs, kernel.rounded),
                (_, 1, true) => x86::across_pairs(source, to),
                (_, 1, false) => x86::across(source, to, kernel.rounded),
                _ => scalar(kernel, source, to),
            };
        }
        scalar(kernel, source, to);
    }
}

/// To bf16 and back, to the nearest even; a NaN stays one.
#[inline]
fn rounded(value: f32) -> f32 {
    f32::from_bits(u32::from(bf16(value)) << 16)
}

#[inline]
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return ((bits >> 16) | 0x40) as u16;
    }
    ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
}

/// # Safety
/// As [`panel_of`].
unsafe fn scalar(kernel: &Kernel, source: Source, to: *mut u32) {
    let Source {
        values,
        step,
        stride,
        count,
        depth,
        width,
    } = source;
    // SAFETY: places are below `count` and `depth`, panels below the room the caller vouches for.
    let at = |i: usize, k: usize| unsafe { *values.add(i * step + k * stride) };
    let put = |place: usize, word: u32| {
        // SAFETY: as above.
        unsafe { *to.add(place) = word }
    };
    if kernel.pairs {
        for pair in 0..depth.div_ceil(2) {
            for i in 0..width {
                let word = if i < count {
                    let low = u32::from(bf16(at(i, 2 * pair)));
                    let high = if 2 * pair + 1 < depth {
                        u32::from(bf16(at(i, 2 * pair + 1)))
                    } else {
                        0
                    };
                    low | high << 16
                } else {
                    0
                };
                put(pair * width + i, word);
            }
        }
    } else if step == 1 {
        for k in 0..depth {
            for i in 0..count {
                let value = at(i, k);
                let value = if kernel.rounded {
                    rounded(value)
                } else {
                    value
                };
                put(k * width + i, value.to_bits());
            }
            for i in count..width {
                put(k * width + i, 0);
            }
        }
    } else {
        for i in 0..width {
            for k in 0..depth {
                let value = if i < count { at(i, k) } else { 0.0 };
                let value = if kernel.rounded {
                    rounded(value)
                } else {
                    value
                };
                put(k * width + i, value.to_bits());
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(
        clippy::wildcard_imports,
        reason = "names that say where they are from"
    )]
    use std::arch::x86_64::*;

    use super::{Source, rounded};

    /// Vectors whose values lie side by side: blocks of 16 by 16 words are turned.
    ///
    /// # Safety
    /// As [`super::panel_of`], with AVX-512, and with bf16 for `pairs`.
    pub(super) unsafe fn along(source: Source, to: *mut u32, pairs: bool, round: bool) {
        // SAFETY: the caller's.
        unsafe {
            if pairs {
                along_pairs(source, to);
            } else {
                along_values(source, to);
                if round {
                    round_all(to, source.depth * source.width);
                }
            }
        }
    }

    /// The first `count` of 16 lanes.
    fn lanes(count: usize) -> u16 {
        if count >= 16 {
            u16::MAX
        } else {
            (1u16 << count) - 1
        }
    }

    /// Vectors side by side, as they are.
    ///
    /// # Safety
    /// As [`super::panel_of`], with AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn across(source: Source, to: *mut u32, round: bool) {
        let Source {
            values,
            stride,
            count,
            depth,
            width,
            ..
        } = source;
        for k in 0..depth {
            for group in (0..width).step_by(16) {
                let inside = lanes(count.saturating_sub(group));
                // SAFETY: the masks keep loads to the `count` vectors and stores to the panel.
                unsafe {
                    let at = values.add(k * stride + group.min(count));
                    let line = _mm512_maskz_loadu_epi32(inside, at.cast());
                    let to = to.add(k * width + group);
                    _mm512_mask_storeu_epi32(to.cast(), lanes(width - group), line);
                }
            }
        }
        if round {
            // SAFETY: the panel was just written.
            unsafe { round_all(to, depth * width) }
        }
    }

    /// # Safety
    /// `to` must hold `count` values.
    unsafe fn round_all(to: *mut u32, count: usize) {
        let values = to.cast::<f32>();
        for place in 0..count {
            // SAFETY: the caller's.
            unsafe { *values.add(place) = rounded(*values.add(place)) };
        }
    }

    /// # Safety
    /// As [`along`].
    #[target_feature(enable = "avx512f")]
    unsafe fn along_values(source: Source, to: *mut u32) {
        let Source {
            values,
            step,
            count,
            depth,
            width,
            ..
        } = source;
        for group in (0..width).step_by(16) {
            let mask = lanes(width - group);
            for k in (0..depth).step_by(16) {
                let inside = lanes(depth - k);
                let mut block = [_mm512_setzero_si512(); 16];
                for (i, line) in block.iter_mut().enumerate() {
                    if group + i < count.min(width) {
                        // SAFETY: vector `group + i` exists, and the mask keeps to its values.
                        *line = unsafe {
                            let at = values.add((group + i) * step + k);
                            _mm512_maskz_loadu_epi32(inside, at.cast())
                        };
                    }
                }
                turn(&mut block);
                for (row, line) in block.iter().enumerate().take(depth - k) {
                    // SAFETY: the panel has `depth` steps of `width` values; the mask keeps to them.
                    unsafe {
                        let at = to.add((k + row) * width + group);
                        _mm512_mask_storeu_epi32(at.cast(), mask, *line);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`along`], with bf16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn along_pairs(source: Source, to: *mut u32) {
        let Source {
            values,
            step,
            count,
            depth,
            width,
            ..
        } = source;
        let pairs = depth.div_ceil(2);
        for group in (0..width).step_by(16) {
            let mask = lanes(width - group);
            for pair in (0..pairs).step_by(16) {
                let k = 2 * pair;
                let (low, high) = (lanes(depth - k), lanes(depth.saturating_sub(k + 16)));
                let mut block = [_mm512_setzero_si512(); 16];
                for (i, line) in block.iter_mut().enumerate() {
                    if group + i < count.min(width) {
                        // SAFETY: vector `group + i` exists, and the masks keep to its values; bf16
                        // pairs have the bits of words.
                        *line = unsafe {
                            let at = values.add((group + i) * step + k);
                            let first = _mm512_maskz_loadu_ps(low, at);
                            let second = _mm512_maskz_loadu_ps(high, at.wrapping_add(16));
                            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(
                                second, first,
                            ))
                        };
                    }
                }
                turn(&mut block);
                for (row, line) in block.iter().enumerate().take(pairs - pair) {
                    // SAFETY: the panel has `pairs` steps of `width` words; the mask keeps to them.
                    unsafe {
                        let at = to.add((pair + row) * width + group);
                        _mm512_mask_storeu_epi32(at.cast(), mask, *line);
                    }
                }
            }
        }
    }

    /// Vectors side by side: two values of the inner dimension are woven into pairs.
    ///
    /// # Safety
    /// As [`super::panel_of`], with AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn across_pairs(source: Source, to: *mut u32) {
        let Source {
            values,
            stride,
            count,
            depth,
            width,
            ..
        } = source;
        // Lane 2i takes value i of the first half, lane 2i + 1 of the second.
        let weave: [u16; 32] =
            std::array::from_fn(|lane| (lane / 2 + if lane % 2 == 0 { 0 } else { 16 }) as u16);
        // SAFETY: 32 lanes of 16 bits.
        let weave = unsafe { _mm512_loadu_si512(weave.as_ptr().cast()) };
        for pair in 0..depth.div_ceil(2) {
            for group in (0..width).step_by(16) {
                let inside = lanes(count.saturating_sub(group));
                // SAFETY: the masks keep loads to the `count` vectors there are and stores to the
                // panel; the second row is read only where it exists.
                unsafe {
                    let at = values.add(2 * pair * stride + group.min(count));
                    let first = _mm512_maskz_loadu_ps(inside, at);
                    let second = if 2 * pair + 1 < depth {
                        _mm512_maskz_loadu_ps(inside, at.add(stride))
                    } else {
                        _mm512_setzero_ps()
                    };
                    let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(
                        second, first,
                    ));
                    let words = _mm512_permutexvar_epi16(weave, both);
                    let to = to.add(pair * width + group);
                    _mm512_mask_storeu_epi32(to.cast(), lanes(width - group), words);
                }
            }
        }
    }

    /// Turns 16 lines of 16 words: line i gets word i of every line.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turn(block: &mut [__m512i; 16]) {
        let mut t = *block;
        for i in 0..8 {
            let (a, b) = (block[2 * i], block[2 * i + 1]);
            t[2 * i] = _mm512_unpacklo_epi32(a, b);
            t[2 * i + 1] = _mm512_unpackhi_epi32(a, b);
        }
        let mut u = t;
        for i in 0..4 {
            for j in 0..2 {
                let (a, b) = (t[4 * i + j], t[4 * i + j + 2]);
                u[4 * i + 2 * j] = _mm512_unpacklo_epi64(a, b);
                u[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a, b);
            }
        }
        // u[4i + j] holds column j + 4·lane of lines 4i to 4i + 3, in each 128-bit lane.
        for j in 0..4 {
            let (a, b, c, d) = (u[j], u[4 + j], u[8 + j], u[12 + j]);
            let low = _mm512_shuffle_i32x4::<0x88>(a, b);
            let high = _mm512_shuffle_i32x4::<0x88>(c, d);
            block[j] = _mm512_shuffle_i32x4::<0x88>(low, high);
            block[8 + j] = _mm512_shuffle_i32x4::<0xDD>(low, high);
            let low = _mm512_shuffle_i32x4::<0xDD>(a, b);
            let high = _mm512_shuffle_i32x4::<0xDD>(c, d);
            block[4 + j] = _mm512_shuffle_i32x4::<0x88>(low, high);
            block[12 + j] = _mm512_shuffle_i32x4::<0xDD>(low, high);
        }
    }
}
