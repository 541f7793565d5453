//! Loops that the compiler turns into vector code: an exponential, sums in a fixed order, and the
//! door through which they get the widest vectors that the processor has.

/// Runs `work`, compiled once for each vector width, on the widest that the processor has. Nothing
/// here depends on the width: lanes are added in the same order, products are never fused.
#[inline(always)]
pub(crate) fn vector<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// The bits of bf16: to nearest, ties to even; NaN stays one.
#[inline(always)]
pub(crate) fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
}

/// Lanes of a sum.
const LANES: usize = 16;

/// `exp(x)` with a relative error below 1e-6, 0 below -87.3. Cephes' polynomial for `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.3);
    // Rounds to the nearest whole number by the magic constant 1.5·2²³.
    let magic = 12_582_912.0f32;
    let shifted = clamped * LOG2_E + magic;
    let n = shifted - magic;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    // The whole number is in the low bits of `shifted`: no conversion, which would saturate.
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { value * scale }
}

/// `sum += values`, by all threads.
pub(crate) fn add_to(sum: &mut [f32], values: &[f32]) {
    use rayon::prelude::*;
    const TASK: usize = 1 << 14;
    sum.par_chunks_mut(TASK)
        .zip(values.par_chunks(TASK))
        .for_each(|(sum, values)| {
            vector(
                #[inline(always)]
                || {
                    for (sum, value) in sum.iter_mut().zip(values) {
                        *sum += value;
                    }
                },
            );
        });
}

/// `tanh(x)`, from the exponential.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// Sums in lanes, and then the lanes in order.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// The sum of products, in the same order.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let tail: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + tail
}

/// The largest value, negative infinity for none.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] {
                chunk[lane]
            } else {
                lanes[lane]
            };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Replaces the values by `exp(value - shift)` and answers their sum.
#[inline(always)]
pub(crate) fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
    for value in values.iter_mut() {
        *value = exp(*value - shift);
    }
    sum(values)
}

/// `log Σ exp(values)`, the values kept.
#[inline(always)]
pub(crate) fn log_sum_exp(values: &[f32]) -> f32 {
    let largest = max(values);
    if !largest.is_finite() {
        return largest;
    }
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += exp(chunk[lane] - largest);
        }
    }
    let tail: f32 = rest.iter().map(|&value| exp(value - largest)).sum();
    largest + (lanes.iter().sum::<f32>() + tail).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_within_a_millionth() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) / expected - 1.0).abs();
            assert!(error < 1e-6, "exp({x}): {error}");
            x += 0.001_7;
        }
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0).to_bits(), 1.0f32.to_bits());
    }

    #[test]
    fn wide_and_narrow_vectors_give_the_same_bits() {
        let values: Vec<f32> = (0..1003)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0)
            .collect();
        let wide = vector(
            #[inline(always)]
            || (sum(&values), dot(&values, &values), log_sum_exp(&values)),
        );
        let narrow = (sum(&values), dot(&values, &values), log_sum_exp(&values));
        assert_eq!(format!("{wide:?}"), format!("{narrow:?}"));
    }
}
