// What the attention kernels share. Queries and keys go in tiles of 32: a warp has 8 lines of its
// tile, and its lanes are the 32 lines of the other, then columns of the head.
#pragma once
#include "common.cuh"

namespace attention {

constexpr u32 TILE = 32, WARPS = 4, EACH = TILE / WARPS;
/// Lines of a tile of scores, one number further apart than their length, so that lanes use different banks.
constexpr u32 LINE = TILE + 1;

/// Rows laid end to end: row r of the queries over row r of the keys.
struct Rows {
  const u32* queries;  // (rows + 1) where each row begins, and where the last ends
  const u32* keys;     // the same of the keys
  const u32* tiles;    // (tiles, 2): a tile's row and its first place there
};

struct Shape {
  u32 heads, width;
  u32 places;  // all queries
  u32 causal;
  __device__ __forceinline__ size_t inner() const { return static_cast<size_t>(heads) * width; }
};

/// A head's learned number for each distance between query and key, or nothing where `lines` is null.
struct Bias {
  const float* lines;  // (heads, 2 · longest − 1)
  u32 longest;
  __device__ __forceinline__ float at(u32 head, u32 query, u32 key) const {
    return lines == nullptr ? 0.0f : lines[static_cast<size_t>(head) * (2 * longest - 1) + key + longest - 1 - query];
  }
};

/// Copies lines of a head to shared memory as f32, `32 · C + 1` apart, zeros where there are none.
template <class T, int C>
__device__ __forceinline__ void load(const T* from, size_t stride, u32 lines, u32 width, float* to) {
  constexpr u32 ROOM = 32 * C;
  for (u32 i = threadIdx.x; i < TILE * ROOM; i += blockDim.x) {
    const u32 line = i / ROOM, column = i % ROOM;
    const bool inside = line < lines && column < width;
    to[line * (ROOM + 1) + column] = inside ? wide(from[line * stride + column]) : 0.0f;
  }
}

/// out[i] = own line i · the lane's line of the other tile.
template <int C>
__device__ __forceinline__ void products(const float* own, const float* other, u32 width, float* out) {
  constexpr u32 APART = 32 * C + 1;
  const u32 first = threadIdx.x / LANES * EACH, lane = threadIdx.x % LANES;
  for (u32 i = 0; i < EACH; ++i) out[i] = 0.0f;
  for (u32 d = 0; d < width; ++d) {
    const float value = other[lane * APART + d];
#pragma unroll
    for (u32 i = 0; i < EACH; ++i) out[i] += own[(first + i) * APART + d] * value;
  }
}

/// sums[i][c] += Σ over lines of factors[own line i][line] · lines[line][lane + 32 c].
template <int C>
__device__ __forceinline__ void mix_lines(const float* factors, const float* lines, u32 count, float (&sums)[EACH][C]) {
  constexpr u32 APART = 32 * C + 1;
  const u32 first = threadIdx.x / LANES * EACH, lane = threadIdx.x % LANES;
  for (u32 line = 0; line < count; ++line) {
#pragma unroll
    for (u32 c = 0; c < C; ++c) {
      const float value = lines[line * APART + lane + 32 * c];
#pragma unroll
      for (u32 i = 0; i < EACH; ++i) sums[i][c] += factors[(first + i) * LINE + line] * value;
    }
  }
}

/// Writes a warp's own lines of a tile.
template <class T, int C>
__device__ __forceinline__ void store(const float (&sums)[EACH][C], T* to, size_t stride, u32 lines, u32 width) {
  const u32 first = threadIdx.x / LANES * EACH, lane = threadIdx.x % LANES;
  for (u32 i = 0; i < EACH; ++i)
    for (u32 c = 0; c < C; ++c)
      if (first + i < lines && lane + 32 * c < width) to[(first + i) * stride + lane + 32 * c] = narrow<T>(sums[i][c]);
}

__device__ __forceinline__ u64 line_key(const Dropout& drop, u32 row, u32 head, u32 query) {
  return drop.on() ? mix(mix(drop.keys[row], query), head) : 0;
}

}  // namespace attention
