// What stands between the matrix products: dropout (Srivastava et al. 2014), alone or joined with the
// residual sum, ReLU, or the gated GELU of T5 v1.1 (Hendrycks and Gimpel 2016; Shazeer 2020). A mask is
// made again from its keys wherever it is needed, bit for bit the processor's. A block a place.
#include "common.cuh"

namespace {

/// The places' rows: row_of (places), starts (rows + 1).
struct Places {
  const u32 *row_of, *starts;
};

/// The key of this block's line of hidden values.
__device__ __forceinline__ u64 place_key(const Dropout& drop, Places places) {
  if (!drop.on()) return 0;
  const u32 row = places.row_of[blockIdx.x];
  return mix(drop.keys[row], blockIdx.x - places.starts[row]);
}

__device__ __forceinline__ float factor(const Dropout& drop, u64 key, u32 column) {
  return drop.on() ? drop.factor(key, column) : 1.0f;
}

/// out = x + mask · y; without x, mask · y.
template <class T>
__device__ void residual(const T* x, const T* y, Places places, Dropout drop, u32 width, T* out) {
  const size_t from = static_cast<size_t>(blockIdx.x) * width;
  const u64 key = place_key(drop, places);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = wide(y[from + i]) * factor(drop, key, i);
    out[from + i] = narrow<T>(x != nullptr ? wide(x[from + i]) + value : value);
  }
}

/// out = max(mask · x, 0). A NaN stays.
template <class T>
__device__ void relu(const T* x, Places places, Dropout drop, u32 width, T* out) {
  const size_t from = static_cast<size_t>(blockIdx.x) * width;
  const u64 key = place_key(drop, places);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = wide(x[from + i]) * factor(drop, key, i);
    out[from + i] = narrow<T>(value < 0.0f ? 0.0f : value);
  }
}

/// dx = g · scale where the result is above 0: the mask is read off the result.
template <class T>
__device__ void relu_backward(const T* y, const T* g, float scale, u32 width, T* dx) {
  const size_t from = static_cast<size_t>(blockIdx.x) * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x)
    dx[from + i] = narrow<T>(wide(y[from + i]) > 0.0f ? wide(g[from + i]) * scale : 0.0f);
}

/// GELU's tanh form and its derivative.
__device__ __forceinline__ float gelu(float x, float* slope) {
  constexpr float ROOT = 0.7978846f, CUBE = 0.044715f;  // √(2/π)
  const float t = tanhf(ROOT * (x + CUBE * x * x * x));
  *slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * (ROOT * (1.0f + 3.0f * CUBE * x * x));
  return 0.5f * x * (1.0f + t);
}

/// out = mask · gelu(x) · y.
template <class T>
__device__ void gated(const T* x, const T* y, Places places, Dropout drop, u32 width, T* out) {
  const size_t from = static_cast<size_t>(blockIdx.x) * width;
  const u64 key = place_key(drop, places);
  float slope;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x)
    out[from + i] = narrow<T>(wide(y[from + i]) * factor(drop, key, i) * gelu(wide(x[from + i]), &slope));
}

template <class T>
__device__ void gated_backward(const T* x, const T* y, const T* g, Places places, Dropout drop, u32 width, T* dx, T* dy) {
  const size_t from = static_cast<size_t>(blockIdx.x) * width;
  const u64 key = place_key(drop, places);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    float slope;
    const float value = gelu(wide(x[from + i]), &slope);
    const float flow = wide(g[from + i]) * factor(drop, key, i);
    const float dx_i = flow * (slope * wide(y[from + i])), dy_i = flow * value;
    dx[from + i] = narrow<T>(dx_i);
    dy[from + i] = narrow<T>(dy_i);
  }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                               \
  KERNEL(feedforward_residual_##NAME)                                                                                  \
  (const T* x, const T* y, const u32* row_of, const u32* starts, const u64* keys, u32 threshold, float scale,          \
   u32 width, T* out) {                                                                                                \
    residual(x, y, {row_of, starts}, {keys, threshold, scale}, width, out);                                            \
  }                                                                                                                    \
  REGISTER(feedforward_residual_##NAME)                                                                                \
  KERNEL(feedforward_relu_##NAME)                                                                                      \
  (const T* x, const u32* row_of, const u32* starts, const u64* keys, u32 threshold, float scale, u32 width, T* out) { \
    relu(x, {row_of, starts}, {keys, threshold, scale}, width, out);                                                   \
  }                                                                                                                    \
  REGISTER(feedforward_relu_##NAME)                                                                                    \
  KERNEL(feedforward_relu_backward_##NAME)(const T* y, const T* g, float scale, u32 width, T* dx) {                    \
    relu_backward(y, g, scale, width, dx);                                                                             \
  }                                                                                                                    \
  REGISTER(feedforward_relu_backward_##NAME)                                                                           \
  KERNEL(feedforward_gated_##NAME)                                                                                     \
  (const T* x, const T* y, const u32* row_of, const u32* starts, const u64* keys, u32 threshold, float scale,          \
   u32 width, T* out) {                                                                                                \
    gated(x, y, {row_of, starts}, {keys, threshold, scale}, width, out);                                               \
  }                                                                                                                    \
  REGISTER(feedforward_gated_##NAME)                                                                                   \
  KERNEL(feedforward_gated_backward_##NAME)                                                                            \
  (const T* x, const T* y, const T* g, const u32* row_of, const u32* starts, const u64* keys, u32 threshold,           \
   float scale, u32 width, T* dx, T* dy) {                                                                             \
    gated_backward(x, y, g, {row_of, starts}, {keys, threshold, scale}, width, dx, dy);                                \
  }                                                                                                                    \
  REGISTER(feedforward_gated_backward_##NAME)
FOR_TYPES(KERNELS)
