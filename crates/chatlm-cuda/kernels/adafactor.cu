// Adafactor (Shazeer and Stern 2018) as transformers' `Adafactor` and chatlm-optim have it: no momentum,
// second moments of matrices as one number a row and one a column, updates clipped by their root mean
// square. The update is computed once for its root mean square and once to be applied, never stored;
// the sums between the passes stay on the device.
#include "common.cuh"

namespace {

constexpr u32 THREADS = 256;
constexpr float EPSILON = 1e-30f;

__device__ __forceinline__ float moved(float moment, float square, float beta, float rest) {
  return beta * moment + rest * (square + EPSILON);
}

/// As transformers a square is an f32.
template <class T>
__device__ __forceinline__ float squared(T gradient, float scale) {
  const float g = scale * wide(gradient);
  return g * g;
}

/// Pass 1, a block a row: moves the mean of the row's squares on.
template <class T>
__device__ void rows(const T* g, float scale, u32 columns, float beta, float rest, float* row) {
  SHARED(double, scratch, THREADS / LANES);
  const T* line = g + static_cast<size_t>(blockIdx.x) * columns;
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < columns; i += blockDim.x) sum += static_cast<double>(squared(line[i], scale));
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) row[blockIdx.x] = moved(row[blockIdx.x], static_cast<float>(sum / columns), beta, rest);
}

/// Pass 1: sums of squares of columns over rows `chunk · blockIdx.y` on, a thread a column: parts (chunks, columns).
template <class T>
__device__ void columns(const T* g, float scale, u32 rows, u32 columns, u32 chunk, double* parts) {
  const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  const u32 first = blockIdx.y * chunk, end = min(rows, first + chunk);
  double sum = 0.0;
  for (u32 row = first; row < end; ++row)
    sum += static_cast<double>(squared(g[static_cast<size_t>(row) * columns + column], scale));
  parts[static_cast<size_t>(blockIdx.y) * columns + column] = sum;
}

/// Pass 2, a block a row: the update's sum of squares, f64 (rows).
template <class T>
__device__ void squares(const T* g, float scale, u32 columns, const float* by_row, const float* by_column, double* parts) {
  SHARED(double, scratch, THREADS / LANES);
  const T* line = g + static_cast<size_t>(blockIdx.x) * columns;
  const float r = by_row[blockIdx.x];
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
    const double update = r * by_column[i] * (scale * wide(line[i]));
    sum += update * update;
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// The step's size: `sums` holds Σ w² and Σ update².
struct Size {
  float keep, size;
};

/// `rate` is the learning rate; with `relative` it is multiplied by the weights' root mean square, at least 1e-3.
__device__ __forceinline__ Size size_of(const double* sums, u64 count, double rate, u32 relative, double decay) {
  if (relative != 0) {
    const double own = sqrt(sums[0] / static_cast<double>(count));
    // Not `max`, which would hide a NaN.
    rate *= own < 1e-3 ? 1e-3 : own;
  }
  const double clipped = sqrt(sums[1] / static_cast<double>(count));
  return {static_cast<float>(1.0 - decay * rate), static_cast<float>(rate / (clipped < 1.0 ? 1.0 : clipped))};
}

/// Pass 3, a block a row.
template <class T>
__device__ void apply(float* w, const T* g, float scale, u32 columns, const float* by_row, const float* by_column,
                      const double* sums, u64 count, double rate, u32 relative, double decay) {
  const size_t from = static_cast<size_t>(blockIdx.x) * columns;
  const Size step = size_of(sums, count, rate, relative, decay);
  const float r = by_row[blockIdx.x];
  for (u32 i = threadIdx.x; i < columns; i += blockDim.x)
    w[from + i] = w[from + i] * step.keep - step.size * (r * by_column[i] * (scale * wide(g[from + i])));
}

/// What is no matrix, `chunk` values a block: moves the second moment on; parts of the update's sum of squares.
template <class T>
__device__ void whole(const T* g, float scale, u64 count, u64 chunk, float beta, float rest, float* second, double* parts) {
  SHARED(double, scratch, THREADS / LANES);
  const u64 first = blockIdx.x * chunk, end = min(count, first + chunk);
  double sum = 0.0;
  for (u64 i = first + threadIdx.x; i < end; i += blockDim.x) {
    second[i] = moved(second[i], squared(g[i], scale), beta, rest);
    const double update = 1.0f / sqrtf(second[i]) * (scale * wide(g[i]));
    sum += update * update;
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

template <class T>
__device__ void apply_whole(float* w, const T* g, float scale, u64 count, const float* second, const double* sums,
                            double rate, u32 relative, double decay) {
  const Size step = size_of(sums, count, rate, relative, decay);
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    w[i] = w[i] * step.keep - step.size * (1.0f / sqrtf(second[i]) * (scale * wide(g[i])));
}

}  // namespace

/// Between passes 1 and 2, a thread a column: moves the mean of the column's squares on, and 1/√ of it.
KERNEL(adafactor_column_factors)
(const double* parts, u32 chunks, u32 rows, u32 columns, float beta, float rest, float* column, float* by_column) {
  const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= columns) return;
  double sum = 0.0;
  for (u32 chunk = 0; chunk < chunks; ++chunk) sum += parts[static_cast<size_t>(chunk) * columns + at];
  column[at] = moved(column[at], static_cast<float>(sum / rows), beta, rest);
  by_column[at] = 1.0f / sqrtf(column[at]);
}
REGISTER(adafactor_column_factors)

/// Between passes 1 and 2, a thread a row: 1/√ of the row's moment over the mean of all rows', whose sum is `sum[0]`.
KERNEL(adafactor_row_factors)(const float* row, const double* sum, u32 rows, float* by_row) {
  const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= rows) return;
  by_row[at] = 1.0f / sqrtf(row[at] / static_cast<float>(sum[0] / rows));
}
REGISTER(adafactor_row_factors)

#define KERNELS(T, NAME)                                                                                              \
  KERNEL(adafactor_rows_##NAME)(const T* g, float scale, u32 columns, float beta, float rest, float* row) {           \
    rows(g, scale, columns, beta, rest, row);                                                                         \
  }                                                                                                                   \
  REGISTER(adafactor_rows_##NAME)                                                                                     \
  KERNEL(adafactor_columns_##NAME)(const T* g, float scale, u32 rows, u32 width, u32 chunk, double* parts) {          \
    columns(g, scale, rows, width, chunk, parts);                                                                     \
  }                                                                                                                   \
  REGISTER(adafactor_columns_##NAME)                                                                                  \
  KERNEL(adafactor_squares_##NAME)                                                                                    \
  (const T* g, float scale, u32 columns, const float* by_row, const float* by_column, double* parts) {                \
    squares(g, scale, columns, by_row, by_column, parts);                                                             \
  }                                                                                                                   \
  REGISTER(adafactor_squares_##NAME)                                                                                  \
  KERNEL(adafactor_apply_##NAME)                                                                                      \
  (float* w, const T* g, float scale, u32 columns, const float* by_row, const float* by_column, const double* sums,   \
   u64 count, double rate, u32 relative, double decay) {                                                              \
    apply(w, g, scale, columns, by_row, by_column, sums, count, rate, relative, decay);                               \
  }                                                                                                                   \
  REGISTER(adafactor_apply_##NAME)                                                                                    \
  KERNEL(adafactor_whole_##NAME)                                                                                      \
  (const T* g, float scale, u64 count, u64 chunk, float beta, float rest, float* second, double* parts) {             \
    whole(g, scale, count, chunk, beta, rest, second, parts);                                                         \
  }                                                                                                                   \
  REGISTER(adafactor_whole_##NAME)                                                                                    \
  KERNEL(adafactor_apply_whole_##NAME)                                                                                \
  (float* w, const T* g, float scale, u64 count, const float* second, const double* sums, double rate, u32 relative,  \
   double decay) {                                                                                                    \
    apply_whole(w, g, scale, count, second, sums, rate, relative, decay);                                             \
  }                                                                                                                   \
  REGISTER(adafactor_apply_whole_##NAME)
FOR_TYPES(KERNELS)
