/* Linear layers, and convolutions that gather their pixels by pointing at them. */

#include "conv.h"

enum { FEW = 256 }; /* pixels */

/* The pixel of x that tap t of the window meets for the m-th of the result. */
static const float *met(const struct conv *o, long m, long t) {
    if (o->high * o->wide == 1 && o->stride == 1) return o->x + m * o->channels;
    long x = m % o->out_width, y = m / o->out_width % o->out_height;
    return pixel(o, m / o->out_width / o->out_height,
                 y * o->stride + t / o->wide - o->padding,
                 x * o->stride + t % o->wide - o->padding);
}

static void conv_item(void *job, long item) {
    const struct conv *o = job;
    long taps = o->high * o->wide, K = o->channels, N = o->out_channels;
    long M = o->batch * o->out_height * o->out_width;
    long blocks = (M + o->rows - 1) / o->rows, columns = o->columns;
    long n0 = item / blocks * columns, m0 = item % blocks * o->rows;
    long n = least(columns, N - n0), end = least(m0 + o->rows, M);

    float *panels = take(taps * K * columns), *room = take(NR * DEPTH);
    float *bias = take(columns);
    memcpy(bias, o->bias ? o->bias + n0 : zeros, 4 * n);
    for (long t = 0; t < taps; t++)
        for (long j = 0; j < n; j += NR)
            for (long p = 0; p < K; p += DEPTH) {
                const float *from[NR];
                long k = least(DEPTH, K - p);
                for (int r = 0; r < NR; r++) {
                    long i = ((n0 + j + r) * taps + t) * K + p;
                    from[r] = j + r < n ? read_weights(&o->weights, i, k, room + r * DEPTH) : zeros;
                }
                pack(from, k, panels + (t * columns + j) * K + p * NR);
            }

    for (; m0 < end; m0 += ROWS) {
        long count = least(ROWS, end - m0);
        for (long i = 0; o->add && i < count; i++) {
            const float *add = o->add + (m0 + i) * N + n0;
            float *to = o->out + (m0 + i) * N + n0;
            for (long j = 0; j < n; j++) to[j] = add[j] + bias[j];
        }
        for (long t = 0; t < taps; t++) {
            const float *rows[ROWS];
            for (long i = 0; i < up(count, MR); i++)
                rows[i] = met(o, m0 + least(i, count - 1), t);
            product(count, K, rows, panels + t * columns * K, n, t || o->add ? NULL : bias,
                    o->out + m0 * N + n0, N);
        }
    }
    give(panels), give(room), give(bias);
}

/* For few pixels, which cost less to pack than a window's weights: those are the rows, as
   they lie, and pixels the panels. */
static void few_item(void *job, long item) {
    const struct conv *o = job;
    long taps = o->high * o->wide, K = o->channels, N = o->out_channels;
    long M = o->batch * o->out_height * o->out_width, width = up(M, NR);
    long n0 = item * o->columns, n = least(o->columns, N - n0);
    float *panels = take(DEPTH * width), *room = take(MR * DEPTH);
    float *sums = take(up(n, MR) * width); /* (outputs, pixels) */
    memset(sums, 0, 4 * up(n, MR) * width);
    for (long t = 0; t < taps; t++)
        for (long p = 0; p < K; p += DEPTH) {
            long k = least(DEPTH, K - p);
            for (long j = 0; j < M; j += NR) {
                const float *from[NR];
                for (int r = 0; r < NR; r++)
                    from[r] = j + r < M ? met(o, j + r, t) + p : zeros;
                pack(from, k, panels + j * k);
            }
            for (long i = 0; i < n; i += MR) {
                const float *from[MR];
                for (int r = 0; r < MR; r++) {
                    long at = ((n0 + least(i + r, n - 1)) * taps + t) * K + p;
                    from[r] = read_weights(&o->weights, at, k, room + r * DEPTH);
                }
                for (long j = 0; j < M; j += NR) {
                    float *sum = sums + i * width + j;
                    tile(k, from, panels + j * k, sum, width, sum, width);
                }
            }
        }
    for (long i = 0; i < n; i += VL)
        for (long m = 0; m < M; m += VL) {
            vec v[VL], bias = ALL(0);
            long some = least(VL, n - i);
            if (o->bias) memcpy(&bias, o->bias + n0 + i, 4 * some);
            for (int r = 0; r < VL; r++) v[r] = AT(sums + least(i + r, n - 1) * width + m);
            transpose(v);
            for (long r = 0; r < least(VL, M - m); r++) {
                float *to = o->out + (m + r) * N + n0 + i;
                v[r] += bias;
                if (some == VL) AT(to) = v[r]; /* memcpy of an unknown size is slow */
                else memcpy(to, v + r, 4 * some);
            }
        }
    give(panels), give(room), give(sums);
}

void conv(struct conv *o, int threads) {
    if (o->high * o->wide > 1 && o->batch * o->out_height * o->out_width <= FEW) {
        o->columns = up((o->out_channels + threads - 1) / threads, MR);
        share(few_item, o, (o->out_channels + o->columns - 1) / o->columns, threads);
        return;
    }
    long K = o->high * o->wide * o->channels, N = o->out_channels;
    long M = o->batch * o->out_height * o->out_width;
    /* Panels for an item should fit a cache beside its rows; and be packed for many. */
    long most = least(16 * NR, least(1 << 19, 1 << 19) / K / NR * NR);
    if (most < NR) most = NR;
    long parts = (N + most - 1) / most;
    if (M < 1024 && parts < threads) parts = threads;
    o->columns = up((N + parts - 1) / parts, NR);
    parts = (N + o->columns - 1) / o->columns;
    long blocks = least((4 * threads + parts - 1) / parts, (M + 511) / 512);
    o->rows = up((M + blocks - 1) / blocks, MR);
    share(conv_item, o, parts * ((M + o->rows - 1) / o->rows), threads);
}
