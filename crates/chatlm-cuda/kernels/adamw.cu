// AdamW (Loshchilov and Hutter 2019) in the order of `torch.optim.AdamW`, as chatlm-optim has it: decay,
// moments, step, in one pass over memory. Weights and moments are f32, gradients any type.
#include "common.cuh"

namespace {

/// What chatlm-optim computes once a step: `keep` = 1 − rate · decay, `size` = rate / (1 − β₁ᵗ), `root` =
/// √(1 − β₂ᵗ). `scale` multiplies the gradient: clipping and loss scaling.
struct Step {
  float scale, beta1, rest1, beta2, rest2, keep, size, root, epsilon;
};

template <class T>
__device__ void adamw(float* w, const T* gradient, float* m, float* v, u64 count, Step step) {
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const float g = step.scale * wide(gradient[i]);
    const float first = step.beta1 * m[i] + step.rest1 * g;
    const float second = step.beta2 * v[i] + step.rest2 * g * g;
    m[i] = first;
    v[i] = second;
    w[i] = w[i] * step.keep - step.size * first / (sqrtf(second) / step.root + step.epsilon);
  }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                            \
  KERNEL(adamw_##NAME)                                                                                              \
  (float* w, const T* g, float* m, float* v, u64 count, float scale, float beta1, float rest1, float beta2,         \
   float rest2, float keep, float size, float root, float epsilon) {                                                \
    adamw(w, g, m, v, count, {scale, beta1, rest1, beta2, rest2, keep, size, root, epsilon});                       \
  }                                                                                                                 \
  REGISTER(adamw_##NAME)
FOR_TYPES(KERNELS)
