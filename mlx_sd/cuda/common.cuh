// What stands before each file of kernels: they compute on 16-bit floats of type T.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

using u32 = unsigned;

__device__ inline u32 pack(float a, float b, __half) {
  __half2 h = __floats2half2_rn(a, b);
  return *reinterpret_cast<u32*>(&h);
}
__device__ inline u32 pack(float a, float b, __nv_bfloat16) {
  __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<u32*>(&h);
}
__device__ inline float2 unpack(u32 x, __half) { return __half22float2(*reinterpret_cast<__half2*>(&x)); }
__device__ inline float2 unpack(u32 x, __nv_bfloat16) { return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&x)); }

__device__ inline float power2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline u32 shared_address(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}

