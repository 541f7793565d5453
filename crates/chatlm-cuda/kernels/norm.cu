// T5's layer norm (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization") joined with the
// residual sum before it: y = x + r, n = y / sqrt(mean(y²) + eps) · w. A block a row.
#include "common.cuh"

namespace {

constexpr u32 THREADS = 256;

/// `r` and `y` may be null: then y is x. `y` may be x itself. `scales (rows)` keeps 1/rms for the backward.
template <class T>
__device__ void forward(const T* x, const T* r, const T* w, T* y, T* n, float* scales, u32 width, float eps) {
  SHARED(float, scratch, THREADS / LANES);
  const size_t from = static_cast<size_t>(blockIdx.x) * width;
  float squares = 0.0f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    float value = wide(x[from + i]);
    if (r != nullptr) {
      // What follows sees the sum as it is kept.
      const T sum = narrow<T>(value + wide(r[from + i]));
      y[from + i] = sum;
      value = wide(sum);
    }
    squares += value * value;
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(mean + eps);
  const T* kept = r != nullptr ? y : x;
  // A thread reads what it wrote itself.
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) n[from + i] = narrow<T>(wide(kept[from + i]) * scale * wide(w[i]));
  if (threadIdx.x == 0 && scales != nullptr) scales[blockIdx.x] = scale;
}

/// With s = 1/rms, h = g · w: dx = dy + s·h − y·s³·mean(h·y), the gradient of x and of r. `dy`, what
/// flows into y from elsewhere, may be null; dx may be dy itself.
template <class T>
__device__ void backward(const T* y, const T* w, const float* scales, const T* g, const T* dy, T* dx, u32 width) {
  SHARED(float, scratch, THREADS / LANES);
  const size_t from = static_cast<size_t>(blockIdx.x) * width;
  const float s = scales[blockIdx.x];
  float dot = 0.0f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) dot += wide(g[from + i]) * wide(w[i]) * wide(y[from + i]);
  const float cubed = s * s * s * (block_sum(dot, scratch) / static_cast<float>(width));
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float h = wide(g[from + i]) * wide(w[i]);
    const float before = dy != nullptr ? wide(dy[from + i]) : 0.0f;
    dx[from + i] = narrow<T>(before + (s * h - wide(y[from + i]) * cubed));
  }
}

/// Part of dw = Σ g·y·s: rows `chunk · blockIdx.y` on, a thread a column. `parts (chunks, width)`.
template <class T>
__device__ void weight(const T* y, const float* scales, const T* g, float* parts, u32 rows, u32 width, u32 chunk) {
  const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  const u32 first = blockIdx.y * chunk, end = min(rows, first + chunk);
  float sum = 0.0f;
  for (u32 row = first; row < end; ++row) {
    const size_t at = static_cast<size_t>(row) * width + column;
    sum += wide(g[at]) * wide(y[at]) * scales[row];
  }
  parts[static_cast<size_t>(blockIdx.y) * width + column] = sum;
}

}  // namespace

#define KERNELS(T, NAME)                                                                                         \
  KERNEL(norm_forward_##NAME)                                                                                    \
  (const T* x, const T* r, const T* w, T* y, T* n, float* scales, u32 width, float eps) {                        \
    forward(x, r, w, y, n, scales, width, eps);                                                                  \
  }                                                                                                              \
  REGISTER(norm_forward_##NAME)                                                                                  \
  KERNEL(norm_backward_##NAME)                                                                                   \
  (const T* y, const T* w, const float* scales, const T* g, const T* dy, T* dx, u32 width) {                     \
    backward(y, w, scales, g, dy, dx, width);                                                                    \
  }                                                                                                              \
  REGISTER(norm_backward_##NAME)                                                                                 \
  KERNEL(norm_weight_##NAME)                                                                                     \
  (const T* y, const float* scales, const T* g, float* parts, u32 rows, u32 width, u32 chunk) {                  \
    weight(y, scales, g, parts, rows, width, chunk);                                                             \
  }                                                                                                              \
  REGISTER(norm_weight_##NAME)
FOR_TYPES(KERNELS)
