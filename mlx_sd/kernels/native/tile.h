#include "base.h"

/* NR rows of k values each → k columns of NR */
static inline void pack(const float *const *rows, long k, float *out) {
    long p = 0;
    for (; p + VL <= k; p += VL)
        for (int half = 0; half < NR; half += VL) {
            vec v[VL];
            for (int i = 0; i < VL; i++) v[i] = AT(rows[half + i] + p);
            transpose(v);
            for (int i = 0; i < VL; i++) AT(out + (p + i) * NR + half) = v[i];
        }
    for (; p < k; p++)
        for (int j = 0; j < NR; j++) out[p * NR + j] = rows[j][p];
}

/* c = init + rows panel: (high, k) times (k, NR). */
static inline __attribute__((always_inline)) void
tile_of(int high, long k, const float *const *rows, const float *panel, const float *init,
        long init_width, float *c, long width) {
    vec sum[MR][2];
    const float *a[MR];
    for (int i = 0; i < high; i++) {
        a[i] = rows[i];
        sum[i][0] = AT(init + i * init_width);
        sum[i][1] = AT(init + i * init_width + VL);
    }
    for (long p = 0; p < k; p++) {
        vec b0 = AT(panel + p * NR), b1 = AT(panel + p * NR + VL);
        for (int i = 0; i < high; i++) {
            sum[i][0] += a[i][p] * b0;
            sum[i][1] += a[i][p] * b1;
        }
    }
    for (int i = 0; i < high; i++) {
        AT(c + i * width) = sum[i][0];
        AT(c + i * width + VL) = sum[i][1];
    }
}

/* (MR, k) times (k, NR) */
static void tile(long k, const float *const *rows, const float *panel, const float *init,
                 long init_width, float *c, long width) {
    tile_of(MR, k, rows, panel, init, init_width, c, width);
}
