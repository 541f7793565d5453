// Attention as T5 has it (Raffel et al. 2020): scores without scaling plus a learned relative bias,
// over rows laid end to end. Softmax streams over tiles of keys (Milakov and Gimelshein 2018), so no
// (queries × keys) matrix is ever in memory; the backward gets one number a query (Dao et al. 2022,
// "FlashAttention"). A block is 32 queries of one head.
#include "attention.cuh"

namespace {
using namespace attention;

/// `out (places, heads · width)`; `norms (heads, places)`: the log of each query's softmax sum, −∞
/// where it sees nothing and its output is 0.
template <class T, int C>
__device__ void forward(const T* q, const T* k, const T* v, Rows rows, Shape shape, Bias bias, Dropout drop, T* out,
                        float* norms) {
  constexpr u32 APART = 32 * C + 1;
  SHARED(float, queries, TILE* APART);
  SHARED(float, other, TILE* APART);  // keys, then values
  SHARED(float, p, TILE* LINE);
  const u32 row = rows.tiles[2 * blockIdx.x], start = rows.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
  const u32 first_query = rows.queries[row], query_count = rows.queries[row + 1] - first_query;
  const u32 first_key = rows.keys[row], key_count = rows.keys[row + 1] - first_key;
  const u32 lines = min(TILE, query_count - start), width = shape.width;
  const u32 seen = shape.causal != 0 ? min(start + lines, key_count) : key_count;
  const u32 own = threadIdx.x / LANES * EACH, lane = threadIdx.x % LANES;
  const size_t inner = shape.inner(), from = head * static_cast<size_t>(width);

  load<T, C>(q + (first_query + start) * inner + from, inner, lines, width, queries);
  float largest[EACH], total[EACH], sums[EACH][C] = {};
  u64 line[EACH];
  for (u32 i = 0; i < EACH; ++i) {
    largest[i] = LOWEST;
    total[i] = 0.0f;
    line[i] = line_key(drop, row, head, start + own + i);
  }
  for (u32 from_key = 0; from_key < seen; from_key += TILE) {
    const u32 count = min(TILE, seen - from_key);
    const size_t at = (first_key + from_key) * inner + from;
    __syncthreads();  // the tile before is still read
    load<T, C>(k + at, inner, count, width, other);
    __syncthreads();
    float scores[EACH];
    products<C>(queries, other, width, scores);
    __syncthreads();
    load<T, C>(v + at, inner, count, width, other);
    __syncthreads();
    for (u32 i = 0; i < EACH; ++i) {
      const u32 query = start + own + i, key = from_key + lane;
      const bool visible = lane < count && query < query_count && (shape.causal == 0 || key <= query);
      const float score = visible ? scores[i] + bias.at(head, query, key) : LOWEST;
      const float top = fmaxf(largest[i], warp_max(score));
      const float chance = visible ? expf(score - top) : 0.0f;
      const float before = expf(largest[i] - top);
      total[i] = total[i] * before + warp_sum(chance);
      for (u32 c = 0; c < C; ++c) sums[i][c] *= before;
      largest[i] = top;
      p[(own + i) * LINE + lane] = drop.on() ? chance * drop.factor(line[i], key) : chance;
    }
    __syncwarp();
    mix_lines<C>(p, other, count, sums);
  }
  for (u32 i = 0; i < EACH; ++i) {
    if (seen > 0)
      for (u32 c = 0; c < C; ++c) sums[i][c] /= total[i];
    if (lane == 0 && own + i < lines)
      norms[head * static_cast<size_t>(shape.places) + first_query + start + own + i] =
          seen > 0 ? largest[i] + logf(total[i]) : -INFINITY;
  }
  store<T, C>(sums, out + (first_query + start) * inner + from, inner, lines, width);
}

}  // namespace

#define SIZED(T, NAME, C, ROOM)                                                                                     \
  KERNEL(attention_forward_##NAME##_##ROOM)                                                                         \
  (const T* q, const T* k, const T* v, const u32* queries, const u32* keys, const u32* tiles, u32 heads, u32 width, \
   u32 places, u32 causal, const float* bias, u32 longest, const u64* drop, u32 threshold, float scale, T* out,     \
   float* norms) {                                                                                                  \
    forward<T, C>(q, k, v, {queries, keys, tiles}, {heads, width, places, causal}, {bias, longest},                 \
                  {drop, threshold, scale}, out, norms);                                                            \
  }                                                                                                                 \
  REGISTER(attention_forward_##NAME##_##ROOM)
#define KERNELS(T, NAME)  \
  SIZED(T, NAME, 1, 32)   \
  SIZED(T, NAME, 2, 64)   \
  SIZED(T, NAME, 4, 128)
FOR_TYPES(KERNELS)
