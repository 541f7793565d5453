//! T5's relative position bias: one learned number a head for each bucket of distances
//! (Raffel et al. 2020, section 2.1; transformers' `_relative_position_bucket`).

use candle_core::{Result, Tensor};

use crate::config::Config;

/// The bucket of `key − query`. The first half of the buckets holds exact distances, the second
/// grows logarithmically up to `max_distance`.
pub(crate) fn bucket(
    distance: i64,
    bidirectional: bool,
    buckets: usize,
    max_distance: usize,
) -> u32 {
    let (mut buckets, mut base) = (buckets as i64, 0);
    let place = if bidirectional {
        buckets /= 2;
        if distance > 0 {
            base = buckets;
        }
        distance.abs()
    } else {
        (-distance).max(0)
    };
    let exact = buckets / 2;
    let offset = if place < exact {
        place
    } else {
        // In f32, as PyTorch computes it: the buckets' edges depend on its rounding.
        let ratio = (place as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
        let large = exact + (ratio * (buckets - exact) as f32) as i64;
        large.min(buckets - 1)
    };
    (base + offset) as u32
}

/// The buckets of all distances `key − query` between places of rows of up to `longest`.
pub(crate) fn distances(config: &Config, bidirectional: bool, longest: usize) -> Vec<u32> {
    let longest = longest.max(1) as i64;
    (1 - longest..longest)
        .map(|distance| {
            bucket(
                distance,
                bidirectional,
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance,
            )
        })
        .collect()
}

/// The bias `(1, heads, 1, keys)` of the query at the place `keys − 1`.
pub(crate) fn step_bias(weight: &Tensor, config: &Config, keys: usize) -> Result<Tensor> {
    let (_, heads) = weight.dims2()?;
    let buckets = distances(config, false, keys)[..keys].to_vec();
    let buckets = Tensor::from_vec(buckets, keys, weight.device())?;
    weight
        .index_select(&buckets, 0)?
        .t()?
        .contiguous()?
        .reshape((1, heads, 1, keys))
}
