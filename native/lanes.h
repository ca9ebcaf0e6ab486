/* Eight float32 lanes: the only vector type of the float kernels.
 *
 * The kernels are written once in terms of it and compiled once per instruction set: AVX2 + FMA + F16C, NEON or plain
 * C. Each operation gives the same bits in all: a fused multiply-add is fmaf, max(a, b) is a > b ? a : b, and a sum
 * over the lanes is always ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). That makes the kernels' results equal bit for
 * bit.
 */
#ifndef GH_LANES_H
#define GH_LANES_H

#include "half.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { GH_LANES = 8 };

#define GH_INLINE static inline __attribute__((always_inline))

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "lanes_avx2.h"
#elif defined(GH_BUILD_NEON)
#include "lanes_neon.h"
#else
#include "lanes_portable.h"
#endif

GH_INLINE float lanes_sum(lanes a) {
    lanes four[4] = {a, a, a, a};
    float sums[4];
    lanes_sum4(four, sums);
    return sums[0];
}

/* The first `count` (< 8) of what stands at p, zeros behind. */
GH_INLINE lanes lanes_load_first(const float *p, size_t count) {
    float buffer[GH_LANES] = {0};
    memcpy(buffer, p, count * sizeof *p);
    return lanes_load(buffer);
}

GH_INLINE lanes lanes_load_first_half(const uint16_t *p, size_t count) {
    uint16_t buffer[GH_LANES] = {0};
    memcpy(buffer, p, count * sizeof *p);
    return lanes_load_half(buffer);
}

GH_INLINE void lanes_store_first(float *p, size_t count, lanes a) {
    float buffer[GH_LANES];
    lanes_store(buffer, a);
    memcpy(p, buffer, count * sizeof *p);
}

GH_INLINE void lanes_store_first_half(uint16_t *p, size_t count, lanes a) {
    uint16_t buffer[GH_LANES];
    lanes_store_half(buffer, a);
    memcpy(p, buffer, count * sizeof *p);
}

#endif
