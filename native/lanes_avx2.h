/* lanes.h for AVX2 + FMA + F16C: one 256-bit register. */
#include <immintrin.h>

typedef __m256 lanes;

GH_INLINE lanes lanes_set1(float value) { return _mm256_set1_ps(value); }
GH_INLINE lanes lanes_load(const float *p) { return _mm256_loadu_ps(p); }
GH_INLINE void lanes_store(float *p, lanes a) { _mm256_storeu_ps(p, a); }
GH_INLINE lanes lanes_load_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
GH_INLINE void lanes_store_half(uint16_t *p, lanes a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
GH_INLINE lanes lanes_add(lanes a, lanes b) { return _mm256_add_ps(a, b); }
GH_INLINE lanes lanes_sub(lanes a, lanes b) { return _mm256_sub_ps(a, b); }
GH_INLINE lanes lanes_mul(lanes a, lanes b) { return _mm256_mul_ps(a, b); }
GH_INLINE lanes lanes_div(lanes a, lanes b) { return _mm256_div_ps(a, b); }
GH_INLINE lanes lanes_fma(lanes a, lanes b, lanes c) { return _mm256_fmadd_ps(a, b, c); }
GH_INLINE lanes lanes_max(lanes a, lanes b) { return _mm256_max_ps(a, b); }

/* where a < b: chosen, elsewhere: other */
GH_INLINE lanes lanes_where_less(lanes a, lanes b, lanes chosen, lanes other) {
    return _mm256_blendv_ps(other, chosen, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

/* 2^n for n = the integer that `shifted` carries in its low mantissa bits; see exp.h */
GH_INLINE lanes lanes_power_of_two(lanes shifted) {
    __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

/* The lane sums of four vectors. */
GH_INLINE void lanes_sum4(const lanes a[4], float sums[4]) {
    lanes pairs01 = _mm256_hadd_ps(a[0], a[1]);
    lanes pairs23 = _mm256_hadd_ps(a[2], a[3]);
    lanes quarters = _mm256_hadd_ps(pairs01, pairs23);
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(quarters), _mm256_extractf128_ps(quarters, 1)));
}

/* max over the lanes: halves, then quarters, then the last two. */
GH_INLINE float lanes_largest(lanes a) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* Rows become columns. */
GH_INLINE void lanes_transpose(lanes a[GH_LANES]) {
    lanes quads[GH_LANES];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        lanes low01 = _mm256_unpacklo_ps(a[i], a[i + 1]);
        lanes high01 = _mm256_unpackhi_ps(a[i], a[i + 1]);
        lanes low23 = _mm256_unpacklo_ps(a[i + 2], a[i + 3]);
        lanes high23 = _mm256_unpackhi_ps(a[i + 2], a[i + 3]);
        quads[i] = _mm256_shuffle_ps(low01, low23, 0x44);
        quads[i + 1] = _mm256_shuffle_ps(low01, low23, 0xee);
        quads[i + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
        quads[i + 3] = _mm256_shuffle_ps(high01, high23, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}
