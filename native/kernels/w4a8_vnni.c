/* The W4A8 tile for x86 processors with VNNI, compiled twice: for AVX-VNNI (256 bits) and for AVX-512 (512 bits).
 * w4a8_portable.c draws the layout and defines the result; this gives the same bits.
 *
 * A quad's codes, one to a byte, are 16 outputs x 4 input rows; a token's four activations are broadcast to all lanes:
 *
 *   codes         u8  o0k0 o0k1 o0k2 o0k3 | o1k0 ...       vpdpbusd      s32  o0 | o1 | ...
 *   activations   s8  a0   a1   a2   a3   | a0   ...      ─────────►          of four input rows, added up
 *
 * The instruction takes 4 or 5 cycles and up to two begin in each, so ten sums keep it busy. 6 tokens have 12: with 256
 * bits one for either half of the outputs, with 512 bits, where one vector holds all 16, one for every other quad.
 */
#include "w4a8_quads.h"

#include <immintrin.h>

#if defined(GH_BUILD_AVX512)
enum { VECTORS = 1, CHAINS = 2 };
#define VECTOR(name)                           _mm512_##name
#define ADD_PRODUCTS(sums, codes, activations) _mm512_dpbusd_epi32(sums, codes, activations)
typedef __m512i integers;
typedef __m512 floats;

GH_INLINE void load_bytes(const uint8_t *p, integers codes[VECTORS]) { codes[0] = _mm512_loadu_si512(p); }

GH_INLINE void load_nibbles(const uint8_t *p, integers codes[VECTORS]) {
    const __m512i shifts = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
    __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
    codes[0] = _mm512_and_si512(_mm512_srlv_epi64(twice, shifts), _mm512_set1_epi32(0x0f0f0f0f));
}

GH_INLINE integers load_zeros(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }

GH_INLINE floats load_halves(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
#else
enum { VECTORS = 2, CHAINS = 1 };
#define VECTOR(name)                           _mm256_##name
#define ADD_PRODUCTS(sums, codes, activations) _mm256_dpbusd_avx_epi32(sums, codes, activations)
typedef __m256i integers;
typedef __m256 floats;

GH_INLINE void load_bytes(const uint8_t *p, integers codes[VECTORS]) {
    codes[0] = _mm256_loadu_si256((const __m256i *)p);
    codes[1] = _mm256_loadu_si256((const __m256i *)(p + GH_QUAD_BYTES));
}

GH_INLINE void load_nibbles(const uint8_t *p, integers codes[VECTORS]) {
    const __m256i nibble = _mm256_set1_epi32(0x0f0f0f0f);
    __m256i pair = _mm256_loadu_si256((const __m256i *)p);
    codes[0] = _mm256_and_si256(pair, nibble);
    codes[1] = _mm256_and_si256(_mm256_srli_epi16(pair, 4), nibble);
}

GH_INLINE integers load_zeros(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }

GH_INLINE floats load_halves(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
#endif

enum { WIDTH = GH_PANEL / VECTORS };

/* Running sums of one token. */
typedef struct {
    integers of[CHAINS][VECTORS];
} token_sums;

/* Adds the products of one quad to a chain; returns what follows. */
GH_INLINE quad_run add_quad(token_sums *sums, size_t chain, quad_run run) {
    integers codes[VECTORS];
    if (run.is_unpacked) {
        load_bytes(run.codes, codes);
    } else {
        load_nibbles(run.codes, codes);
    }
    GH_EACH_TOKEN(t, run.num_tokens) {
        integers word = VECTOR(set1_epi32)(word_of(run, t));
#pragma GCC unroll 2
        for (size_t v = 0; v < VECTORS; v++) {
            sums[t].of[chain][v] = ADD_PRODUCTS(sums[t].of[chain][v], codes[v], word);
        }
    }
    return skip_quads(run, 1);
}

GH_INLINE quad_run sum_quads(token_sums *sums, quad_run run, size_t num_quads) {
    GH_EACH_TOKEN(t, run.num_tokens) {
#pragma GCC unroll 2
        for (size_t i = 0; i < CHAINS * VECTORS; i++) {
            sums[t].of[i / VECTORS][i % VECTORS] = VECTOR(set1_epi32)(0);
        }
    }
    if (num_quads % CHAINS != 0) {
        run = add_quad(sums, 0, run);
    }
    for (size_t rounds = num_quads / CHAINS; rounds > 0; rounds--) {
#pragma GCC unroll 2
        for (size_t chain = 0; chain < CHAINS; chain++) {
            run = add_quad(sums, chain, run);
        }
    }
    return run;
}

GH_INLINE integers total_of(const token_sums *sums, size_t v) {
    return CHAINS == 1 ? sums->of[0][v] : VECTOR(add_epi32)(sums->of[0][v], sums->of[CHAINS - 1][v]);
}

GH_INLINE floats load_scales(const gh_w4a8_tile *tile, size_t first) {
    return tile->has_half_scales ? load_halves((const uint16_t *)tile->scales + first)
                                 : VECTOR(loadu_ps)((const float *)tile->scales + first);
}

/* The end of a group: result[t] += activation_scale * (scale * total) + activation_offset * (scale * zero) */
GH_INLINE void finish_group(const gh_w4a8_tile *tile, size_t group, const token_sums *sums, size_t num_tokens,
                            float (*result)[GH_PANEL]) {
    const float *activation_scales = tile->activation_scales + group * num_tokens;
    const float *activation_offsets = tile->activation_offsets + group * num_tokens;
#pragma GCC unroll 2
    for (size_t v = 0; v < VECTORS; v++) {
        size_t first = group * GH_PANEL + v * WIDTH;
        floats scales = load_scales(tile, first);
        floats zeros = VECTOR(mul_ps)(scales, VECTOR(cvtepi32_ps)(load_zeros(tile->zeros + first)));
        GH_EACH_TOKEN(t, num_tokens) {
            float *target = result[t] + v * WIDTH;
            floats scaled = VECTOR(mul_ps)(scales, VECTOR(cvtepi32_ps)(total_of(&sums[t], v)));
            floats updated = VECTOR(fmadd_ps)(VECTOR(set1_ps)(activation_scales[t]), scaled, VECTOR(loadu_ps)(target));
            updated = VECTOR(fmadd_ps)(VECTOR(set1_ps)(activation_offsets[t]), zeros, updated);
            VECTOR(storeu_ps)(target, updated);
        }
    }
}

/* `is_unpacked` and `num_tokens` are constants wherever this is used, so that sums stay in registers. */
GH_INLINE void multiply_groups(const gh_w4a8_tile *tile, bool is_unpacked, size_t num_tokens,
                               float (*result)[GH_PANEL]) {
    quad_run run = {tile->codes, tile->activations, num_tokens, is_unpacked};
    for (size_t group = 0; group < tile->num_groups; group++) {
        token_sums sums[GH_TOKENS];
        run = sum_quads(sums, run, tile->num_quads);
        finish_group(tile, group, sums, num_tokens, result);
    }
}

#include "w4a8_dispatch.h"

void GH_KERNEL(w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]) {
    if (tile->is_unpacked) {
        multiply_tokens(tile, true, result);
    } else {
        multiply_tokens(tile, false, result);
    }
}
