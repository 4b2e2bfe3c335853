// Everything between the products and convolutions, on 16-bit floats of type T. Maps are
// (B, H, W, C); threads read and write 8 neighbouring channels, 16 bytes, at a time.

struct alignas(16) Eight { T v[8]; };

__device__ inline float wide(T x) { return static_cast<float>(x); }
__device__ inline float silu(float x) { return __fdividef(x, 1 + __expf(-x)); }

// x·Φ(x), by Abramowitz and Stegun 7.1.26: within 1e-7·|x|, less than 16 bits show.
__device__ inline float gelu(float x) {
  float z = fabsf(x) * 0.70710678f, t = __fdividef(1.f, 1 + 0.3275911f * z);
  float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  float tail = 0.5f * p * __expf(-z * z);
  return x * (x < 0 ? tail : 1 - tail);
}

__device__ inline float2 warp_sum(float2 x) {
  for (int i = 16; i; i /= 2) {
    x.x += __shfl_xor_sync(~0u, x.x, i);
    x.y += __shfl_xor_sync(~0u, x.y, i);
  }
  return x;
}

// What a thread adds to channel c + e before it is summed: `shift`, less the group's first
// value, since sums of small numbers lose fewer digits.
__device__ inline float offset(const T* x, const T* shift, int c, int width) {
  int first = c / width * width;
  return (shift ? wide(shift[c]) - wide(shift[first]) : 0.f) - wide(x[first]);
}
__device__ inline float pilot(const T* x, const T* shift, int first) {
  return wide(x[first]) + (shift ? wide(shift[first]) : 0.f);
}

// Sums per group of what the threads of a block counted: for each of their 8 channels, a
// sum and one of squares. Thread l·columns + i has column i, of 8 channels. `part` holds
// 8 values per thread and then (rows, channels), rows being `fold_rows`; a warp at a time
// gives the sums of a group to `take`.
__device__ inline int fold_rows(int lanes, int channels) { return min(lanes, max(1, blockDim.x / channels)); }

template <class Take>
__device__ inline void fold(float2* part, const float* s, const float* q, int lanes, int columns, int width,
                            Take take) {
  const int channels = 8 * columns, threads = lanes * columns, rows = fold_rows(lanes, channels);
  float2* folded = part + 8 * threads;
  // Neighbouring threads write neighbouring places, else they wait for each other.
  if (threadIdx.x < threads)
#pragma unroll
    for (int e = 0; e < 8; e++) part[e * threads + threadIdx.x] = {s[e], q[e]};
  __syncthreads();
  for (int t = threadIdx.x; t < rows * channels; t += blockDim.x) {
    const int row = t / channels, e = t % channels / columns, column = t % columns;
    float2 sum = {0, 0};
    for (int l = row; l < lanes; l += rows) {
      float2 p = part[e * threads + l * columns + column];
      sum.x += p.x;
      sum.y += p.y;
    }
    folded[row * channels + column * 8 + e] = sum;
  }
  __syncthreads();
  for (int g = threadIdx.x / 32; g < channels / width; g += blockDim.x / 32) {
    float2 sum = {0, 0};
    for (int l = 0; l < rows; l++)
      for (int i = threadIdx.x % 32; i < width; i += 32) {
        float2 p = folded[l * channels + g * width + i];
        sum.x += p.x;
        sum.y += p.y;
      }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) take(g, sum);
  }
}

// Sums of each group over a slab of pixels, (B, slabs, groups, 2). `shift` (B, C), rows
// `stride` apart, is added to the map.
extern "C" __global__ void group_sums(const T* x, const T* shift, int stride, float2* sums, int pixels, int C,
                                      int groups) {
  extern __shared__ float2 part[];  // for fold
  const int slabs = gridDim.x, slab = blockIdx.x, image = blockIdx.y, columns = C / 8;
  const int lanes = blockDim.x / columns, lane = threadIdx.x / columns, c = threadIdx.x % columns * 8;
  const int per = (pixels + slabs - 1) / slabs, end = min(pixels, (slab + 1) * per), width = C / groups;
  x += (long long)image * pixels * C;
  if (shift) shift += (long long)image * stride;
  float s[8] = {}, q[8] = {};
  if (lane < lanes) {
    float more[8];
#pragma unroll
    for (int e = 0; e < 8; e++) more[e] = offset(x, shift, c + e, width);
#pragma unroll 8
    for (int p = slab * per + lane; p < end; p += lanes) {
      Eight v = *reinterpret_cast<const Eight*>(x + (long long)p * C + c);
#pragma unroll
      for (int e = 0; e < 8; e++) {
        float f = wide(v.v[e]) + more[e];
        s[e] += f;
        q[e] += f * f;
      }
    }
  }
  fold(part, s, q, lanes, columns, width,
       [&](int g, float2 sum) { sums[((long long)image * slabs + slab) * groups + g] = sum; });
}

// Normalise by those sums, and SiLU if asked for.
extern "C" __global__ void group_apply(const T* x, const T* weight, const T* bias, const T* shift, int stride,
                                       const float2* sums, int slabs, float eps, T* out, int pixels, int C,
                                       int groups, int with_silu) {
  extern __shared__ float2 stats[];  // (groups): mean, 1/deviation
  const int image = blockIdx.y, columns = C / 8, lanes = blockDim.x / columns;
  const int lane = threadIdx.x / columns, c = threadIdx.x % columns * 8, width = C / groups;
  x += (long long)image * pixels * C;
  out += (long long)image * pixels * C + c;
  if (shift) shift += (long long)image * stride;
  for (int g = threadIdx.x / 32; g < groups; g += blockDim.x / 32) {
    float2 sum = {0, 0};
    for (int i = threadIdx.x % 32; i < slabs; i += 32) {
      float2 p = sums[((long long)image * slabs + i) * groups + g];
      sum.x += p.x;
      sum.y += p.y;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
      float n = float(pixels) * width, mean = sum.x / n;
      float variance = fmaxf(sum.y / n - mean * mean, 0.f);
      stats[g] = {mean + pilot(x, shift, g * width), rsqrtf(variance + eps)};
    }
  }
  __syncthreads();
  if (lane >= lanes) return;
  Eight w = *reinterpret_cast<const Eight*>(weight + c), b = *reinterpret_cast<const Eight*>(bias + c), m = {};
  if (shift) m = *reinterpret_cast<const Eight*>(shift + c);
  float scale[8], move[8];
#pragma unroll
  for (int e = 0; e < 8; e++) {
    float2 s = stats[(c + e) / width];
    scale[e] = s.y * wide(w.v[e]);
    move[e] = wide(b.v[e]) + ((shift ? wide(m.v[e]) : 0.f) - s.x) * scale[e];
  }
#pragma unroll 4
  for (int p = blockIdx.x * lanes + lane; p < pixels; p += gridDim.x * lanes) {
    Eight v = *reinterpret_cast<const Eight*>(x + (long long)p * C + c);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      float f = wide(v.v[e]) * scale[e] + move[e];
      v.v[e] = T(with_silu ? silu(f) : f);
    }
    *reinterpret_cast<Eight*>(out + (long long)p * C) = v;
  }
}

#if __CUDA_ARCH__ >= 900
// The same in one launch, for maps that fit into the device's registers: CLUSTER blocks
// that see each other's shared memory, to an image and a bundle of groups, which is
// 8·columns channels wide. A thread keeps the first KEPT eights that it reads.
constexpr int KEPT = 10;
template <int CLUSTER> __device__ inline void meet() {
  if (CLUSTER == 1)
    __syncthreads();
  else
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

template <int CLUSTER>
__device__ inline void group_norm(const T* x, const T* weight, const T* bias, const T* shift, int stride, float eps, T* out,
               int pixels, int C, int groups, int columns, int with_silu) {
  extern __shared__ float2 place[];  // for fold, then sums and offsets
  const int rank = blockIdx.x, image = blockIdx.z, base = blockIdx.y * columns * 8, width = C / groups;
  const int lanes = blockDim.x / columns, lane = threadIdx.x / columns, at = threadIdx.x % columns * 8;
  const int per = (pixels + CLUSTER - 1) / CLUSTER, start = rank * per, end = min(pixels, start + per);
  const int channels = 8 * columns, own = channels / width, c = base + at;
  float2* sums = place + (lanes + fold_rows(lanes, channels)) * channels;
  x += (long long)image * pixels * C;
  out += (long long)image * pixels * C;
  if (shift) shift += (long long)image * stride;
  float* more = reinterpret_cast<float*>(sums + own);  // (8·columns)
  Eight kept[KEPT], w, b, m = {};
  if (lane < lanes) {
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
      int p = start + lane + k * lanes;
      if (p < end) kept[k] = *reinterpret_cast<const Eight*>(x + (long long)p * C + c);
    }
    w = *reinterpret_cast<const Eight*>(weight + c);
    b = *reinterpret_cast<const Eight*>(bias + c);
    if (shift) m = *reinterpret_cast<const Eight*>(shift + c);
  }
  for (int i = threadIdx.x; i < channels; i += blockDim.x) more[i] = offset(x, shift, base + i, width);
  __syncthreads();
  float s[8] = {}, q[8] = {};
  if (lane < lanes) {
    float o[8];
#pragma unroll
    for (int e = 0; e < 8; e++) o[e] = more[at + e];
    auto count = [&](const Eight& v) {
#pragma unroll
      for (int e = 0; e < 8; e++) {
        float f = wide(v.v[e]) + o[e];
        s[e] += f;
        q[e] += f * f;
      }
    };
#pragma unroll
    for (int k = 0; k < KEPT; k++)
      if (start + lane + k * lanes < end) count(kept[k]);
#pragma unroll 4
    for (int p = start + lane + KEPT * lanes; p < end; p += lanes)
      count(*reinterpret_cast<const Eight*>(x + (long long)p * C + c));
  }
  fold(place, s, q, lanes, columns, width, [&](int g, float2 sum) { sums[g] = sum; });
  meet<CLUSTER>();
  float2 stats = {0, 0};
  if (threadIdx.x < own) {
    u32 local = shared_address(sums + threadIdx.x);
    float2 each[CLUSTER], sum = {0, 0};
#pragma unroll
    for (int r = 0; r < CLUSTER; r++) {
      unsigned remote;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(r));
      asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(each[r].x), "=f"(each[r].y) : "r"(remote) : "memory");
    }
#pragma unroll
    for (int r = 0; r < CLUSTER; r++) {
      sum.x += each[r].x;
      sum.y += each[r].y;
    }
    float n = float(pixels) * width, mean = sum.x / n;
    stats = {mean + pilot(x, shift, base + threadIdx.x * width), rsqrtf(fmaxf(sum.y / n - mean * mean, 0.f) + eps)};
  }
  meet<CLUSTER>();
  if (threadIdx.x < own) sums[threadIdx.x] = stats;
  __syncthreads();
  if (lane >= lanes) return;
  float scale[8], move[8];
#pragma unroll
  for (int e = 0; e < 8; e++) {
    float2 s = sums[(at + e) / width];
    scale[e] = s.y * wide(w.v[e]);
    move[e] = wide(b.v[e]) + (wide(m.v[e]) - s.x) * scale[e];
  }
  auto write = [&](Eight v, int p) {
#pragma unroll
    for (int e = 0; e < 8; e++) {
      float f = wide(v.v[e]) * scale[e] + move[e];
      v.v[e] = T(with_silu ? silu(f) : f);
    }
    *reinterpret_cast<Eight*>(out + (long long)p * C + c) = v;
  };
#pragma unroll
  for (int k = 0; k < KEPT; k++)
    if (start + lane + k * lanes < end) write(kept[k], start + lane + k * lanes);
#pragma unroll 4
  for (int p = start + lane + KEPT * lanes; p < end; p += lanes)
    write(*reinterpret_cast<const Eight*>(x + (long long)p * C + c), p);
}

#define GROUP_NORM(CLUSTER)                                                                          \
  extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(256, 2)               \
      group_norm_##CLUSTER(const T* x, const T* weight, const T* bias, const T* shift, int stride,   \
                           float eps, T* out, int pixels, int C, int groups, int columns, int silu) { \
    group_norm<CLUSTER>(x, weight, bias, shift, stride, eps, out, pixels, C, groups, columns, silu); \
  }
GROUP_NORM(1)
GROUP_NORM(2)
GROUP_NORM(4)
GROUP_NORM(8)
#endif

// A warp per row of D values, up to 8·256.
extern "C" __global__ void layer_norm(const T* x, const T* weight, const T* bias, float eps, T* out, int rows, int D) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  Eight v[8];
  float sum = 0, squares = 0;
#pragma unroll
  for (int p = 0; p < 8; p++) {
    int c = (p * 32 + lane) * 8;
    if (c < D) {
      v[p] = *reinterpret_cast<const Eight*>(x + (long long)row * D + c);
#pragma unroll
      for (int e = 0; e < 8; e++) sum += wide(v[p].v[e]);
    }
  }
  for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
  float mean = sum / D;
#pragma unroll
  for (int p = 0; p < 8; p++)
    if ((p * 32 + lane) * 8 < D)
#pragma unroll
      for (int e = 0; e < 8; e++) squares += (wide(v[p].v[e]) - mean) * (wide(v[p].v[e]) - mean);
  for (int i = 16; i; i /= 2) squares += __shfl_xor_sync(~0u, squares, i);
  float scale = rsqrtf(squares / D + eps);
#pragma unroll
  for (int p = 0; p < 8; p++) {
    int c = (p * 32 + lane) * 8;
    if (c < D) {
      Eight w = *reinterpret_cast<const Eight*>(weight + c), b = *reinterpret_cast<const Eight*>(bias + c);
#pragma unroll
      for (int e = 0; e < 8; e++) v[p].v[e] = T((wide(v[p].v[e]) - mean) * scale * wide(w.v[e]) + wide(b.v[e]));
      *reinterpret_cast<Eight*>(out + (long long)row * D + c) = v[p];
    }
  }
}

#define FOR_EACH(count) \
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (count); i += gridDim.x * (long long)blockDim.x)

// (rows, 2·width) → (rows, width): the first half times GELU of the second; counts in 8s.
extern "C" __global__ void geglu(const Eight* x, Eight* out, int rows, int width) {
  FOR_EACH((long long)rows * width) {
    long long row = i / width, at = row * 2 * width + i % width;
    Eight value = x[at], gate = x[at + width];
#pragma unroll
    for (int e = 0; e < 8; e++) value.v[e] = T(wide(value.v[e]) * gelu(wide(gate.v[e])));
    out[i] = value;
  }
}

// a + b + bias, one value of it per channel.
extern "C" __global__ void add_bias(const Eight* a, const Eight* b, const Eight* bias, Eight* out, int count, int C) {
  FOR_EACH(count) {
    Eight x = a[i], y = b[i], z = bias[i % C];
#pragma unroll
    for (int e = 0; e < 8; e++) x.v[e] = T(wide(x.v[e]) + wide(y.v[e]) + wide(z.v[e]));
    out[i] = x;
  }
}

extern "C" __global__ void add(const Eight* a, const Eight* b, Eight* out, int count) {
  FOR_EACH(count) {
    Eight x = a[i], y = b[i];
#pragma unroll
    for (int e = 0; e < 8; e++) x.v[e] = T(wide(x.v[e]) + wide(y.v[e]));
    out[i] = x;
  }
}

// x + bias for C channels of any number.
extern "C" __global__ void add_channel(const T* x, const T* bias, T* out, int count, int C) {
  FOR_EACH(count) out[i] = T(wide(x[i]) + wide(bias[i % C]));
}

extern "C" __global__ void add_channels(const Eight* x, const Eight* bias, Eight* out, int count, int C) {
  FOR_EACH(count) {
    Eight v = x[i], z = bias[i % C];
#pragma unroll
    for (int e = 0; e < 8; e++) v.v[e] = T(wide(v.v[e]) + wide(z.v[e]));
    out[i] = v;
  }
}

extern "C" __global__ void silu_each(const Eight* x, Eight* out, int count) {
  FOR_EACH(count) {
    Eight v = x[i];
#pragma unroll
    for (int e = 0; e < 8; e++) v.v[e] = T(silu(wide(v.v[e])));
    out[i] = v;
  }
}

// nn/embed.py's timestep_embedding, an image to a block.
extern "C" __global__ void timesteps(const float* t, T* out, int width, float max_period) {
  const int half = width / 2;
  for (int j = threadIdx.x; j < width; j += blockDim.x) {
    float angle = t[blockIdx.x] * expf(-logf(max_period) / half * (j % half));
    out[blockIdx.x * width + j] = T(j < half ? cosf(angle) : j < 2 * half ? sinf(angle) : 0.f);
  }
}

// Channels of a, then of b; counts in 8s.
extern "C" __global__ void concat(const Eight* a, const Eight* b, Eight* out, int pixels, int A, int B) {
  FOR_EACH((long long)pixels * (A + B)) {
    long long p = i / (A + B);
    int c = i % (A + B);
    out[i] = c < A ? a[p * A + c] : b[p * B + c - A];
  }
}

// Pixel ⌊i·H/height⌋ of each axis; C in 8s.
extern "C" __global__ void nearest(const Eight* x, Eight* out, int images, int H, int W, int C, int height, int width) {
  FOR_EACH((long long)images * height * width * C) {
    int c = i % C;
    long long p = i / C;
    int column = p % width, row = p / width % height, image = p / width / height;
    int r = (long long)row * H / height, q = (long long)column * W / width;
    out[i] = x[(((long long)image * H + r) * W + q) * C + c];
  }
}

// Softmax of each row of `width` values, a multiple of 8; in place, a block a row.
extern "C" __global__ void softmax(T* x, int width) {
  __shared__ float parts[32];
  Eight* row = reinterpret_cast<Eight*>(x + (long long)blockIdx.x * width);
  const int count = width / 8, warps = blockDim.x / 32;
  auto reduce = [&](float v, bool peak) {
    for (int i = 16; i; i /= 2) {
      float other = __shfl_xor_sync(~0u, v, i);
      v = peak ? fmaxf(v, other) : v + other;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    v = parts[0];
    for (int i = 1; i < warps; i++) v = peak ? fmaxf(v, parts[i]) : v + parts[i];
    return v;
  };
  float top = -3.402823466e38f, sum = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    for (int e = 0; e < 8; e++) top = fmaxf(top, wide(row[i].v[e]));
  top = reduce(top, true);
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    for (int e = 0; e < 8; e++) sum += __expf(wide(row[i].v[e]) - top);
  sum = 1 / reduce(sum, false);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    Eight v = row[i];
    for (int e = 0; e < 8; e++) v.v[e] = T(__expf(wide(v.v[e]) - top) * sum);
    row[i] = v;
  }
}

// Word to and from MLX's stream: see transfer.py.
extern "C" __global__ void hear(unsigned* word) {
  while (atomicCAS(word, 1u, 0u) != 1u) __nanosleep(200);
  __threadfence();
}
extern "C" __global__ void say(unsigned* word) {
  __threadfence();
  atomicExch(word, 1u);
}
