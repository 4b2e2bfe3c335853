/* Linear layers, and convolutions that gather their pixels by pointing at them. */

#include "conv.h"

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
        for (long t = 0; t < taps; t++) {
            const float *rows[ROWS];
            for (long i = 0; i < up(count, MR); i++) {
                long m = m0 + least(i, count - 1);
                if (taps == 1 && o->stride == 1)
                    rows[i] = o->x + m * K;
                else {
                    long x = m % o->out_width, y = m / o->out_width % o->out_height;
                    rows[i] = pixel(o, m / o->out_width / o->out_height,
                                    y * o->stride + t / o->wide - o->padding,
                                    x * o->stride + t % o->wide - o->padding);
                }
            }
            product(count, K, rows, panels + t * columns * K, n, t ? NULL : bias,
                    o->out + m0 * N + n0, N);
        }
    }
    give(panels), give(room), give(bias);
}

void conv(struct conv *o, int threads) {
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
