/* Norms and activations. */

#include <math.h>

#include "base.h"

struct norm {
    const float *x, *weight, *bias;
    float *out;
    long batch, pixels, channels, groups, silu;
    float eps;
    long rows, blocks; /* pixels of an item, and items of a picture */
    float *sums;       /* (batch, blocks, 2, channels); later scales and shifts */
};

/* Sums and sums of squares of each channel, less its value in the first pixel: a mean
   far from zero would drown the squares. */
static void sum_item(void *job, long item) {
    const struct norm *o = job;
    long C = o->channels, b = item / o->blocks, from = item % o->blocks * o->rows;
    long to = least(from + o->rows, o->pixels);
    const float *x = o->x + b * o->pixels * C;
    float *sum = o->sums + item * 2 * C, *square = sum + C;
    memset(sum, 0, 8 * C);
    for (long p = from; p < to; p++) {
        long c = 0;
        for (; c + VL <= C; c += VL) {
            vec y = AT(x + p * C + c) - AT(x + c);
            AT(sum + c) += y, AT(square + c) += y * y;
        }
        for (; c < C; c++) {
            float y = x[p * C + c] - x[c];
            sum[c] += y, square[c] += y * y;
        }
    }
}

static void scale_item(void *job, long item) {
    const struct norm *o = job;
    long C = o->channels, b = item / o->blocks, from = item % o->blocks * o->rows;
    long n = (least(from + o->rows, o->pixels) - from) * C;
    const float *scale = o->sums + b * o->blocks * 2 * C, *shift = scale + C;
    const float *x = o->x + (b * o->pixels + from) * C;
    float *out = o->out + (b * o->pixels + from) * C;
    for (long p = 0; p < n; p += C) {
        long c = 0;
        for (; c + VL <= C; c += VL) {
            vec y = AT(x + p + c) * AT(scale + c) + AT(shift + c);
            AT(out + p + c) = o->silu ? silu(y) : y;
        }
        for (; c < C; c++) {
            float y = x[p + c] * scale[c] + shift[c];
            out[p + c] = o->silu ? silu(ALL(y))[0] : y;
        }
    }
}

static void channel_sums(struct norm *o, int threads) {
    o->rows = (1 << 15) / o->channels + 1;
    o->blocks = (o->pixels + o->rows - 1) / o->rows;
    o->sums = take(o->batch * o->blocks * 2 * o->channels);
    share(sum_item, o, o->batch * o->blocks, threads);
}

/* Leaves in `sums`, at each picture's first item, what x is to be multiplied with, and
   what is added then. */
static void group_sums(struct norm *o, int threads) {
    long C = o->channels, each = C / o->groups, n = o->pixels * each;
    channel_sums(o, threads);
    for (long b = 0; b < o->batch; b++) {
        float *first = o->sums + b * o->blocks * 2 * C;
        const float *pilot = o->x + b * o->pixels * C;
        for (long g = 0; g < C; g += each) {
            double mean = 0, square = 0;
            for (long c = g; c < g + each; c++) {
                double s = 0, q = 0, at = pilot[c];
                for (long i = 0; i < o->blocks; i++)
                    s += first[i * 2 * C + c], q += first[i * 2 * C + C + c];
                mean += s + at * o->pixels;
                square += q + 2 * at * s + at * at * o->pixels;
            }
            mean /= n;
            double inverse = 1 / sqrt(fmax(square / n - mean * mean, 0) + o->eps);
            for (long c = g; c < g + each; c++) {
                first[c] = inverse * o->weight[c];
                first[C + c] = o->bias[c] - mean * inverse * o->weight[c];
            }
        }
    }
}

void group_norm(struct norm *o, int threads) {
    group_sums(o, threads);
    share(scale_item, o, o->batch * o->blocks, threads);
    give(o->sums);
}

/* (batch, 2, channels): mean and variance of each channel */
void moments(struct norm *o, int threads) {
    long C = o->channels;
    channel_sums(o, threads);
    for (long b = 0; b < o->batch; b++)
        for (long c = 0; c < C; c++) {
            const float *part = o->sums + b * o->blocks * 2 * C + c;
            double s = 0, q = 0;
            for (long i = 0; i < o->blocks; i++) s += part[i * 2 * C], q += part[i * 2 * C + C];
            s /= o->pixels, q = q / o->pixels - s * s;
            o->out[b * 2 * C + c] = o->x[b * o->pixels * C + c] + s;
            o->out[b * 2 * C + C + c] = q < 0 ? 0 : q; /* not fmax: no number stays so */
        }
    give(o->sums);
}

/* (batch, 2, channels): for winograd.c */
void group_table(struct norm *o, int threads) {
    long C = o->channels;
    group_sums(o, threads);
    for (long b = 0; b < o->batch; b++)
        memcpy(o->out + b * 2 * C, o->sums + b * o->blocks * 2 * C, 8 * C);
    give(o->sums);
}

static float total_of(vec v) {
    float sum = 0;
    for (int i = 0; i < VL; i++) sum += v[i];
    return sum;
}

static void token_item(void *job, long item) {
    const struct norm *o = job;
    long D = o->channels, end = least((item + 1) * o->rows, o->pixels), i;
    for (long p = item * o->rows; p < end; p++) {
        const float *x = o->x + p * D;
        float *out = o->out + p * D, mean = 0, square = 0;
        vec part = ALL(0);
        for (i = 0; i + VL <= D; i += VL) part += AT(x + i);
        for (; i < D; i++) mean += x[i];
        mean = (mean + total_of(part)) / D, part = ALL(0);
        for (i = 0; i + VL <= D; i += VL)
            part += (AT(x + i) - mean) * (AT(x + i) - mean);
        for (; i < D; i++) square += (x[i] - mean) * (x[i] - mean);
        float inverse = 1 / sqrtf((square + total_of(part)) / D + o->eps);
        for (i = 0; i < D; i++)
            out[i] = (x[i] - mean) * inverse * o->weight[i] + o->bias[i];
    }
}

/* Of each of `pixels` tokens, over their `channels`. */
void layer_norm(struct norm *o, int threads) {
    o->rows = 32;
    share(token_item, o, (o->pixels + 31) / 32, threads);
}

struct activation {
    const float *x;
    float *out;
    long kind, rows, width; /* of the result; geglu's x is twice as wide */
};

enum { SILU, GELU, QUICK_GELU, GEGLU };

static inline vec activated(long kind, vec x) {
    return kind == SILU ? silu(x) : kind == QUICK_GELU ? quick_gelu(x) : gelu(x);
}

static void activation_item(void *job, long row) {
    const struct activation *o = job;
    long n = o->width;
    const float *x = o->x + row * (o->kind == GEGLU ? 2 * n : n);
    const float *gate = o->kind == GEGLU ? x + n : x;
    float *out = o->out + row * n;
    long i = 0;
    for (; i + VL <= n; i += VL) {
        vec y = activated(o->kind, AT(gate + i));
        AT(out + i) = o->kind == GEGLU ? (vec)(y * AT(x + i)) : y;
    }
    for (; i < n; i++) {
        float y = activated(o->kind, ALL(gate[i]))[0];
        out[i] = o->kind == GEGLU ? y * x[i] : y;
    }
}

void activation(struct activation *o, int threads) {
    share(activation_item, o, o->rows, threads);
}
