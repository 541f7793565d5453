// What the kernels share: types, sums over a warp and a block, the dropout mask.
//
// The files here are compiled twice: by nvcc for the GPU, and by a C++ compiler with
// ../emulate/emulate.h, which runs them on the processor in tests. All sums are in f32 or f64 and in
// an order that depends on sizes alone; there are no atomics, so every kernel is deterministic.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define KERNEL(name) extern "C" __global__ void name
#define REGISTER(name)
#define SHARED(type, name, count) __shared__ type name[count]
#define SHARED_DYNAMIC(type, name)                                  \
  extern __shared__ __align__(16) unsigned char dynamic_memory[]; \
  type* name = reinterpret_cast<type*>(dynamic_memory)
#else
#include "emulate.h"
#endif

using f16 = __half;
using bf16 = __nv_bfloat16;
using u32 = unsigned int;
using u64 = unsigned long long;

constexpr u32 LANES = 32;
constexpr u32 ALL = 0xffffffffu;
/// The lowest finite f32: where a running maximum starts, so that −∞ − −∞ never happens.
constexpr float LOWEST = -3.402823466e+38f;

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(f16 x) { return __half2float(x); }
__device__ __forceinline__ float wide(bf16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) { return x; }
template <>
__device__ __forceinline__ f16 narrow<f16>(float x) { return __float2half_rn(x); }
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (u32 by = LANES / 2; by > 0; by /= 2) value += __shfl_xor_sync(ALL, value, by);
  return value;
}

/// NaN is passed over: it shows in the sums that follow.
__device__ __forceinline__ float warp_max(float value) {
  for (u32 by = LANES / 2; by > 0; by /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, by));
  return value;
}

/// The sum over all threads of a block, for all of them. `scratch` has room for a value a warp.
template <class T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  __syncthreads();  // the scratch may still be read from the sum before
  if (threadIdx.x % LANES == 0) scratch[threadIdx.x / LANES] = value;
  __syncthreads();
  T total = 0;
  for (u32 warp = 0; warp < blockDim.x / LANES; ++warp) total += scratch[warp];
  return total;
}

__device__ __forceinline__ float block_max(float value, float* scratch) {
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % LANES == 0) scratch[threadIdx.x / LANES] = value;
  __syncthreads();
  float largest = scratch[0];
  for (u32 warp = 1; warp < blockDim.x / LANES; ++warp) largest = fmaxf(largest, scratch[warp]);
  return largest;
}

/// `chatlm_job::mix` (SplitMix64's finish, Steele et al. 2014): a key from a key and a number.
__device__ __forceinline__ u64 finish(u64 z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
__device__ __forceinline__ u64 mix(u64 key, u64 number) {
  const u64 golden = 0x9e3779b97f4a7c15ull;
  return finish(finish(key + golden) ^ number * golden);
}

/// Dropout of chatlm-kernels, bit for bit: `scale` where the value is kept, else 0. Nothing is dropped
/// where `keys` is null.
struct Dropout {
  const u64* keys;  // one a row, mixed with the site
  u32 threshold;
  float scale;

  __device__ __forceinline__ bool on() const { return keys != nullptr; }

  /// The value at `place` of the line that `key` belongs to.
  __device__ __forceinline__ float factor(u64 key, u32 place) const {
    u32 h = place + static_cast<u32>(key);
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = ((h ^ (h >> 15)) + static_cast<u32>(key >> 32)) * 0x846ca68bu;
    h ^= h >> 16;
    return h >= threshold ? scale : 0.0f;
  }
};

/// Calls a macro of (type, name of the type).
#define FOR_TYPES(KERNELS) \
  KERNELS(float, f32)      \
  KERNELS(f16, f16)        \
  KERNELS(bf16, bf16)
