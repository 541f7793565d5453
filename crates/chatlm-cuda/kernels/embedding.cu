// Rows of a table by id, and the gradient scattered back. Places are given sorted by id, so that one
// block adds up all that belongs to an id, in order: no atomics.
#include "common.cuh"

namespace {

/// out (places, width) = rows `ids` of table (height, width). A block a place.
template <class T>
__device__ void gather(const T* table, const u32* ids, u32 width, T* out) {
  const size_t from = static_cast<size_t>(ids[blockIdx.x]) * width, to = static_cast<size_t>(blockIdx.x) * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[to + i] = table[from + i];
}

/// Row `ids[block]` of the table's f32 gradient becomes the sum of `g`'s rows `order[starts[block]..starts[block + 1]]`,
/// added to what is there if `add`. A block a different id.
template <class T>
__device__ void scatter(const T* g, const u32* ids, const u32* starts, const u32* order, u32 width, u32 add, float* table) {
  const u32 first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
  const size_t to = static_cast<size_t>(ids[blockIdx.x]) * width;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    float sum = add != 0 ? table[to + i] : 0.0f;
    for (u32 at = first; at < end; ++at) sum += wide(g[static_cast<size_t>(order[at]) * width + i]);
    table[to + i] = sum;
  }
}

}  // namespace

#define KERNELS(T, NAME)                                                                                             \
  KERNEL(embedding_gather_##NAME)(const T* table, const u32* ids, u32 width, T* out) { gather(table, ids, width, out); } \
  REGISTER(embedding_gather_##NAME)                                                                                  \
  KERNEL(embedding_scatter_##NAME)                                                                                   \
  (const T* g, const u32* ids, const u32* starts, const u32* order, u32 width, u32 add, float* table) {              \
    scatter(g, ids, starts, order, width, add, table);                                                               \
  }                                                                                                                  \
  REGISTER(embedding_scatter_##NAME)
FOR_TYPES(KERNELS)
