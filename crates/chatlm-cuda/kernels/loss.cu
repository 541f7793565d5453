// Cross-entropy with label smoothing (Szegedy et al. 2016; as PyTorch's `label_smoothing`) and
// log-probabilities, over a chunk of logits (rows, width) that a matrix product has just made; with a
// factor the logits become their gradient in place, so no other tensor of that size exists (the idea
// of Liger Kernel's fused linear cross-entropy, Hsu et al. 2024). A block a row.
#include "common.cuh"

namespace {

constexpr u32 THREADS = 256;

struct Normal {
  float largest, total;  // the log of the softmax's sum is largest + log(total)
  float sum;             // Σ logits
};

/// One pass over a row: the largest logit, Σ exp(logit − largest) and Σ logit. What is not finite shows in `total`.
template <class T>
__device__ Normal normal(const T* logits, u32 width, float scale, float* scratch) {
  float largest = LOWEST, total = 0.0f, sum = 0.0f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float logit = scale * wide(logits[i]);
    if (logit > largest) {
      total = total * expf(largest - logit) + 1.0f;
      largest = logit;
    } else {
      total += expf(logit - largest);
    }
    sum += logit;
  }
  const float top = block_max(largest, scratch);
  total = block_sum(total * expf(largest - top), scratch);
  return {top, total, block_sum(sum, scratch)};
}

/// The loss of each row in nats, 0 where its target is `ignore`, NaN where it is outside the vocabulary;
/// `scale` is what logits are multiplied by first. With `gradient`, logits become `factor` times the
/// gradient of the loss by them.
template <class T>
__device__ void cross_entropy(T* all, const u32* targets, u32 width, u32 ignore, float smoothing, float scale,
                              u32 gradient, float factor, float* losses) {
  SHARED(float, scratch, THREADS / LANES);
  const u32 target = targets[blockIdx.x];
  T* logits = all + static_cast<size_t>(blockIdx.x) * width;
  if (target == ignore) {
    if (gradient != 0)
      for (u32 i = threadIdx.x; i < width; i += blockDim.x) logits[i] = narrow<T>(0.0f);
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
    return;
  }
  // The target's logit is read before any thread writes: `normal` ends in barriers.
  const float hit = target < width ? scale * wide(logits[target]) : NAN;
  const Normal row = normal(logits, width, scale, scratch);
  if (threadIdx.x == 0) {
    float score = (1.0f - smoothing) * hit;
    if (smoothing > 0.0f) score += smoothing * row.sum / static_cast<float>(width);
    losses[blockIdx.x] = row.largest + logf(row.total) - score;
  }
  if (gradient == 0) return;
  const float by = factor * scale, share = by / row.total, even = by * smoothing / static_cast<float>(width);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    float value = expf(scale * wide(logits[i]) - row.largest) * share - even;
    if (i == target) value -= by * (1.0f - smoothing);
    logits[i] = narrow<T>(value);
  }
}

/// The log-probability of each row's target, 0 where it is `ignore`. With `by (rows)`, logits become the
/// gradient of Σ by[row] · log-probability(row).
template <class T>
__device__ void log_probability(T* all, const u32* targets, u32 width, u32 ignore, float scale, const float* by,
                                float* out) {
  SHARED(float, scratch, THREADS / LANES);
  const u32 target = targets[blockIdx.x];
  T* logits = all + static_cast<size_t>(blockIdx.x) * width;
  if (target == ignore) {
    if (by != nullptr)
      for (u32 i = threadIdx.x; i < width; i += blockDim.x) logits[i] = narrow<T>(0.0f);
    if (threadIdx.x == 0) out[blockIdx.x] = 0.0f;
    return;
  }
  const float hit = target < width ? scale * wide(logits[target]) : NAN;
  const Normal row = normal(logits, width, scale, scratch);
  const float norm = row.largest + logf(row.total);
  if (threadIdx.x == 0) out[blockIdx.x] = hit - norm;
  if (by == nullptr) return;
  const float factor = scale * by[blockIdx.x];
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = -factor * expf(scale * wide(logits[i]) - norm);
    logits[i] = narrow<T>(i == target ? value + factor : value);
  }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                          \
  KERNEL(loss_cross_entropy_##NAME)                                                                               \
  (T* logits, const u32* targets, u32 width, u32 ignore, float smoothing, float scale, u32 gradient, float factor, \
   float* losses) {                                                                                               \
    cross_entropy(logits, targets, width, ignore, smoothing, scale, gradient, factor, losses);                    \
  }                                                                                                               \
  REGISTER(loss_cross_entropy_##NAME)                                                                             \
  KERNEL(loss_log_probability_##NAME)                                                                             \
  (T* logits, const u32* targets, u32 width, u32 ignore, float scale, const float* by, float* out) {              \
    log_probability(logits, targets, width, ignore, scale, by, out);                                              \
  }                                                                                                               \
  REGISTER(loss_log_probability_##NAME)
FOR_TYPES(KERNELS)
