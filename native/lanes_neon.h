/* lanes.h for AArch64: two 128-bit registers. */
#include <arm_neon.h>

typedef struct {
    float32x4_t low;
    float32x4_t high;
} lanes;

#define GH_BOTH(expression_low, expression_high)                                                                       \
    (lanes) { expression_low, expression_high }

GH_INLINE lanes lanes_set1(float value) { return GH_BOTH(vdupq_n_f32(value), vdupq_n_f32(value)); }
GH_INLINE lanes lanes_load(const float *p) { return GH_BOTH(vld1q_f32(p), vld1q_f32(p + 4)); }
GH_INLINE void lanes_store(float *p, lanes a) {
    vst1q_f32(p, a.low);
    vst1q_f32(p + 4, a.high);
}
GH_INLINE lanes lanes_load_half(const uint16_t *p) {
    float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(p));
    return GH_BOTH(vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves));
}
GH_INLINE void lanes_store_half(uint16_t *p, lanes a) {
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.low), a.high)));
}
GH_INLINE lanes lanes_add(lanes a, lanes b) { return GH_BOTH(vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)); }
GH_INLINE lanes lanes_sub(lanes a, lanes b) { return GH_BOTH(vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)); }
GH_INLINE lanes lanes_mul(lanes a, lanes b) { return GH_BOTH(vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)); }
GH_INLINE lanes lanes_div(lanes a, lanes b) { return GH_BOTH(vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)); }
GH_INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
    return GH_BOTH(vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high));
}

/* Not vmaxq: that returns NaN where either is, and +0 of two zeros. */
GH_INLINE float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

GH_INLINE lanes lanes_max(lanes a, lanes b) { return GH_BOTH(larger(a.low, b.low), larger(a.high, b.high)); }

/* where a < b: chosen, elsewhere: other */
GH_INLINE lanes lanes_where_less(lanes a, lanes b, lanes chosen, lanes other) {
    return GH_BOTH(vbslq_f32(vcltq_f32(a.low, b.low), chosen.low, other.low),
                   vbslq_f32(vcltq_f32(a.high, b.high), chosen.high, other.high));
}

GH_INLINE float32x4_t power_of_two(float32x4_t shifted) {
    int32x4_t exponent = vaddq_s32(vreinterpretq_s32_f32(shifted), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}

/* 2^n for n = the integer that `shifted` carries in its low mantissa bits; see exp.h */
GH_INLINE lanes lanes_power_of_two(lanes shifted) {
    return GH_BOTH(power_of_two(shifted.low), power_of_two(shifted.high));
}

/* The lane sums of four vectors. */
GH_INLINE void lanes_sum4(const lanes a[4], float sums[4]) {
    float32x4_t quarters[4]; /* 0 + 1 + 2 + 3 and 4 + 5 + 6 + 7 in the first two lanes */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        float32x4_t pairs = vpaddq_f32(a[i].low, a[i].high);
        quarters[i] = vpaddq_f32(pairs, pairs);
    }
    float32x4_t first = vpaddq_f32(quarters[0], quarters[1]); /* the sums of 0, 0, 1, 1 */
    float32x4_t second = vpaddq_f32(quarters[2], quarters[3]);
    vst1q_f32(sums, vuzp1q_f32(first, second));
}

/* max over the lanes: halves, then quarters, then the last two. */
GH_INLINE float lanes_largest(lanes a) {
    float32x4_t four = larger(a.low, a.high);
    float32x4_t two = larger(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(larger(two, vextq_f32(two, two, 1)), 0);
}

GH_INLINE void transpose4(float32x4_t a[4]) {
    float32x4_t even01 = vtrn1q_f32(a[0], a[1]);
    float32x4_t odd01 = vtrn2q_f32(a[0], a[1]);
    float32x4_t even23 = vtrn1q_f32(a[2], a[3]);
    float32x4_t odd23 = vtrn2q_f32(a[2], a[3]);
    a[0] = vcombine_f32(vget_low_f32(even01), vget_low_f32(even23));
    a[1] = vcombine_f32(vget_low_f32(odd01), vget_low_f32(odd23));
    a[2] = vcombine_f32(vget_high_f32(even01), vget_high_f32(even23));
    a[3] = vcombine_f32(vget_high_f32(odd01), vget_high_f32(odd23));
}

/* Rows become columns. */
GH_INLINE void lanes_transpose(lanes a[GH_LANES]) {
    float32x4_t blocks[4][4]; /* rows 0-3 low, rows 0-3 high, rows 4-7 low, rows 4-7 high */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        blocks[0][i] = a[i].low;
        blocks[1][i] = a[i].high;
        blocks[2][i] = a[i + 4].low;
        blocks[3][i] = a[i + 4].high;
    }
#pragma GCC unroll 4
    for (int block = 0; block < 4; block++) {
        transpose4(blocks[block]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = GH_BOTH(blocks[0][i], blocks[2][i]);
        a[i + 4] = GH_BOTH(blocks[1][i], blocks[3][i]);
    }
}

#undef GH_BOTH
