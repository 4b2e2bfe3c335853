#include "conv.h"

/* float16: its bits moved into place, times 2^112, the difference of the exponents'
   zeros. From 65536 on it is infinite or no number, and so is the result. */
static inline vec widened_all(const uint16_t *h, long type) {
    ivec u = __builtin_convertvector(*(const half *)h, ivec);
    if (type == BF16) return (vec)(u << 16);
    vec size = (vec)((u & 0x7fff) << 13) * 5.192296858534828e33f;
    ivec beyond = (size >= 65536) & 0x7f800000;
    return (vec)((ivec)size | beyond | (u & 0x8000) << 16);
}

static inline float widened(uint16_t h) {
    uint16_t some[VL] = {h};
    return widened_all(some, F16)[0];
}

/* GROUP integers, each directly above the one before it */
static inline void unpack(const uint8_t *from, int bits, float scale, float bias,
                          float *to) {
    for (int j = 0; j < GROUP; j += 8, from += bits) {
        uint64_t some = 0;
        memcpy(&some, from, bits);
        for (int i = 0; i < 8; i++)
            to[j + i] = scale * (int)(some >> bits * i & ((1 << bits) - 1)) + bias;
    }
}

const float *read_weights(const struct weights *w, long i, long n, float *room) {
    if (w->type == F32) return (const float *)w->data + i;
    if (w->type > PACKED) {
        int bits = w->type - PACKED;
        for (long j = 0; j < n; j += GROUP) {
            const uint8_t *from = (const uint8_t *)w->data + (i + j) / 8 * bits;
            float scale = widened(w->scales[(i + j) / GROUP]);
            float bias = widened(w->biases[(i + j) / GROUP]), *to = room + j;
            switch (bits) { /* a loop of its own for each */
            case 2: unpack(from, 2, scale, bias, to); break;
            case 3: unpack(from, 3, scale, bias, to); break;
            case 4: unpack(from, 4, scale, bias, to); break;
            case 5: unpack(from, 5, scale, bias, to); break;
            case 6: unpack(from, 6, scale, bias, to); break;
            default: unpack(from, 8, scale, bias, to);
            }
        }
        return room;
    }
    const uint16_t *h = (const uint16_t *)w->data + i;
    long j = 0;
    for (; j + VL <= n; j += VL) AT(room + j) = widened_all(h + j, w->type);
    if (j < n) {
        uint16_t rest[VL] = {0};
        memcpy(rest, h + j, 2 * (n - j));
        vec last = widened_all(rest, w->type);
        memcpy(room + j, &last, 4 * (n - j));
    }
    return room;
}
