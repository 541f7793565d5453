//! Register kernels: a tile of the result from one panel of each operand.
#![expect(
    unsafe_code,
    reason = "processor intrinsics over packed panels; every caller is in this module's parent"
)]

use super::Precision;
use crate::cpu::Cpu;

/// `c (rows, columns) = [c +] scale · Σₖ a[k] ⊗ b[k]` over `depth` packed values: `a` holds `rows`
/// values a step, `b` holds `columns`, each an f32 or a pair of bf16.
///
/// # Safety
/// The processor must have the path; the panels must hold `depth` steps; `c` must be valid for reads
/// and writes of `rows` rows of `columns` values, `row` values apart.
type Run = unsafe fn(
    depth: usize,
    a: *const u32,
    b: *const u32,
    c: *mut f32,
    row: usize,
    scale: f32,
    add: bool,
);

/// A register kernel, and how it wants its panels.
pub(super) struct Kernel {
    pub(super) cpu: Cpu,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Two bf16 in each packed value.
    pub(super) pairs: bool,
    /// Operands are rounded to bf16 and kept as f32.
    pub(super) rounded: bool,
    pub(super) run: Run,
}

/// Values of the largest tile.
pub(super) const LARGEST: usize = 12 * 32;

impl Kernel {
    pub(super) fn of(cpu: Cpu, precision: Precision) -> &'static Self {
        let bf16 = usize::from(precision == Precision::Bf16);
        match cpu {
            Cpu::Twin | Cpu::Plain => &PLAIN[bf16],
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx2 => &x86::AVX2[bf16],
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512 => &x86::AVX512[bf16],
            #[cfg(target_arch = "x86_64")]
            Cpu::Avx512Bf16 => &x86::AVX512_BF16[bf16],
            #[cfg(not(target_arch = "x86_64"))]
            _ => &PLAIN[bf16],
        }
    }

    /// Packed values for an inner dimension of `k`.
    pub(super) fn depth(&self, k: usize) -> usize {
        if self.pairs { k.div_ceil(2) } else { k }
    }
}

const fn plain_kernel(rounded: bool) -> Kernel {
    Kernel {
        cpu: Cpu::Plain,
        rows: 4,
        columns: 8,
        pairs: false,
        rounded,
        run: plain,
    }
}

static PLAIN: [Kernel; 2] = [plain_kernel(false), plain_kernel(true)];

/// # Safety
/// As [`Run`].
unsafe fn plain(
    depth: usize,
    a: *const u32,
    b: *const u32,
    c: *mut f32,
    row: usize,
    scale: f32,
    add: bool,
) {
    let mut sums = [[0.0f32; 8]; 4];
    let (a, b) = (a.cast::<[f32; 4]>(), b.cast::<[f32; 8]>());
    for k in 0..depth {
        // SAFETY: the panels hold `depth` steps of 4 and 8 values.
        let (a, b) = unsafe { (*a.add(k), *b.add(k)) };
        for i in 0..4 {
            for j in 0..8 {
                sums[i][j] += a[i] * b[j];
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            // SAFETY: c has 4 rows of 8 values.
            unsafe {
                let c = c.add(i * row + j);
                let before = if add { *c } else { 0.0 };
                *c = before + scale * sum;
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

    use super::{Cpu, Kernel, Run};

    const fn kernel(
        cpu: Cpu,
        rows: usize,
        columns: usize,
        pairs: bool,
        rounded: bool,
        run: Run,
    ) -> Kernel {
        Kernel {
            cpu,
            rows,
            columns,
            pairs,
            rounded,
            run,
        }
    }

    pub(super) static AVX2: [Kernel; 2] = [
        kernel(Cpu::Avx2, 6, 16, false, false, avx2),
        kernel(Cpu::Avx2, 6, 16, false, true, avx2),
    ];
    pub(super) static AVX512: [Kernel; 2] = [
        kernel(Cpu::Avx512, 12, 32, false, false, avx512),
        kernel(Cpu::Avx512, 12, 32, false, true, avx512),
    ];
    pub(super) static AVX512_BF16: [Kernel; 2] = [
        kernel(Cpu::Avx512Bf16, 12, 32, false, false, avx512),
        kernel(Cpu::Avx512Bf16, 12, 32, true, false, avx512_bf16),
    ];

    /// # Safety
    /// As [`Run`], with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(
        depth: usize,
        a: *const u32,
        b: *const u32,
        c: *mut f32,
        row: usize,
        scale: f32,
        add: bool,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; 6];
        let (a, b) = (a.cast::<f32>(), b.cast::<f32>());
        for k in 0..depth {
            // SAFETY: the panels hold `depth` steps of 6 and 16 values.
            unsafe {
                let (a, b) = (a.add(k * 6), b.add(k * 16));
                let (left, right) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = _mm256_set1_ps(*a.add(i));
                    sums[0] = _mm256_fmadd_ps(a, left, sums[0]);
                    sums[1] = _mm256_fmadd_ps(a, right, sums[1]);
                }
            }
        }
        let scale = _mm256_set1_ps(scale);
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                // SAFETY: c has 6 rows of 16 values.
                unsafe {
                    let c = c.add(i * row + j * 8);
                    let before = if add {
                        _mm256_loadu_ps(c)
                    } else {
                        _mm256_setzero_ps()
                    };
                    _mm256_storeu_ps(c, _mm256_fmadd_ps(scale, *sum, before));
                }
            }
        }
    }

    /// # Safety
    /// c must have 12 rows of 32 values, `row` apart.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store(sums: &[[__m512; 2]; 12], c: *mut f32, row: usize, scale: f32, add: bool) {
        let scale = _mm512_set1_ps(scale);
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                // SAFETY: the caller's.
                unsafe {
                    let c = c.add(i * row + j * 16);
                    let before = if add {
                        _mm512_loadu_ps(c)
                    } else {
                        _mm512_setzero_ps()
                    };
                    _mm512_storeu_ps(c, _mm512_fmadd_ps(scale, *sum, before));
                }
            }
        }
    }

    /// # Safety
    /// As [`Run`], with AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(
        depth: usize,
        a: *const u32,
        b: *const u32,
        c: *mut f32,
        row: usize,
        scale: f32,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 2]; 12];
        let (a, b) = (a.cast::<f32>(), b.cast::<f32>());
        for k in 0..depth {
            // SAFETY: the panels hold `depth` steps of 12 and 32 values.
            unsafe {
                let (a, b) = (a.add(k * 12), b.add(k * 32));
                let (left, right) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*a.add(i));
                    sums[0] = _mm512_fmadd_ps(a, left, sums[0]);
                    sums[1] = _mm512_fmadd_ps(a, right, sums[1]);
                }
            }
        }
        // SAFETY: the caller's.
        unsafe { store(&sums, c, row, scale, add) }
    }

    /// # Safety
    /// As [`Run`], with AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn avx512_bf16(
        depth: usize,
        a: *const u32,
        b: *const u32,
        c: *mut f32,
        row: usize,
        scale: f32,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 2]; 12];
        for k in 0..depth {
            // SAFETY: the panels hold `depth` steps of 12 and 32 pairs; a vector of bf16 pairs has
            // the bits of a vector of 32-bit words.
            unsafe {
                let (a, b) = (a.add(k * 12), b.add(k * 32));
                let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
                let left = pairs(_mm512_loadu_si512(b.cast()));
                let right = pairs(_mm512_loadu_si512(b.add(16).cast()));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = pairs(_mm512_set1_epi32(*a.add(i) as i32));
                    sums[0] = _mm512_dpbf16_ps(sums[0], a, left);
                    sums[1] = _mm512_dpbf16_ps(sums[1], a, right);
                }
            }
        }
        // SAFETY: the caller's.
        unsafe { store(&sums, c, row, scale, add) }
    }
}
