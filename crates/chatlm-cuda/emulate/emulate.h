// CUDA's words for a C++ compiler without CUDA: the kernels' own files run on the processor, to be
// tested where no GPU is. A block's threads are fibers, which run one after the other up to the next
// barrier or shuffle, in an order the caller picks (see emulate.cpp): a missing barrier shows in one of them.
// Shared memory begins as NaN. A barrier that not all threads reach is an error.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

namespace emulate {

struct Dim {
  unsigned x, y, z;
};

enum Wait { NOTHING, WARP, BLOCK };

/// What the running thread sees.
extern thread_local Dim thread_index, block_index, block_dim, grid_dim;

/// Gives the processor to the other threads until all of the warp, or of the block, are here.
void wait(Wait where);
/// Writes a lane's value, waits for the warp and reads another lane's.
void exchange(void* value, size_t bytes, unsigned lane);
/// Memory that a block's threads share, one piece for each place in the code. Poisoned for every block.
void* shared(const void* place, size_t bytes);
void* dynamic_shared();

/// Makes a kernel known by its name.
struct Registered {
  Registered(const char* name, void (*call)(const void* kernel, void** arguments), const void* kernel);
};

template <class... A, size_t... I>
void spread(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}

template <class... A>
void call(const void* kernel, void** arguments) {
  spread(reinterpret_cast<void (*)(A...)>(const_cast<void*>(kernel)), arguments, std::index_sequence_for<A...>());
}

template <class... A>
Registered registered(const char* name, void (*kernel)(A...)) {
  return Registered(name, &call<A...>, reinterpret_cast<const void*>(kernel));
}

template <class T>
T exchanged(T value, unsigned lane) {
  exchange(&value, sizeof value, lane);
  return value;
}

inline unsigned lane() { return thread_index.x % 32; }

}  // namespace emulate

#define threadIdx (emulate::thread_index)
#define blockIdx (emulate::block_index)
#define blockDim (emulate::block_dim)
#define gridDim (emulate::grid_dim)
#define __syncthreads() emulate::wait(emulate::BLOCK)
#define __syncwarp() emulate::wait(emulate::WARP)
#define __shfl_xor_sync(mask, value, by) emulate::exchanged(value, emulate::lane() ^ (by))
#define __shfl_sync(mask, value, from) emulate::exchanged(value, (from))

/// IEEE binary16, by the compiler's own type.
struct __half {
  _Float16 value;
};
inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half_rn(float x) { return {static_cast<_Float16>(x)}; }

/// The upper half of an f32, rounded to the nearest even.
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {0x7fff};
  bits += 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}

template <class T>
inline T min(T a, T b) { return b < a ? b : a; }
template <class T>
inline T max(T a, T b) { return a < b ? b : a; }

using std::isfinite;
using std::isnan;

#define KERNEL(name) extern "C" void name
#define REGISTER(name) static emulate::Registered registered_##name = emulate::registered(#name, name);
#define SHARED(type, name, count) \
  static const char name##_place = 0; \
  type* name = static_cast<type*>(emulate::shared(&name##_place, sizeof(type) * (count)))
#define SHARED_DYNAMIC(type, name) type* name = static_cast<type*>(emulate::dynamic_shared())
