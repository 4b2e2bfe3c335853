/* 3x3 convolutions by F(4x4, 3x3) of Lavin and Gray 2015 (arXiv 1509.09308).

   4x4 pixels of the result at a time take 36 products per channel instead of 144. In x
   with each pixel four times, row and column 2 of what `spread` makes are zero, as they
   hold differences of a pixel and its copy, which leaves 25. */

#include "conv.h"

enum { GRID = 36 };

static inline void spread6(const vec d[6], vec v[6]) {
    vec a = d[4] - 4.0f * d[2], b = d[3] - 4.0f * d[1];
    vec e = d[4] - d[2], f = 2.0f * (d[3] - d[1]);
    v[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
    v[1] = a + b, v[2] = a - b, v[3] = e + f, v[4] = e - f;
    v[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

static inline void spread3(const vec g[3], vec u[6]) {
    vec a = (g[0] + g[2]) * (-1.0f / 6), b = g[1] * (-1.0f / 6);
    vec e = g[0] * (1.0f / 24) + g[2] * (1.0f / 6), f = g[1] * (1.0f / 12);
    u[0] = g[0] * 0.25f, u[1] = a + b, u[2] = a - b, u[3] = e + f, u[4] = e - f;
    u[5] = g[2];
}

static inline void gather6(const vec m[6], vec y[4]) {
    vec a = m[1] + m[2], b = m[1] - m[2], e = m[3] + m[4], f = m[3] - m[4];
    y[0] = m[0] + a + e, y[1] = b + 2.0f * f, y[2] = a + 4.0f * e;
    y[3] = b + 8.0f * f + m[5];
}

/* Multiples of a page would share a place in the cache. */
static long apart(long n) { return up(n, 1024) + 16; }

static long tiles_across(const struct conv *o) { return (o->out_width + 3) / 4; }
static long tiles_down(const struct conv *o) { return (o->out_height + 3) / 4; }

/* A tile of x → v, 36 times (count, channels) that are `step` apart */
static void spread_item(void *job, long item) {
    const struct conv *o = job;
    long t = o->first + item, C = o->channels, across = tiles_across(o);
    long x = t % across * 4 - 1, y = t / across % tiles_down(o) * 4 - 1;
    long b = t / across / tiles_down(o);
    const float *from[GRID], *scale = o->table ? o->table + b * 2 * C : NULL;
    for (int i = 0; i < GRID; i++) from[i] = pixel(o, b, y + i / 6, x + i % 6);
    for (long c = 0; c < C; c += VL) {
        vec d[6][6], v[6];
        for (int j = 0; j < 6; j++) {
            vec column[6];
            for (int i = 0; i < 6; i++) {
                column[i] = AT(from[6 * i + j] + c);
                if (scale && from[6 * i + j] != zeros)
                    column[i] = silu(column[i] * AT(scale + c) + AT(scale + C + c));
            }
            spread6(column, v);
            for (int i = 0; i < 6; i++) d[i][j] = v[i];
        }
        for (int i = 0; i < 6; i++) {
            spread6(d[i], v);
            for (int j = 0; j < 6; j++)
                AT(o->v + (6 * i + j) * o->step + item * C + c) = v[j];
        }
    }
}

/* NR outputs' weights from the n-th on → u, 36 panels that are `step` apart */
static void spread_weights(const struct conv *o, long n, float *u, long step) {
    enum { SOME = 64 }; /* channels at a time */
    long C = o->channels, outputs = least(NR, o->out_channels - n);
    float *room = take(NR * 9 * SOME);
    for (long c0 = 0; c0 < C; c0 += SOME) {
        const float *from[NR][9];
        long some = least(SOME, C - c0);
        for (int r = 0; r < NR; r++)
            for (int i = 0; i < 9; i++)
                from[r][i] = r < outputs
                    ? read_weights(&o->weights, ((n + r) * 9 + i) * C + c0, some,
                                   room + (r * 9 + i) * SOME)
                    : zeros;
        for (long c = 0; c < some; c += VL) {
            for (long r = c * NR / SOME; r < (c + VL) * NR / SOME && r < outputs; r++)
                for (int i = 0; i < 9; i++)
                    fetch_weights(&o->weights, ((n + r) * 9 + i) * C + c0 + SOME, SOME);
            vec g[9][NR]; /* first by output, then by channel: outputs in the lanes */
            for (int i = 0; i < 9; i++) {
                for (int r = 0; r < NR; r++) g[i][r] = AT(from[r][i] + c);
                transpose(g[i]), transpose(g[i] + VL);
            }
            for (int q = 0; q < NR; q++) {
                int k = q / 2 + q % 2 * VL;
                float *to = u + (c0 + c + q / 2) * NR + q % 2 * VL;
                vec d[6][3], v[6];
                for (int j = 0; j < 3; j++) {
                    spread3((vec[]){g[j][k], g[3 + j][k], g[6 + j][k]}, v);
                    for (int i = 0; i < 6; i++) d[i][j] = v[i];
                }
                for (int i = 0; i < 6; i++) {
                    spread3(d[i], v);
                    for (int j = 0; j < 6; j++) AT(to + (6 * i + j) * step) = v[j];
                }
            }
        }
    }
    give(room);
}

static void gather(const struct conv *o, long t, long n0, long n, const float *m,
                   long step) {
    long across = tiles_across(o), b = t / across / tiles_down(o);
    long x = t % across * 4, y = t / across % tiles_down(o) * 4;
    for (long c = 0; c < n; c += VL) {
        vec d[4][6], s[4];
        for (int j = 0; j < 6; j++) {
            vec column[6];
            for (int i = 0; i < 6; i++) column[i] = AT(m + (6 * i + j) * step + c);
            gather6(column, s);
            for (int i = 0; i < 4; i++) d[i][j] = s[i];
        }
        vec bias = ALL(0);
        long some = least(VL, n - c);
        if (o->bias) memcpy(&bias, o->bias + n0 + c, 4 * some);
        for (long i = 0; i < 4 && y + i < o->out_height; i++) {
            gather6(d[i], s);
            for (long j = 0; j < 4 && x + j < o->out_width; j++) {
                vec value = s[j] + bias;
                float *to = o->out + n0 + c + o->out_channels *
                    ((b * o->out_height + y + i) * o->out_width + x + j);
                if (some == VL) AT(to) = value; /* memcpy of an unknown size is slow */
                else memcpy(to, &value, 4 * some);
            }
        }
    }
}

static void winograd_item(void *job, long item) {
    const struct conv *o = job;
    long C = o->channels, columns = o->columns, n0 = item * columns;
    long n = least(columns, o->out_channels - n0), group = 8 * MR;
    long step = apart(C * columns);
    float *u = take(GRID * step), *m = take(GRID * group * columns);
    memset(m, 0, 4 * GRID * group * columns);
    for (long j = 0; j < n; j += NR) spread_weights(o, n0 + j, u + j * C, step);
    for (long t = 0; t < o->count; t += group) {
        long count = least(group, o->count - t);
        for (int i = 0; i < GRID; i++) {
            if (o->twice && (i / 6 == 2 || i % 6 == 2)) continue;
            const float *rows[8 * MR];
            for (long r = 0; r < up(count, MR); r++)
                rows[r] = o->v + i * o->step + (t + least(r, count - 1)) * C;
            product(count, C, rows, u + i * step, up(n, NR), zeros,
                    m + i * group * columns, columns);
        }
        for (long r = 0; r < count; r++)
            gather(o, o->first + t + r, n0, n, m + r * columns, group * columns);
    }
    give(u), give(m);
}

/* For channels that are a multiple of 16, stride 1 and padding 1. */
void winograd(struct conv *o, int threads) {
    long tiles = o->batch * tiles_across(o) * tiles_down(o);
    long panels = (o->out_channels + NR - 1) / NR;
    long most = least(5, (16 << 20) / (4 * GRID * NR) / o->channels);
    if (most < 1) most = 1;
    long items = up((panels + most - 1) / most, threads);
    o->columns = (panels + items - 1) / items * NR;
    items = (o->out_channels + o->columns - 1) / o->columns;
    long strip = least(512, (36 << 20) / (4 * GRID) / o->channels);
    long strips = (tiles + strip - 1) / strip;
    strip = (tiles + strips - 1) / strips;
    o->step = apart(strip * o->channels);
    o->v = take(GRID * o->step);
    for (o->first = 0; o->first < tiles; o->first += strip) {
        o->count = least(strip, tiles - o->first);
        share(spread_item, o, o->count, threads);
        share(winograd_item, o, items, threads);
    }
    give(o->v);
}
