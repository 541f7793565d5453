// A greedy decoding step: the most likely token of each row, and one query's attention over a cache of
// keys and values.
#include "common.cuh"

namespace {

constexpr u32 THREADS = 256, WARPS = 4;
/// In place of a token where a score is not finite.
constexpr u32 NONE = 0xffffffffu;

/// The first of the largest scores of each row, a block a row.
template <class T>
__device__ void argmax(const T* scores, u32 width, u32* out) {
  SHARED(float, values, THREADS);
  SHARED(u32, places, THREADS);
  const T* row = scores + static_cast<size_t>(blockIdx.x) * width;
  float best = -INFINITY;
  u32 place = NONE;
  bool finite = true;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const float score = wide(row[i]);
    finite = finite && isfinite(score);
    if (score > best) {
      best = score;
      place = i;
    }
  }
  // NaN travels as the value: one is enough.
  values[threadIdx.x] = finite ? best : NAN;
  places[threadIdx.x] = place;
  __syncthreads();
  for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const float other = values[threadIdx.x + half], own = values[threadIdx.x];
      const u32 there = places[threadIdx.x + half];
      if (other > own || (other == own && there < places[threadIdx.x]) || isnan(other)) {
        values[threadIdx.x] = isnan(own) ? own : other;
        places[threadIdx.x] = there;
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = isnan(values[0]) ? NONE : places[0];
}

/// One query a row and head over the first `lengths[row]` keys: q (rows, heads · width), keys and values
/// (rows, heads, room, width); `bias (heads, room)` may be null. A block a head and row: its warps take
/// every fourth key, each with a softmax of its own, and are joined at the end.
template <class T, int C>
__device__ void attend(const T* q, const T* k, const T* v, const float* bias, const u32* lengths, u32 heads, u32 width,
                       u32 room, T* out) {
  SHARED(float, tops, WARPS);
  SHARED(float, totals, WARPS);
  SHARED(float, parts, WARPS * 32 * C);
  const u32 head = blockIdx.x, row = blockIdx.y, warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const size_t line = static_cast<size_t>(row) * heads + head;
  const T *keys = k + line * room * width, *values = v + line * room * width;
  const u32 count = min(lengths[row], room);
  float query[C], sums[C];
#pragma unroll
  for (u32 c = 0; c < C; ++c) {
    query[c] = lane + 32 * c < width ? wide(q[line * width + lane + 32 * c]) : 0.0f;
    sums[c] = 0.0f;
  }
  float largest = LOWEST, total = 0.0f;
  for (u32 key = warp; key < count; key += WARPS) {
    const size_t from = static_cast<size_t>(key) * width;
    float dot = 0.0f;
#pragma unroll
    for (u32 c = 0; c < C; ++c)
      if (lane + 32 * c < width) dot += query[c] * wide(keys[from + lane + 32 * c]);
    float score = warp_sum(dot);
    if (bias != nullptr) score += bias[static_cast<size_t>(head) * room + key];
    const float top = fmaxf(largest, score), before = expf(largest - top), chance = expf(score - top);
    total = total * before + chance;
    largest = top;
#pragma unroll
    for (u32 c = 0; c < C; ++c)
      if (lane + 32 * c < width) sums[c] = sums[c] * before + chance * wide(values[from + lane + 32 * c]);
  }
#pragma unroll
  for (u32 c = 0; c < C; ++c) parts[(warp * C + c) * 32 + lane] = sums[c];
  if (lane == 0) {
    tops[warp] = largest;
    totals[warp] = total;
  }
  __syncthreads();
  if (warp != 0) return;
  float top = LOWEST, sum = 0.0f;
  for (u32 w = 0; w < WARPS; ++w) top = fmaxf(top, tops[w]);
  for (u32 w = 0; w < WARPS; ++w) sum += totals[w] * expf(tops[w] - top);
#pragma unroll
  for (u32 c = 0; c < C; ++c) {
    if (lane + 32 * c >= width) continue;
    float value = 0.0f;
    for (u32 w = 0; w < WARPS; ++w) value += parts[(w * C + c) * 32 + lane] * expf(tops[w] - top);
    out[line * width + lane + 32 * c] = narrow<T>(count > 0 ? value / sum : 0.0f);
  }
}

}  // namespace

#define SIZED(T, NAME, C, ROOM)                                                                                     \
  KERNEL(decode_attention_##NAME##_##ROOM)                                                                          \
  (const T* q, const T* k, const T* v, const float* bias, const u32* lengths, u32 heads, u32 width, u32 room,       \
   T* out) {                                                                                                        \
    attend<T, C>(q, k, v, bias, lengths, heads, width, room, out);                                                  \
  }                                                                                                                 \
  REGISTER(decode_attention_##NAME##_##ROOM)
#define KERNELS(T, NAME)                                                                                            \
  KERNEL(decode_argmax_##NAME)(const T* scores, u32 width, u32* out) { argmax(scores, width, out); }                \
  REGISTER(decode_argmax_##NAME)                                                                                    \
  SIZED(T, NAME, 1, 32)                                                                                             \
  SIZED(T, NAME, 2, 64)                                                                                             \
  SIZED(T, NAME, 4, 128)
FOR_TYPES(KERNELS)
