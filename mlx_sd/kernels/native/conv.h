/* What linear layers and convolutions are told, and have in common. */

#include "tile.h"

enum { F32, F16, BF16, PACKED = 16 }; /* PACKED + bits: as in ../packed.py */

struct weights {
    const void *data;
    long type;
    const uint16_t *scales, *biases; /* of PACKED, a pair for each GROUP values */
};

/* n values from the i-th on, as float32: where they are, or in `room`. Where they are
   packed, i and n are multiples of GROUP. */
enum { GROUP = 32 };
const float *read_weights(const struct weights *w, long i, long n, float *room);

/* Have them come from memory. */
static inline void fetch_weights(const struct weights *w, long i, long n) {
    long bits = w->type == F32 ? 32 : w->type < PACKED ? 16 : w->type - PACKED;
    const char *from = (const char *)w->data + i * bits / 8;
    for (long at = 0; at < n * bits / 8; at += 64) __builtin_prefetch(from + at, 0, 2);
}

struct conv {
    const float *x, *bias;
    const float *add; /* NULL, or what a linear layer adds to its result */
    float *out;
    struct weights weights;
    long batch, height, width, channels; /* of x */
    long high, wide, stride, padding;    /* of the window; a linear layer's is 1x1 */
    long out_height, out_width, out_channels;
    const float *table; /* NULL, or (batch, 2, channels): winograd alone computes with
                           SiLU of x times the first plus the second */
    long twice; /* whether x is to have each pixel four times; winograd alone */
    /* how the work is shared: */
    long columns, rows; /* of an item */
    float *v;           /* winograd's tiles, and how many */
    long first, count, step;
};

/* A pixel of x, of zeros beyond its edges. */
static inline const float *pixel(const struct conv *o, long b, long y, long x) {
    if (y < 0 || x < 0 || y >= o->height << o->twice || x >= o->width << o->twice)
        return zeros;
    y >>= o->twice, x >>= o->twice;
    return o->x + ((b * o->height + y) * o->width + x) * o->channels;
}

/* c = bias + rows panels, or c += those without a bias: (count, k) times (k, columns),
   in parts that stay in the cache.
   rows: up(count, MR) pointers. panels: one after another. bias: up(columns, NR). */
static inline void product(long count, long k, const float *const *rows, const float *panels,
                    long columns, const float *bias, float *c, long width) {
    long parts = (k + DEPTH - 1) / DEPTH, depth = (k + parts - 1) / parts;
    for (long p = 0; p < k; p += depth, bias = NULL)
        for (long i = 0; i < count; i += MR) {
            const float *from[MR];
            long high = least(MR, count - i), now = least(depth, k - p);
            for (int r = 0; r < MR; r++) from[r] = rows[i + r] + p;
            for (long j = 0; j < columns; j += NR) {
                const float *panel = panels + j * k + p * NR;
                float edge[MR * NR], *to = c + i * width + j;
                long wide = least(NR, columns - j);
                if (i + MR < count) { /* have a share of the next rows come */
                    long q = now * j / columns / 16 * 16;
                    for (; q < now * (j + wide) / columns; q += 16)
                        for (int r = 0; r < MR; r++)
                            __builtin_prefetch(rows[i + MR + r] + p + q);
                }
                if (high == MR && wide == NR) {
                    const float *init = bias ? bias + j : to;
                    tile(now, from, panel, init, bias ? 0 : width, to, width);
                    continue;
                }
                for (long r = 0; r < high; r++)
                    memcpy(edge + r * NR, bias ? bias + j : to + r * width, 4 * wide);
                tile(now, from, panel, edge, NR, edge, NR);
                for (long r = 0; r < high; r++)
                    memcpy(to + r * width, edge + r * NR, 4 * wide);
            }
        }
}
