// The backward of attention.cu (Dao et al. 2022, "FlashAttention", algorithm 4; in two passes, one for
// the queries and one for the keys, so that nothing is added by atomics): probabilities are computed
// again from the norms. p = exp(s − norm), ds = p · (mask · dy·vᵀ − Σ dy·y).
#include "attention.cuh"

namespace {
using namespace attention;

/// Σ dy·y of each head and place: (heads, places). A warp each.
template <class T>
__device__ void dots(const T* y, const T* g, u32 heads, u32 width, u32 places, float* out) {
  const u64 at = static_cast<u64>(blockIdx.x) * (blockDim.x / LANES) + threadIdx.x / LANES;
  const u32 lane = threadIdx.x % LANES;
  // A warp as a whole.
  if (at >= static_cast<u64>(places) * heads) return;
  const size_t from = at * width;
  float sum = 0.0f;
  for (u32 i = lane; i < width; i += LANES) sum += wide(g[from + i]) * wide(y[from + i]);
  sum = warp_sum(sum);
  if (lane == 0) out[at % heads * places + at / heads] = sum;
}

template <class T>
struct Inputs {
  const T *q, *k, *v, *g;  // g: the output's gradient
  const float *norms, *dots;
};

/// A block is 32 keys of one head: dk = dsᵀ·q and dv = (p · mask)ᵀ·dy.
template <class T, int C>
__device__ void of_keys(Inputs<T> in, Rows rows, Shape shape, Bias bias, Dropout drop, T* dk, T* dv) {
  constexpr u32 APART = 32 * C + 1, ROOM = TILE * APART;
  SHARED_DYNAMIC(float, memory);
  float *k = memory, *v = k + ROOM, *q = v + ROOM, *g = q + ROOM, *p = g + ROOM, *ds = p + TILE * LINE;
  const u32 row = rows.tiles[2 * blockIdx.x], start = rows.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
  const u32 first_query = rows.queries[row], query_count = rows.queries[row + 1] - first_query;
  const u32 first_key = rows.keys[row], key_count = rows.keys[row + 1] - first_key;
  const u32 lines = min(TILE, key_count - start), width = shape.width;
  const u32 own = threadIdx.x / LANES * EACH, lane = threadIdx.x % LANES;
  const size_t inner = shape.inner(), from = head * static_cast<size_t>(width);
  const size_t here = (first_key + start) * inner + from;

  load<T, C>(in.k + here, inner, lines, width, k);
  load<T, C>(in.v + here, inner, lines, width, v);
  float sums_k[EACH][C] = {}, sums_v[EACH][C] = {};
  // A causal key is seen from its own place on; tiles of queries begin where tiles of keys do.
  for (u32 from_query = shape.causal != 0 ? start : 0; from_query < query_count; from_query += TILE) {
    const u32 count = min(TILE, query_count - from_query), query = from_query + lane;
    const size_t at = (first_query + from_query) * inner + from;
    __syncthreads();
    load<T, C>(in.q + at, inner, count, width, q);
    load<T, C>(in.g + at, inner, count, width, g);
    __syncthreads();
    float scores[EACH], slopes[EACH];
    products<C>(k, q, width, scores);
    products<C>(v, g, width, slopes);
    float norm = 0.0f, dot = 0.0f;
    u64 line = 0;
    if (lane < count) {
      const size_t place = head * static_cast<size_t>(shape.places) + first_query + query;
      norm = in.norms[place];
      dot = in.dots[place];
      line = line_key(drop, row, head, query);
    }
    for (u32 i = 0; i < EACH; ++i) {
      const u32 key = start + own + i;
      const bool visible = lane < count && key < key_count && (shape.causal == 0 || key <= query);
      const float chance = visible ? expf(scores[i] + bias.at(head, query, key) - norm) : 0.0f;
      const float mask = drop.on() ? drop.factor(line, key) : 1.0f;
      p[(own + i) * LINE + lane] = chance * mask;
      ds[(own + i) * LINE + lane] = visible ? chance * (slopes[i] * mask - dot) : 0.0f;
    }
    __syncwarp();
    mix_lines<C>(p, g, count, sums_v);
    mix_lines<C>(ds, q, count, sums_k);
  }
  store<T, C>(sums_k, dk + here, inner, lines, width);
  store<T, C>(sums_v, dv + here, inner, lines, width);
}

/// A block is 32 queries of one head: dq = ds·k, and where `parts` is not null, its share of the bias's
/// gradient by distance: parts (tiles, heads, span), where key − query of the tile's first query lies at
/// 31. `span` is at least the keys, rounded up to 32, plus 31; parts come as zeros.
template <class T, int C>
__device__ void of_queries(Inputs<T> in, Rows rows, Shape shape, Bias bias, Dropout drop, T* dq, float* parts, u32 span) {
  constexpr u32 APART = 32 * C + 1, ROOM = TILE * APART;
  SHARED_DYNAMIC(float, memory);
  float *q = memory, *g = q + ROOM, *k = g + ROOM, *v = k + ROOM, *ds = v + ROOM;
  const u32 row = rows.tiles[2 * blockIdx.x], start = rows.tiles[2 * blockIdx.x + 1], head = blockIdx.y;
  const u32 first_query = rows.queries[row], query_count = rows.queries[row + 1] - first_query;
  const u32 first_key = rows.keys[row], key_count = rows.keys[row + 1] - first_key;
  const u32 lines = min(TILE, query_count - start), width = shape.width;
  const u32 seen = shape.causal != 0 ? min(start + lines, key_count) : key_count;
  const u32 own = threadIdx.x / LANES * EACH, lane = threadIdx.x % LANES;
  const size_t inner = shape.inner(), from = head * static_cast<size_t>(width);
  const size_t here = (first_query + start) * inner + from;

  load<T, C>(in.q + here, inner, lines, width, q);
  load<T, C>(in.g + here, inner, lines, width, g);
  float norm[EACH], dot[EACH], sums[EACH][C] = {};
  u64 line[EACH];
  for (u32 i = 0; i < EACH; ++i) {
    const bool inside = own + i < lines;
    const size_t place = head * static_cast<size_t>(shape.places) + first_query + start + own + i;
    norm[i] = inside ? in.norms[place] : 0.0f;
    dot[i] = inside ? in.dots[place] : 0.0f;
    line[i] = line_key(drop, row, head, start + own + i);
  }
  for (u32 from_key = 0; from_key < seen; from_key += TILE) {
    const u32 count = min(TILE, seen - from_key), key = from_key + lane;
    const size_t at = (first_key + from_key) * inner + from;
    __syncthreads();
    load<T, C>(in.k + at, inner, count, width, k);
    load<T, C>(in.v + at, inner, count, width, v);
    __syncthreads();
    float scores[EACH], slopes[EACH];
    products<C>(q, k, width, scores);
    products<C>(g, v, width, slopes);
    for (u32 i = 0; i < EACH; ++i) {
      const u32 query = start + own + i;
      const bool visible = lane < count && query < query_count && (shape.causal == 0 || key <= query);
      const float chance = visible ? expf(scores[i] + bias.at(head, query, key) - norm[i]) : 0.0f;
      const float mask = drop.on() ? drop.factor(line[i], key) : 1.0f;
      ds[(own + i) * LINE + lane] = visible ? chance * (slopes[i] * mask - dot[i]) : 0.0f;
    }
    __syncwarp();
    mix_lines<C>(ds, k, count, sums);
    if (parts == nullptr) continue;
    __syncthreads();
    // One thread a diagonal of the tile.
    const u32 diagonal = threadIdx.x;
    if (diagonal < 2 * TILE - 1) {
      float sum = 0.0f;
      for (u32 i = 0; i < TILE; ++i) {
        const u32 column = diagonal + i - (TILE - 1);  // wraps below 0, to be left out
        if (column < TILE) sum += ds[i * LINE + column];
      }
      parts[(static_cast<size_t>(blockIdx.x) * shape.heads + head) * span + from_key + diagonal] += sum;
    }
  }
  store<T, C>(sums, dq + here, inner, lines, width);
}

}  // namespace

/// lines (heads, 2 · longest − 1) = the parts of all tiles, in their order. A thread a distance.
KERNEL(attention_bias)(const float* parts, const u32* tiles, u32 count, u32 heads, u32 span, u32 longest, float* lines) {
  const u32 distances = 2 * longest - 1;
  const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= heads * distances) return;
  const u32 head = at / distances, distance = at % distances;
  float sum = 0.0f;
  for (u32 tile = 0; tile < count; ++tile) {
    // key − query = distance − (longest − 1), and `here` = key − query + start + 31; wraps below 0.
    const u32 here = distance + tiles[2 * tile + 1] + attention::TILE - longest;
    if (here < span) sum += parts[(static_cast<size_t>(tile) * heads + head) * span + here];
  }
  lines[at] = sum;
}
REGISTER(attention_bias)

#define SIZED(T, NAME, C, ROOM)                                                                                       \
  KERNEL(attention_keys_##NAME##_##ROOM)                                                                              \
  (const T* q, const T* k, const T* v, const T* g, const float* norms, const float* dots, const u32* queries,         \
   const u32* keys, const u32* tiles, u32 heads, u32 width, u32 places, u32 causal, const float* bias, u32 longest,   \
   const u64* drop, u32 threshold, float scale, T* dk, T* dv) {                                                       \
    of_keys<T, C>({q, k, v, g, norms, dots}, {queries, keys, tiles}, {heads, width, places, causal}, {bias, longest}, \
                  {drop, threshold, scale}, dk, dv);                                                                  \
  }                                                                                                                   \
  REGISTER(attention_keys_##NAME##_##ROOM)                                                                            \
  KERNEL(attention_queries_##NAME##_##ROOM)                                                                           \
  (const T* q, const T* k, const T* v, const T* g, const float* norms, const float* dots, const u32* queries,         \
   const u32* keys, const u32* tiles, u32 heads, u32 width, u32 places, u32 causal, const float* bias, u32 longest,   \
   const u64* drop, u32 threshold, float scale, T* dq, float* parts, u32 span) {                                      \
    of_queries<T, C>({q, k, v, g, norms, dots}, {queries, keys, tiles}, {heads, width, places, causal},               \
                     {bias, longest}, {drop, threshold, scale}, dq, parts, span);                                     \
  }                                                                                                                   \
  REGISTER(attention_queries_##NAME##_##ROOM)
#define KERNELS(T, NAME)                                                                                              \
  KERNEL(attention_dots_##NAME)(const T* y, const T* g, u32 heads, u32 width, u32 places, float* out) {               \
    dots(y, g, heads, width, places, out);                                                                            \
  }                                                                                                                   \
  REGISTER(attention_dots_##NAME)                                                                                     \
  SIZED(T, NAME, 1, 32)                                                                                               \
  SIZED(T, NAME, 2, 64)                                                                                               \
  SIZED(T, NAME, 4, 128)
FOR_TYPES(KERNELS)
