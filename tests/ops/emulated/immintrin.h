/* The intrinsics that native/kernels/w4a8_vnni.c uses, in plain C: so its tiles run on any processor.
 *
 * Knows: what Intel's Intrinsics Guide says of each, lane by lane.
 * Never knows: what they are used for.
 */
#ifndef EMULATED_IMMINTRIN_H
#define EMULATED_IMMINTRIN_H

#include "half.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static inline __attribute__((unused))

typedef struct {
    uint8_t u8[16];
} __m128i;

EMULATED __m128i _mm_loadu_si128(const __m128i *p) { return *p; }
EMULATED __m128i _mm_loadl_epi64(const __m128i *p) {
    __m128i r = {{0}};
    memcpy(r.u8, p, 8);
    return r;
}

/* Both widths have the same operations. */
#define EACH(count, assignment)                                                                                        \
    for (int i = 0; i < (count); i++) {                                                                                \
        assignment;                                                                                                    \
    }                                                                                                                  \
    return r
#define DEFINE_WIDTH(bits)                                                                                             \
    typedef union {                                                                                                    \
        uint8_t u8[(bits) / 8];                                                                                        \
        int8_t s8[(bits) / 8];                                                                                         \
        uint16_t u16[(bits) / 16];                                                                                     \
        int32_t s32[(bits) / 32];                                                                                      \
        uint64_t u64[(bits) / 64];                                                                                     \
    } __m##bits##i;                                                                                                    \
    typedef struct {                                                                                                   \
        float lane[(bits) / 32];                                                                                       \
    } __m##bits;                                                                                                       \
    EMULATED __m##bits##i _mm##bits##_loadu_si##bits(const void *p) {                                                  \
        __m##bits##i r;                                                                                                \
        memcpy(&r, p, sizeof r);                                                                                       \
        return r;                                                                                                      \
    }                                                                                                                  \
    EMULATED __m##bits##i _mm##bits##_set1_epi32(int32_t value) {                                                      \
        __m##bits##i r;                                                                                                \
        EACH((bits) / 32, r.s32[i] = value);                                                                           \
    }                                                                                                                  \
    EMULATED __m##bits##i _mm##bits##_add_epi32(__m##bits##i a, __m##bits##i b) {                                      \
        __m##bits##i r;                                                                                                \
        EACH((bits) / 32, r.s32[i] = a.s32[i] + b.s32[i]);                                                             \
    }                                                                                                                  \
    EMULATED __m##bits##i _mm##bits##_and_si##bits(__m##bits##i a, __m##bits##i b) {                                   \
        __m##bits##i r;                                                                                                \
        EACH((bits) / 64, r.u64[i] = a.u64[i] & b.u64[i]);                                                             \
    }                                                                                                                  \
    EMULATED __m##bits##i _mm##bits##_cvtepu8_epi32(__m128i a) {                                                       \
        __m##bits##i r;                                                                                                \
        EACH((bits) / 32, r.s32[i] = a.u8[i]);                                                                         \
    }                                                                                                                  \
    /* the sum of an s32 and four products of u8 x s8; it wraps and never saturates */                                 \
    EMULATED __m##bits##i emulated_dpbusd_##bits(__m##bits##i sum, __m##bits##i a, __m##bits##i b) {                   \
        __m##bits##i r = sum;                                                                                          \
        EACH((bits) / 8, r.s32[i / 4] += a.u8[i] * b.s8[i]);                                                           \
    }                                                                                                                  \
    EMULATED __m##bits _mm##bits##_cvtepi32_ps(__m##bits##i a) {                                                       \
        __m##bits r;                                                                                                   \
        EACH((bits) / 32, r.lane[i] = (float)a.s32[i]);                                                                \
    }                                                                                                                  \
    EMULATED __m##bits _mm##bits##_set1_ps(float value) {                                                              \
        __m##bits r;                                                                                                   \
        EACH((bits) / 32, r.lane[i] = value);                                                                          \
    }                                                                                                                  \
    EMULATED __m##bits _mm##bits##_loadu_ps(const float *p) {                                                          \
        __m##bits r;                                                                                                   \
        memcpy(&r, p, sizeof r);                                                                                       \
        return r;                                                                                                      \
    }                                                                                                                  \
    EMULATED void _mm##bits##_storeu_ps(float *p, __m##bits a) { memcpy(p, &a, sizeof a); }                            \
    EMULATED __m##bits _mm##bits##_mul_ps(__m##bits a, __m##bits b) {                                                  \
        __m##bits r;                                                                                                   \
        EACH((bits) / 32, r.lane[i] = a.lane[i] * b.lane[i]);                                                          \
    }                                                                                                                  \
    EMULATED __m##bits _mm##bits##_fmadd_ps(__m##bits a, __m##bits b, __m##bits c) {                                   \
        __m##bits r;                                                                                                   \
        EACH((bits) / 32, r.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]));                                          \
    }

DEFINE_WIDTH(256)
DEFINE_WIDTH(512)

#define _mm256_dpbusd_avx_epi32 emulated_dpbusd_256
#define _mm512_dpbusd_epi32     emulated_dpbusd_512

EMULATED __m256 _mm256_cvtph_ps(__m128i a) {
    uint16_t halves[8];
    memcpy(halves, &a, sizeof a);
    __m256 r;
    EACH(8, r.lane[i] = gh_half_to_float(halves[i]));
}
EMULATED __m512 _mm512_cvtph_ps(__m256i a) {
    __m512 r;
    EACH(16, r.lane[i] = gh_half_to_float(a.u16[i]));
}
EMULATED __m256i _mm256_srli_epi16(__m256i a, int count) {
    __m256i r;
    EACH(16, r.u16[i] = (uint16_t)(a.u16[i] >> count));
}
EMULATED __m512i _mm512_set_epi64(int64_t h, int64_t g, int64_t f, int64_t e, int64_t d, int64_t c, int64_t b,
                                  int64_t a) {
    const int64_t values[8] = {a, b, c, d, e, f, g, h};
    return _mm512_loadu_si512(values);
}
EMULATED __m512i _mm512_broadcast_i64x4(__m256i a) {
    __m512i r;
    EACH(8, r.u64[i] = a.u64[i % 4]);
}
EMULATED __m512i _mm512_srlv_epi64(__m512i a, __m512i counts) {
    __m512i r;
    EACH(8, r.u64[i] = counts.u64[i] < 64 ? a.u64[i] >> counts.u64[i] : 0);
}

#undef EACH
#undef DEFINE_WIDTH
#endif
