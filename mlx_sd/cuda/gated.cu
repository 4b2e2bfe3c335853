// A product and the GEGLU that follows it, on 16-bit floats of type T, for Hopper: each
// block computes tiles of values and of their gates side by side, and multiplies them in
// its registers. One thread fetches what eight warps multiply, some steps ahead of them.

constexpr int ROWS = 128, COLUMNS = 128, DEPTH = 64, STAGES = 4;
constexpr int PART = 128 * DEPTH * 2, STAGE = 3 * PART;  // bytes: x, values' weights, gates'
constexpr int PITCH = 72;                                 // of a warp's results on their way out
constexpr int CONSUMERS = 2;                              // groups of four warps, of 64 rows each

struct alignas(64) Map { char bytes[128]; };  // CUtensorMap

__device__ inline void wait(u32 barrier, u32 phase) {
  u32 done;
  do asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done) : "r"(barrier), "r"(phase) : "memory");
  while (!done);
}

// 64 columns and 128 rows of what a map describes; zeros beyond its edges.
__device__ inline void fetch(u32 to, const Map& map, int column, int row, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
      ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier) : "memory");
}

__device__ inline void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// How the matrix units find rows of 128 bytes that were swizzled: 8 of them are 1024 bytes.
__device__ inline unsigned long long described(u32 place) {
  return (place & 0x3FFFF) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#define FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SIXTEEN(i) FOUR(i), FOUR(i + 4), FOUR(i + 8), FOUR(i + 12)
#define ALL \
  SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48), SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)
#define MULTIPLY(TYPES)                                                                                    \
  asm volatile(                                                                                            \
      "{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"                                                          \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPES " {"                                            \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                             \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                   \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                   \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                   \
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                   \
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                   \
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "       \
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "  \
      "%128, %129, p, 1, 1, 0, 0; }"                                                                       \
      : ALL                                                                                                \
      : "l"(x), "l"(w), "r"(more))

// d = x wᵀ, or d + x wᵀ: 64 rows, 128 values and their 128 gates, 16 of the depth.
__device__ __forceinline__ void multiply(float* d, unsigned long long x, unsigned long long w, int more, __half) {
  MULTIPLY("f16.f16");
}
__device__ __forceinline__ void multiply(float* d, unsigned long long x, unsigned long long w, int more, __nv_bfloat16) {
  MULTIPLY("bf16.bf16");
}

// x·Φ(x) within 1.3e-5 or 6e-8·|x|, Φ being 1 / (1 + 2^-u) with u of an odd polynomial: fewer
// instructions than in kernels.cu, as the matrix units wait for these.
__device__ inline float gelu(float x) {
  const float c = fminf(fmaxf(x, -6.f), 6.f), q = c * c;
  const float u = c * (2.30164715f + q * (0.105982739f + q * (-7.36063881e-4f - q * 2.48362419e-5f)));
  float phi;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(phi) : "f"(1 + power2(-u)));
  return x * phi;
}

// out = (x·Wᵥᵀ + bᵥ) · GELU(x·W_gᵀ + b_g): (rows, depth), W (2·width, depth) → (rows, width).
// Two words are 0 before and after: the tiles that were taken, and the blocks that are done.
// Blocks take tiles as they come to them, as one may begin late: what waits for the result of
// this very work occupies a multiprocessor.
extern "C" __global__ void __launch_bounds__(128 * CONSUMERS + 128, 1)
    gated(const __grid_constant__ Map x, const __grid_constant__ Map w, const T* bias, T* out, u32* words,
          int rows, int width, int depth) {
  extern __shared__ char shared[];
  __shared__ alignas(8) unsigned long long barriers[2 * STAGES];
  __shared__ int tiles[STAGES];  // which one a stage begins
  const u32 stages = (shared_address(shared) + 1023) / 1024 * 1024;  // as swizzled rows repeat so
  const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
  const int down = (rows + ROWS - 1) / ROWS, across = (width + COLUMNS - 1) / COLUMNS, all = down * across;
  // By bands of 16 tiles, down first: what all blocks read at one time is little.
  auto place = [&](int tile) {
    const int top = tile / (16 * across) * 16, high = min(16, down - top), i = tile - top * across;
    return make_int2((top + i % high) * ROWS, i / high * COLUMNS);
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(full + 8 * s), "r"(1));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + 8 * s), "r"(4 * CONSUMERS));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  const int steps = (depth + DEPTH - 1) / DEPTH;
  int stage = 0, phase = 0;
  auto advance = [&] {
    if (++stage == STAGES) stage = 0, phase ^= 1;
  };
  if (threadIdx.x / 128 == CONSUMERS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x % 128) return;
    for (int tile = blockIdx.x; tile < all;) {
      const int next = gridDim.x + atomicAdd(words, 1);
      const int2 corner = place(tile);
      for (int k = 0; k < steps; k++, advance()) {
        const u32 to = stages + stage * STAGE, barrier = full + 8 * stage;
        wait(empty + 8 * stage, phase ^ 1);
        if (!k) tiles[stage] = tile;
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(STAGE) : "memory");
        fetch(to, x, k * DEPTH, corner.x, barrier);
        fetch(to + PART, w, k * DEPTH, corner.y, barrier);
        fetch(to + 2 * PART, w, k * DEPTH, corner.y + width, barrier);
      }
      tile = next;
    }
    wait(empty + 8 * stage, phase ^ 1);
    tiles[stage] = all;
    arrive(full + 8 * stage);
    __threadfence();
    if (atomicAdd(words + 1, 1) == gridDim.x - 1) words[0] = words[1] = 0;
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T* const mine = reinterpret_cast<T*>(shared + (stages - shared_address(shared)) + STAGES * STAGE) + warp * 16 * PITCH;
  auto release = [&](int read) {
    if (lane == 0) arrive(empty + 8 * read);
  };
  for (;;) {
    wait(full + 8 * stage, phase);
    const int tile = tiles[stage];
    if (tile >= all) return;
    const int2 corner = place(tile);
    u32 v[16], g[16];  // of the bias; while they come there is much to do
#pragma unroll
    for (int j = 0; j < 16; j++) {
      const int n = min(corner.y + 8 * j + lane % 4 * 2, width - 2);
      v[j] = *reinterpret_cast<const u32*>(bias + n);
      g[j] = *reinterpret_cast<const u32*>(bias + width + n);
    }
    float d[128];
    for (int k = 0; k < steps; k++) {
      const u32 from = stages + stage * STAGE;
      wait(full + 8 * stage, phase);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int i = 0; i < DEPTH / 16; i++)
        multiply(d, described(from + group * 64 * DEPTH * 2 + 32 * i), described(from + PART + 32 * i), k + i, T());
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      if (k) {
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        release((stage + STAGES - 1) % STAGES);
      }
      advance();
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" : ALL::"memory");  // none is read before
    release((stage + STAGES - 1) % STAGES);
    // A warp has 16 rows; through its part of shared memory, whole lines leave at a time.
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float2 value = unpack(v[8 * half + j], T()), gate = unpack(g[8 * half + j], T());
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const float* e = d + 32 * half + 4 * j + 2 * r;
          *reinterpret_cast<u32*>(mine + (lane / 4 + 8 * r) * PITCH + 8 * j + lane % 4 * 2) =
              pack((e[0] + value.x) * gelu(e[64] + gate.x), (e[1] + value.y) * gelu(e[65] + gate.y), T());
        }
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int r = 4 * i + lane / 8, c = lane % 8 * 8;
        const int m = corner.x + warp * 16 + r, n = corner.y + 64 * half + c;
        if (m < rows && n < width)
          *reinterpret_cast<uint4*>(out + (long long)m * width + n) = *reinterpret_cast<uint4*>(mine + r * PITCH + c);
      }
      __syncwarp();
    }
  }
}
