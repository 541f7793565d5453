//! T5's relative position bias: one learned number a head for each bucket of distances
//! (Raffel et al. 2020, section 2.1; transformers' `_relative_position_bucket`).

use candle_core::{Device, Result, Tensor};

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

/// The bias `(1, heads, queries, keys)` for queries `from..from + queries`.
pub(crate) fn relative_bias(
    weight: &Tensor,
    config: &Config,
    bidirectional: bool,
    from: usize,
    queries: usize,
    keys: usize,
    device: &Device,
) -> Result<Tensor> {
    let buckets: Vec<u32> = (from..from + queries)
        .flat_map(|query| {
            (0..keys).map(move |key| {
                bucket(
                    key as i64 - query as i64,
                    bidirectional,
                    config.relative_attention_num_buckets,
                    config.relative_attention_max_distance,
                )
            })
        })
        .collect();
    let buckets = Tensor::from_vec(buckets, queries * keys, device)?;
    weight
        .index_select(&buckets, 0)?
        .reshape((queries, keys, config.num_heads))?
        .permute((2, 0, 1))?
        .unsqueeze(0)?
        .contiguous()
}
