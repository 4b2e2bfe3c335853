#include <math.h>

#include "tile.h"

struct attention {
    const float *q, *k, *v;
    float *out;
    long batch, queries, keys, width, heads;
    float *turned; /* v as (batch, heads, blocks of keys, width / heads, KEYS) */
};

enum { KEYS = 40 * MR, QUERIES = 4 * NR };

static long key_blocks(const struct attention *o) { return (o->keys + KEYS - 1) / KEYS; }

static void turn_item(void *job, long item) {
    const struct attention *o = job;
    long d = o->width / o->heads, key = item % key_blocks(o) * KEYS;
    long head = item / key_blocks(o) % o->heads, b = item / key_blocks(o) / o->heads;
    float *to = o->turned + item * d * KEYS;
    for (long j = 0; j < least(KEYS, o->keys - key); j++) {
        const float *v = o->v + (b * o->keys + key + j) * o->width + head * d;
        for (long i = 0; i < d; i++) to[i * KEYS + j] = v[i];
    }
}

/* sum += rows s, of MR rows or of the last, which are 4 or 8 for the usual heads. */
static void add_values(long left, long n, const float *const *rows, const float *s,
                       float *sum) {
    if (left == 4) tile_of(4, n, rows, s, sum, NR, sum, NR);
    else if (left == 8 && MR > 8) tile_of(8, n, rows, s, sum, NR, sum, NR);
    else tile(n, rows, s, sum, NR, sum, NR);
}

/* Running maxima and sums as in Milakov and Gimelshein 2018 (arXiv 1805.02867), with
   queries in the lanes of vectors, so that nothing is summed across them. */
static void attention_item(void *job, long item) {
    const struct attention *o = job;
    long d = o->width / o->heads, high = up(d, MR), D = o->width, L = o->queries;
    long blocks = (L + QUERIES - 1) / QUERIES;
    long first = item % blocks * QUERIES, h = item / blocks % o->heads;
    long b = item / blocks / o->heads, count = least(QUERIES, L - first);
    long panels = (count + NR - 1) / NR;
    const float *turned = o->turned + (b * o->heads + h) * key_blocks(o) * KEYS * d;
    float *q = take(panels * d * NR), *s = take(KEYS * NR);
    float *sums = take(panels * high * NR);
    vec top[QUERIES / VL], total[QUERIES / VL];
    float scale = 1.44269504f / sqrtf(d); /* for powers of 2 instead of e */

    for (long j = 0; j < panels * NR; j++)
        for (long i = 0; i < d; i++) {
            long row = b * L + first + least(j, count - 1);
            q[(j / NR * d + i) * NR + j % NR] = o->q[row * D + h * d + i] * scale;
        }
    memset(sums, 0, 4 * panels * high * NR);
    for (int i = 0; i < QUERIES / VL; i++) top[i] = ALL(-1e30f), total[i] = ALL(0);

    for (long key = 0; key < o->keys; key += KEYS) {
        long n = least(KEYS, o->keys - key);
        const float *rows[KEYS], *values[high];
        for (long r = 0; r < up(n, MR); r++)
            rows[r] = o->k + (b * o->keys + key + least(r, n - 1)) * D + h * d;
        for (long r = 0; r < high; r++)
            values[r] = turned + key * d + least(r, d - 1) * KEYS;
        for (long j = 0; j < panels; j++) {
            for (long r = 0; r < up(n, MR); r += MR)
                tile(d, rows + r, q + j * d * NR, zeros, 0, s + r * NR, NR);
            float *sum = sums + j * high * NR;
            vec *max = &top[2 * j], *all = &total[2 * j];
            vec old[2] = {max[0], max[1]}, added[2] = {ALL(0), ALL(0)}, drop[2];
            for (long r = 0; r < n; r++)
                for (int i = 0; i < 2; i++) max[i] = larger(max[i], AT(s + r * NR + i * VL));
            for (int i = 0; i < 2; i++) drop[i] = power2(old[i] - max[i]);
            for (long r = 0; r < n; r++)
                for (int i = 0; i < 2; i++) {
                    vec *at = &AT(s + r * NR + i * VL);
                    added[i] += *at = power2(*at - max[i]);
                }
            for (int i = 0; i < 2; i++) all[i] = all[i] * drop[i] + added[i];
            for (long r = 0; r < d; r++)
                for (int i = 0; i < 2; i++) AT(sum + r * NR + i * VL) *= drop[i];
            for (long r = 0; r < high; r += MR)
                add_values(d - r, n, values + r, s, sum + r * NR);
        }
    }
    for (long j = 0; j < count; j++) {
        float *to = o->out + (b * L + first + j) * D + h * d;
        float share = 1 / ((float *)total)[j];
        for (long i = 0; i < d; i++)
            to[i] = sums[(j / NR * high + i) * NR + j % NR] * share;
    }
    give(q), give(s), give(sums);
}

void attention(struct attention *o, int threads) {
    o->turned = take(o->batch * o->width * key_blocks(o) * KEYS);
    share(turn_item, o, o->batch * o->heads * key_blocks(o), threads);
    long blocks = (o->queries + QUERIES - 1) / QUERIES;
    share(attention_item, o, o->batch * o->heads * blocks, threads);
    give(o->turned);
}
