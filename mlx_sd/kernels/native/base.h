/* The networks' operations on a CPU, in float32, over all cores.

   MLX's own code for x86 uses no vector instructions. This code does: cpu.py has
   the system's compiler build it for the machine at hand. Vectors are those of GCC and
   Clang, so that it suits any processor.

   Everything rests on one loop, `tile`: MR rows times a panel of NR columns. Its rows
   are pointers, so a convolution gathers its pixels by pointing at them; its panel is
   packed, so a weight of any type becomes float32 there and nowhere else.

   Arrays are as in reference.py: NHWC, weights (O, h, w, I). */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
enum { VL = 16, MR = 12 };
#define LARGER(a, b) (vec)_mm512_max_ps((__m512)(a), (__m512)(b))
#define EVEN 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ODD 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX__)
#include <immintrin.h>
enum { VL = 8, MR = 6 };
#define LARGER(a, b) (vec)_mm256_max_ps((__m256)(a), (__m256)(b))
#define EVEN 0, 8, 1, 9, 2, 10, 3, 11
#define ODD 4, 12, 5, 13, 6, 14, 7, 15
#else
enum { VL = 4, MR = 6 };
#define LARGER(a, b) choose((a) > (b), a, b)
#define EVEN 0, 4, 1, 5
#define ODD 2, 6, 3, 7
#endif
#ifdef __clang__
#define INTERLEAVED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INTERLEAVED(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
enum { NR = 2 * VL, ROWS = 16 * MR, DEPTH = 384 };

typedef float vec __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint16_t half __attribute__((vector_size(2 * VL), aligned(2), may_alias));
#define AT(p) (*(vec *)(p))
#define ALL(x) ((float)(x) - (vec){}) /* not +, which would change -0 */

static inline long least(long a, long b) { return a < b ? a : b; }
static inline long up(long n, long unit) { return (n + unit - 1) / unit * unit; }

/* --- Memory and cores: base.c --- */

float *take(size_t count);
void give(float *floats);
extern const float zeros[1 << 14]; /* stands for pixels beyond an edge */

typedef void (*task)(void *job, long item);
void share(task run, void *job, long items, int threads);

/* --- Functions of vectors --- */

static inline vec choose(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}
static inline vec larger(vec a, vec b) { return LARGER(a, b); }

/* VL vectors → those of their first elements, second ones, ... */
static inline void transpose(vec v[VL]) {
    vec w[VL];
    for (int n = 1; n < VL; n *= 2) { /* each time, halves of the vectors interleave */
        for (int i = 0; i < VL / 2; i++) {
            w[2 * i] = INTERLEAVED(v[i], v[i + VL / 2], EVEN);
            w[2 * i + 1] = INTERLEAVED(v[i], v[i + VL / 2], ODD);
        }
        memcpy(v, w, sizeof w);
    }
}

/* 2^x to 2e-7 of it, for x below 128; 2^-126 for x below -126. */
static inline vec power2(vec x) {
    x = larger(ALL(-126), x); /* in this order what is no number stays so */
    const vec shift = ALL(12582912); /* 1.5 * 2^23, which rounds what it is added to */
    vec whole = x + shift, f = x - (whole - shift);
    vec p = 1.5403530e-4f * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + ((ivec)whole << 23));
}

/* x / (1 + e^-sx), whose power is of a negative number, for x of either sign. */
static inline vec swish(vec x, float s) {
    vec e = power2(larger(x, -x) * (s * -1.44269504f)); 
    return choose(x < 0, x * e, x) / (1.0f + e);
}
static inline vec silu(vec x) { return swish(x, 1); }
static inline vec quick_gelu(vec x) { return swish(x, 1.702f); }

/* Of the error function: Abramowitz and Stegun 7.1.26, to 1.5e-7. */
static inline vec gelu(vec x) {
    vec size = larger(x, -x), t = 1.0f / (1.0f + size * 0.231641888f);
    vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = (p * t + 0.254829592f) * t * power2(x * x * -0.72134752f);
    return larger(x, ALL(0)) - 0.5f * size * p;
}
