// softmax(q kᵀ·scale) v, one head and 16·MT queries a warp, by online softmax over
// tiles of 64 keys (Dao 2023, arXiv 2307.08691). Head widths D that 8 divides; the tensor
// cores see them padded with zeros to DK. T, D, WARPS and MT are given to
// the compiler.

using i64 = long long;
constexpr float FLT_MAX = 3.402823466e38f;
constexpr int DK = (D + 15) / 16 * 16, PITCH = DK + 8, BC = 64, THREADS = 32 * WARPS, ROWS = 16 * MT * WARPS;

#define MMA(TYPE)                                                                    \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"          \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
__device__ inline void mma(float* c, const u32* a, u32 b0, u32 b1, __half) { MMA("f16"); }
__device__ inline void mma(float* c, const u32* a, u32 b0, u32 b1, __nv_bfloat16) { MMA("bf16"); }

template <bool TRANSPOSED> __device__ inline void ldmatrix(u32* r, u32 address) {
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

// Rows [first, first + COUNT) of a head into shared memory, zeros past `count` and past D.
template <int COUNT>
__device__ inline void fetch(T* to, const T* from, i64 stride, int first, int count) {
  constexpr int CHUNKS = DK / 8;
  for (int i = threadIdx.x; i < COUNT * CHUNKS; i += THREADS) {
    int row = i / CHUNKS, chunk = i % CHUNKS;
    bool valid = first + row < count && chunk * 8 < D;
    const T* p = valid ? from + (first + row) * stride + chunk * 8 : from;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 ::"r"(shared_address(to + row * PITCH + chunk * 8)), "l"(p), "r"(valid ? 16 : 0)
                 : "memory");
  }
}

// Rows of q, k and v lie q_width, k_width and v_width values apart.
extern "C" __global__ void attention(const T* q, const T* k, const T* v, T* out, int L, int S, int heads,
                                     int q_width, int k_width, int v_width, float scale) {
  extern __shared__ __align__(16) unsigned char raw[];
  T* qs = reinterpret_cast<T*>(raw);
  T* ks = qs + ROWS * PITCH;
  T* vs = ks + 2 * BC * PITCH;
  const int head = blockIdx.y % heads, image = blockIdx.y / heads;
  const int first = blockIdx.x * ROWS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  q += i64(image) * L * q_width + head * D;
  k += i64(image) * S * k_width + head * D;
  v += i64(image) * S * v_width + head * D;
  out += i64(image) * L * heads * D + head * D;

  const int tiles = (S + BC - 1) / BC;
  fetch<ROWS>(qs, q, q_width, first, L);
  fetch<BC>(ks, k, k_width, 0, S);
  fetch<BC>(vs, v, v_width, 0, S);
  asm volatile("cp.async.commit_group;" ::: "memory");

  u32 qf[MT][DK / 16][4];
  float o[MT][DK / 8][4] = {}, peak[MT][2], total[MT][2] = {};
#pragma unroll
  for (int t = 0; t < MT; t++) peak[t][0] = peak[t][1] = -FLT_MAX;
  const float scale2 = scale * 1.44269504f;  // exp(x) = 2^(x log2 e)

  for (int tile = 0; tile < tiles; tile++) {
    T* kt = ks + tile % 2 * BC * PITCH;
    T* vt = vs + tile % 2 * BC * PITCH;
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    if (tile + 1 < tiles) {
      int at = (tile + 1) % 2 * BC * PITCH;
      fetch<BC>(ks + at, k, k_width, (tile + 1) * BC, S);
      fetch<BC>(vs + at, v, v_width, (tile + 1) * BC, S);
      asm volatile("cp.async.commit_group;" ::: "memory");
    }
    if (tile == 0) {
#pragma unroll
      for (int t = 0; t < MT; t++)
#pragma unroll
        for (int d = 0; d < DK / 16; d++)
          ldmatrix<false>(qf[t][d], shared_address(qs + ((warp * MT + t) * 16 + lane % 16) * PITCH + d * 16 + lane / 16 * 8));
    }
    float s[MT][BC / 8][4] = {};
#pragma unroll
    for (int d = 0; d < DK / 16; d++)
#pragma unroll
      for (int j = 0; j < BC / 16; j++) {
        u32 kf[4];  // keys j·16 … +7 and +8 … +15, each for both halves of d
        ldmatrix<false>(kf, shared_address(kt + (j * 16 + lane / 16 * 8 + lane % 8) * PITCH + d * 16 + lane / 8 % 2 * 8));
#pragma unroll
        for (int t = 0; t < MT; t++) {
          mma(s[t][2 * j], qf[t][d], kf[0], kf[1], T());
          mma(s[t][2 * j + 1], qf[t][d], kf[2], kf[3], T());
        }
      }
    if ((tile + 1) * BC > S) {
#pragma unroll
      for (int t = 0; t < MT; t++)
#pragma unroll
        for (int j = 0; j < BC / 8; j++)
#pragma unroll
          for (int e = 0; e < 4; e++)
            if (tile * BC + j * 8 + lane % 4 * 2 + e % 2 >= S) s[t][j][e] = -FLT_MAX;
    }
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float m = peak[t][h];
#pragma unroll
        for (int j = 0; j < BC / 8; j++) m = fmaxf(m, fmaxf(s[t][j][2 * h], s[t][j][2 * h + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        float shrink = power2((peak[t][h] - m) * scale2), sum = 0, low = m * scale2;
        peak[t][h] = m;
#pragma unroll
        for (int j = 0; j < BC / 8; j++)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[t][j][e] = power2(s[t][j][e] * scale2 - low);
            sum += s[t][j][e];
          }
        total[t][h] = total[t][h] * shrink + sum;
#pragma unroll
        for (int d = 0; d < DK / 8; d++) {
          o[t][d][2 * h] *= shrink;
          o[t][d][2 * h + 1] *= shrink;
        }
      }
#pragma unroll
    for (int j = 0; j < BC / 16; j++) {
      u32 p[MT][4];
#pragma unroll
      for (int t = 0; t < MT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[t][i] = pack(s[t][2 * j + i / 2][i % 2 * 2], s[t][2 * j + i / 2][i % 2 * 2 + 1], T());
#pragma unroll
      for (int d = 0; d < DK / 16; d++) {
        u32 vf[4];
        ldmatrix<true>(vf, shared_address(vt + (j * 16 + lane % 16) * PITCH + d * 16 + lane / 16 * 8));
#pragma unroll
        for (int t = 0; t < MT; t++) {
          mma(o[t][2 * d], p[t], vf[0], vf[1], T());
          if (2 * d + 1 < D / 8) mma(o[t][2 * d + 1], p[t], vf[2], vf[3], T());
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int t = 0; t < MT; t++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float sum = total[t][h];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      float inverse = 1 / sum;
      int row = first + (warp * MT + t) * 16 + lane / 4 + h * 8;
      if (row >= L) continue;
#pragma unroll
      for (int d = 0; d < D / 8; d++) {
        u32 two = pack(o[t][d][2 * h] * inverse, o[t][d][2 * h + 1] * inverse, T());
        *reinterpret_cast<u32*>(out + i64(row) * heads * D + d * 8 + lane % 4 * 2) = two;
      }
    }
}
