//! Register kernels: dot products of some rows of a weight with some rows of the input, each sum in
//! an order of its own that no neighbour changes.
#![expect(
    unsafe_code,
    reason = "processor intrinsics over rows; every caller is in this module's parent"
)]
#![allow(
    clippy::cast_ptr_alignment,
    reason = "rows come as bytes, but lie as their numbers want it"
)]

use super::{StoredKind, TILE, WIDE};
use crate::cpu::Cpu;

/// Sums of a tile as bits of f32 or i32: all rows of the weight for a row of the input, then for the
/// next.
pub(super) type Sums = [u32; TILE * WIDE];

/// Dot products of `k` values: rows of the weight `w_row` bytes apart, of the input `x_row` bytes.
///
/// # Safety
/// The processor must have the path; the rows of the tile must be there; `sums` must have room.
type Run =
    unsafe fn(w: *const u8, w_row: usize, x: *const u8, x_row: usize, k: usize, sums: &mut [u32]);

/// The kernels of a path and a kind.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// `WIDE` rows by `WIDE`.
    pub(super) wide: Run,
    /// `TILE` rows by one.
    pub(super) narrow: Run,
    /// One row by one.
    pub(super) single: Run,
}

impl Tiles {
    pub(super) fn of(cpu: Cpu, kind: StoredKind) -> Self {
        #[cfg(target_arch = "x86_64")]
        match (cpu, kind) {
            (Cpu::Plain | Cpu::Twin, _) => {}
            (Cpu::Avx2, StoredKind::F32) => return x86::avx2_f32::TILES,
            (Cpu::Avx2, StoredKind::Bf16) => return x86::avx2_bf16::TILES,
            (Cpu::Avx2, StoredKind::F16) if std::is_x86_feature_detected!("f16c") => {
                return x86::avx2_f16::TILES;
            }
            (Cpu::Avx512 | Cpu::Avx512Bf16, StoredKind::F32) => return x86::avx512_f32::TILES,
            (Cpu::Avx512 | Cpu::Avx512Bf16, StoredKind::F16) => return x86::avx512_f16::TILES,
            (Cpu::Avx512, StoredKind::Bf16) => return x86::avx512_bf16::TILES,
            (Cpu::Avx512Bf16, StoredKind::Bf16) => return x86::avx512_bf16_pairs::TILES,
            (Cpu::Avx512 | Cpu::Avx512Bf16, StoredKind::Int8)
                if std::is_x86_feature_detected!("avx512vnni") =>
            {
                return x86::avx512_int8::TILES;
            }
            (_, StoredKind::Int8) => return x86::avx2_int8::TILES,
            (Cpu::Avx2, StoredKind::F16) => {}
        }
        let _ = cpu;
        match kind {
            StoredKind::F32 => plain::F32,
            StoredKind::F16 => plain::F16,
            StoredKind::Bf16 => plain::BF16,
            StoredKind::Int8 => plain::INT8,
        }
    }
}

/// What the compiler makes of plain loops.
mod plain {
    use super::{Run, TILE, Tiles, WIDE};

    const LANES: usize = 16;

    macro_rules! tiles {
        ($name:ident, $run:ident, $w:ty, $x:ty, $widen:expr) => {
            pub(super) const $name: Tiles = Tiles {
                wide: $run::<WIDE, WIDE> as Run,
                narrow: $run::<TILE, 1>,
                single: $run::<1, 1>,
            };

            /// # Safety
            /// As [`Run`].
            unsafe fn $run<const N: usize, const M: usize>(
                w: *const u8,
                w_row: usize,
                x: *const u8,
                x_row: usize,
                k: usize,
                sums: &mut [u32],
            ) {
                for i in 0..N {
                    for j in 0..M {
                        // SAFETY: row i of the weight and row j of the input hold k values.
                        let (w, x) = unsafe {
                            (
                                std::slice::from_raw_parts(w.add(i * w_row).cast::<$w>(), k),
                                std::slice::from_raw_parts(x.add(j * x_row).cast::<$x>(), k),
                            )
                        };
                        let mut lanes = [0.0f32; LANES];
                        let ((w, w_rest), (x, x_rest)) =
                            (w.as_chunks::<LANES>(), x.as_chunks::<LANES>());
                        for (w, x) in w.iter().zip(x) {
                            for lane in 0..LANES {
                                lanes[lane] += $widen(w[lane]) * x[lane];
                            }
                        }
                        let tail: f32 =
                            w_rest.iter().zip(x_rest).map(|(&w, x)| $widen(w) * x).sum();
                        sums[j * N + i] = (lanes.iter().sum::<f32>() + tail).to_bits();
                    }
                }
            }
        };
    }

    tiles!(F32, f32_tile, f32, f32, |w: f32| w);
    tiles!(F16, f16_tile, u16, f32, |w: u16| half::f16::from_bits(w)
        .to_f32());
    tiles!(BF16, bf16_tile, u16, f32, |w: u16| f32::from_bits(
        u32::from(w) << 16
    ));

    pub(super) const INT8: Tiles = Tiles {
        wide: int8::<WIDE, WIDE> as Run,
        narrow: int8::<TILE, 1>,
        single: int8::<1, 1>,
    };

    /// # Safety
    /// As [`Run`].
    unsafe fn int8<const N: usize, const M: usize>(
        w: *const u8,
        w_row: usize,
        x: *const u8,
        x_row: usize,
        k: usize,
        sums: &mut [u32],
    ) {
        for i in 0..N {
            for j in 0..M {
                // SAFETY: row i of the weight and row j of the input hold k bytes.
                let (w, x) = unsafe {
                    (
                        std::slice::from_raw_parts(w.add(i * w_row), k),
                        std::slice::from_raw_parts(x.add(j * x_row).cast::<i8>(), k),
                    )
                };
                let products = w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x));
                sums[j * N + i] = products.sum::<i32>() as u32;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    /// A module with the three tiles of one kind on one path.
    ///
    /// `load_w` and `load_x` make a vector of the values at an address, `step` adds their products,
    /// `reduce` makes one number of a sum's lanes, `sixteen` of sixteen sums at once, by the same tree of
    /// additions; `tail` is the product of two single values.
    macro_rules! tiles {
        (
            $name:ident, $features:literal, $lanes:literal, $w:ty, $x:ty,
            zero: $zero:expr, load_w: $load_w:expr, load_x: $load_x:expr, step: $step:expr,
            reduce: $reduce:expr, sixteen: $sixteen:expr, tail: $tail:expr, bits: $bits:expr
        ) => {
            pub(super) mod $name {
                #[allow(
                    clippy::wildcard_imports,
                    reason = "names that say where they are from"
                )]
                use std::arch::x86_64::*;

                use super::super::{Run, TILE, Tiles, WIDE};

                pub(in super::super) const TILES: Tiles = Tiles {
                    wide: run::<WIDE, WIDE> as Run,
                    narrow: run::<TILE, 1>,
                    single: run::<1, 1>,
                };

                /// # Safety
                /// As [`Run`].
                #[target_feature(enable = $features)]
                unsafe fn run<const N: usize, const M: usize>(
                    w: *const u8,
                    w_row: usize,
                    x: *const u8,
                    x_row: usize,
                    k: usize,
                    sums: &mut [u32],
                ) {
                    let whole = k / $lanes * $lanes;
                    let mut lanes = [[$zero; M]; N];
                    let mut at = 0;
                    while at < whole {
                        // SAFETY: the rows hold `whole` values and more; a prefetch may be anywhere.
                        unsafe {
                            let mut xs = [$zero; M].map(|_| std::mem::MaybeUninit::uninit());
                            for j in 0..M {
                                let x = x.add(j * x_row).cast::<$x>().add(at);
                                xs[j] = std::mem::MaybeUninit::new($load_x(x));
                            }
                            for i in 0..N {
                                let from = w.add(i * w_row).cast::<$w>().add(at);
                                if M == 1 {
                                    // The next tile's row: what streams in short rows is not foreseen
                                    // by the processor.
                                    let next = from.cast::<u8>().wrapping_add(N * w_row);
                                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                                }
                                let w = $load_w(from);
                                for j in 0..M {
                                    lanes[i][j] = $step(lanes[i][j], w, xs[j].assume_init());
                                }
                            }
                        }
                        at += $lanes;
                    }
                    if N * M == 16 && whole == k {
                        let mut all = [$zero; 16];
                        for (i, lanes) in lanes.iter().enumerate() {
                            for (j, lanes) in lanes.iter().enumerate() {
                                all[i * M + j] = *lanes;
                            }
                        }
                        $sixteen(&all, sums);
                        return;
                    }
                    for i in 0..N {
                        for j in 0..M {
                            let mut sum = $reduce(lanes[i][j]);
                            for at in whole..k {
                                // SAFETY: inside the rows.
                                unsafe {
                                    let w = *w.add(i * w_row).cast::<$w>().add(at);
                                    let x = *x.add(j * x_row).cast::<$x>().add(at);
                                    sum += $tail(w, x);
                                }
                            }
                            sums[j * N + i] = $bits(sum);
                        }
                    }
                }

                #[allow(dead_code, reason = "of the paths with eight lanes")]
                #[target_feature(enable = "avx2")]
                fn sum_f32(lanes: __m256) -> f32 {
                    let four = _mm_add_ps(
                        _mm256_castps256_ps128(lanes),
                        _mm256_extractf128_ps::<1>(lanes),
                    );
                    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
                }

                #[allow(dead_code, reason = "of the paths with eight lanes")]
                #[target_feature(enable = "avx2")]
                fn sum_i32(lanes: __m256i) -> i32 {
                    let four = _mm_add_epi32(
                        _mm256_castsi256_si128(lanes),
                        _mm256_extracti128_si256::<1>(lanes),
                    );
                    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
                    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
                }
            }
        };
    }

    #[allow(
        clippy::wildcard_imports,
        reason = "names that say where they are from"
    )]
    use std::arch::x86_64::*;

    /// The sums of sixteen vectors' lanes: halves are added to halves, as `_mm512_reduce_add_ps` does
    /// with one. Vector `4 i + j` becomes number `4 j + i`.
    macro_rules! sixteen {
        ($name:ident, $vector:ty, $add:ident, $halves:ident, $pairs:expr, $store:expr) => {
            #[inline]
            #[target_feature(enable = "avx512f")]
            fn $name(all: &[$vector; 16], sums: &mut [u32]) {
                let mut eight = [all[0]; 8];
                for (i, to) in eight.iter_mut().enumerate() {
                    let (a, b) = (all[2 * i], all[2 * i + 1]);
                    *to = $add($halves::<0x44>(a, b), $halves::<0xee>(a, b));
                }
                let mut four = [all[0]; 4];
                for (i, to) in four.iter_mut().enumerate() {
                    let (a, b) = (eight[2 * i], eight[2 * i + 1]);
                    *to = $add($halves::<0x88>(a, b), $halves::<0xdd>(a, b));
                }
                let one = $pairs(four);
                let room: &mut [u32; 16] = match sums.first_chunk_mut() {
                    Some(room) => room,
                    None => return,
                };
                // SAFETY: there is room for sixteen numbers.
                unsafe { $store(room.as_mut_ptr(), one) }
            }
        };
    }

    sixteen!(
        sixteen_f32,
        __m512,
        _mm512_add_ps,
        _mm512_shuffle_f32x4,
        |v: [__m512; 4]| {
            let two = |a, b| {
                _mm512_add_ps(
                    _mm512_shuffle_ps::<0x44>(a, b),
                    _mm512_shuffle_ps::<0xee>(a, b),
                )
            };
            let (a, b) = (two(v[0], v[1]), two(v[2], v[3]));
            _mm512_add_ps(
                _mm512_shuffle_ps::<0x88>(a, b),
                _mm512_shuffle_ps::<0xdd>(a, b),
            )
        },
        |to: *mut u32, one| _mm512_storeu_ps(to.cast(), one)
    );

    sixteen!(
        sixteen_i32,
        __m512i,
        _mm512_add_epi32,
        _mm512_shuffle_i32x4,
        |v: [__m512i; 4]| {
            let float = |v| _mm512_castsi512_ps(v);
            let whole = |v| _mm512_castps_si512(v);
            let two = |a, b| {
                let (a, b) = (float(a), float(b));
                _mm512_add_epi32(
                    whole(_mm512_shuffle_ps::<0x44>(a, b)),
                    whole(_mm512_shuffle_ps::<0xee>(a, b)),
                )
            };
            let (a, b) = (float(two(v[0], v[1])), float(two(v[2], v[3])));
            _mm512_add_epi32(
                whole(_mm512_shuffle_ps::<0x88>(a, b)),
                whole(_mm512_shuffle_ps::<0xdd>(a, b)),
            )
        },
        |to: *mut u32, one| _mm512_storeu_si512(to.cast(), one)
    );

    fn widened(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    tiles!(
        avx512_f32, "avx512f", 16, f32, f32,
        zero: _mm512_setzero_ps(),
        load_w: |at| _mm512_loadu_ps(at),
        load_x: |at| _mm512_loadu_ps(at),
        step: |sum, w, x| _mm512_fmadd_ps(w, x, sum),
        reduce: |lanes| _mm512_reduce_add_ps(lanes),
        sixteen: |all: &[__m512; 16], sums: &mut [u32]| super::sixteen_f32(all, sums),
        tail: |w, x| w * x,
        bits: f32::to_bits
    );

    tiles!(
        avx512_f16, "avx512f", 16, u16, f32,
        zero: _mm512_setzero_ps(),
        load_w: |at: *const u16| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
        load_x: |at| _mm512_loadu_ps(at),
        step: |sum, w, x| _mm512_fmadd_ps(w, x, sum),
        reduce: |lanes| _mm512_reduce_add_ps(lanes),
        sixteen: |all: &[__m512; 16], sums: &mut [u32]| super::sixteen_f32(all, sums),
        tail: |w, x| half::f16::from_bits(w).to_f32() * x,
        bits: f32::to_bits
    );

    tiles!(
        avx512_bf16, "avx512f", 16, u16, f32,
        zero: _mm512_setzero_ps(),
        load_w: |at: *const u16| {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        },
        load_x: |at| _mm512_loadu_ps(at),
        step: |sum, w, x| _mm512_fmadd_ps(w, x, sum),
        reduce: |lanes| _mm512_reduce_add_ps(lanes),
        sixteen: |all: &[__m512; 16], sums: &mut [u32]| super::sixteen_f32(all, sums),
        tail: |w, x| super::widened(w) * x,
        bits: f32::to_bits
    );

    tiles!(
        avx512_bf16_pairs, "avx512f,avx512bf16", 32, u16, u16,
        zero: _mm512_setzero_ps(),
        load_w: |at: *const u16| {
            std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()))
        },
        load_x: |at: *const u16| {
            std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast()))
        },
        step: |sum, w, x| _mm512_dpbf16_ps(sum, w, x),
        reduce: |lanes| _mm512_reduce_add_ps(lanes),
        sixteen: |all: &[__m512; 16], sums: &mut [u32]| super::sixteen_f32(all, sums),
        tail: |w, x| super::widened(w) * super::widened(x),
        bits: f32::to_bits
    );

    tiles!(
        avx512_int8, "avx512f,avx512vnni", 64, u8, i8,
        zero: _mm512_setzero_si512(),
        load_w: |at: *const u8| _mm512_loadu_si512(at.cast()),
        load_x: |at: *const i8| _mm512_loadu_si512(at.cast()),
        step: |sum, w, x| _mm512_dpbusd_epi32(sum, w, x),
        reduce: |lanes| _mm512_reduce_add_epi32(lanes),
        sixteen: |all: &[__m512i; 16], sums: &mut [u32]| super::sixteen_i32(all, sums),
        tail: |w, x| i32::from(w) * i32::from(x),
        bits: |sum: i32| sum as u32
    );

    tiles!(
        avx2_f32, "avx2,fma", 8, f32, f32,
        zero: _mm256_setzero_ps(),
        load_w: |at| _mm256_loadu_ps(at),
        load_x: |at| _mm256_loadu_ps(at),
        step: |sum, w, x| _mm256_fmadd_ps(w, x, sum),
        reduce: |lanes| sum_f32(lanes),
        sixteen: |all: &[__m256; 16], sums: &mut [u32]| {
            for (place, &lanes) in all.iter().enumerate() {
                sums[place % 4 * 4 + place / 4] = sum_f32(lanes).to_bits();
            }
        },
        tail: |w, x| w * x,
        bits: f32::to_bits
    );

    tiles!(
        avx2_f16, "avx2,fma,f16c", 8, u16, f32,
        zero: _mm256_setzero_ps(),
        load_w: |at: *const u16| _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
        load_x: |at| _mm256_loadu_ps(at),
        step: |sum, w, x| _mm256_fmadd_ps(w, x, sum),
        reduce: |lanes| sum_f32(lanes),
        sixteen: |all: &[__m256; 16], sums: &mut [u32]| {
            for (place, &lanes) in all.iter().enumerate() {
                sums[place % 4 * 4 + place / 4] = sum_f32(lanes).to_bits();
            }
        },
        tail: |w, x| half::f16::from_bits(w).to_f32() * x,
        bits: f32::to_bits
    );

    tiles!(
        avx2_bf16, "avx2,fma", 8, u16, f32,
        zero: _mm256_setzero_ps(),
        load_w: |at: *const u16| {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        },
        load_x: |at| _mm256_loadu_ps(at),
        step: |sum, w, x| _mm256_fmadd_ps(w, x, sum),
        reduce: |lanes| sum_f32(lanes),
        sixteen: |all: &[__m256; 16], sums: &mut [u32]| {
            for (place, &lanes) in all.iter().enumerate() {
                sums[place % 4 * 4 + place / 4] = sum_f32(lanes).to_bits();
            }
        },
        tail: |w, x| super::widened(w) * x,
        bits: f32::to_bits
    );

    // Bytes as 16-bit numbers: their products' sums cannot overflow.
    tiles!(
        avx2_int8, "avx2", 16, u8, i8,
        zero: _mm256_setzero_si256(),
        load_w: |at: *const u8| _mm256_cvtepu8_epi16(_mm_loadu_si128(at.cast())),
        load_x: |at: *const i8| _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast())),
        step: |sum, w, x| _mm256_add_epi32(sum, _mm256_madd_epi16(w, x)),
        reduce: |lanes| sum_i32(lanes),
        sixteen: |all: &[__m256i; 16], sums: &mut [u32]| {
            for (place, &lanes) in all.iter().enumerate() {
                sums[place % 4 * 4 + place / 4] = sum_i32(lanes) as u32;
            }
        },
        tail: |w, x| i32::from(w) * i32::from(x),
        bits: |sum: i32| sum as u32
    );
}
