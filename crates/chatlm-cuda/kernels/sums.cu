// Sums whose order depends on nothing but the sizes: parts of fixed lengths, added in their order.
#include "common.cuh"

namespace {

constexpr u32 THREADS = 256;

/// Part of Σ x²: `chunk` values a block. In f64, where no f32's square overflows: so the sum is finite
/// exactly where every value is.
template <class T>
__device__ void squares(const T* x, u64 count, u64 chunk, double* parts) {
  SHARED(double, scratch, THREADS / LANES);
  const u64 first = blockIdx.x * chunk, end = min(count, first + chunk);
  double sum = 0.0;
  for (u64 i = first + threadIdx.x; i < end; i += blockDim.x) {
    const double value = wide(x[i]);
    sum += value * value;
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

}  // namespace

#define KERNELS(T, NAME)                                                                                      \
  KERNEL(sum_squares_##NAME)(const T* x, u64 count, u64 chunk, double* parts) { squares(x, count, chunk, parts); } \
  REGISTER(sum_squares_##NAME)
FOR_TYPES(KERNELS)

/// out[index] = Σ parts, by one block.
KERNEL(sum_f64)(const double* parts, u32 count, double* out, u32 index) {
  SHARED(double, scratch, THREADS / LANES);
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) out[index] = sum;
}
REGISTER(sum_f64)

/// out[index] = Σ values, in f64, by one block.
KERNEL(sum_f32)(const float* values, u32 count, double* out, u32 index) {
  SHARED(double, scratch, THREADS / LANES);
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += static_cast<double>(values[i]);
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) out[index] = sum;
}
REGISTER(sum_f32)

/// out = Σ over chunks of parts (chunks, width), added to what is there if `add`. A thread a column.
KERNEL(sum_columns)(const float* parts, u32 chunks, u32 width, float* out, u32 add) {
  const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  float sum = 0.0f;
  for (u32 chunk = 0; chunk < chunks; ++chunk) sum += parts[static_cast<size_t>(chunk) * width + column];
  out[column] = add != 0 ? out[column] + sum : sum;
}
REGISTER(sum_columns)
