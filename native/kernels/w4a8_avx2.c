/* The W4A8 tile for AVX2. w4a8_portable.c draws the layout and defines the result; this gives the same bits.
 *
 * A quad's 32 bytes hold 16 outputs x 4 input rows in nibbles; a token's four activations are broadcast to all lanes:
 *
 *   low nibbles   u8  o0k0 o0k1 o0k2 o0k3 | o1k0 ...      maddubs        s16  o0(k0+k1) o0(k2+k3) | o1 ...
 *   activations   s8  a0   a1   a2   a3   | a0   ...     ─────────►           added up over 8 quads at most:
 *                                                                         8 * 2 * 15 * 127 = 30480 < 2^15
 *   then madd with ones: one s32 per output, lanes in the order of the outputs.
 *
 * 6 tokens x 2 vectors of 16-bit sums, two vectors of codes, one broadcast and one product are all 16 registers. The
 * compiler will not find that by itself (it loads ahead and spills, for half the speed), hence the two macros.
 */
#include "../kernels.h"

#include <immintrin.h>
#include <string.h>

enum { QUADS_IN_16_BITS = 8, HALVES = 2, BYTES_PER_QUAD = 32 };

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* From here on, both values are in registers, and what follows in the source is not moved ahead. */
#define HOLD_IN_REGISTERS(a, b) __asm__ volatile("" : "+x"(a), "+x"(b) : : "memory")

/* The compiler forgets what the pointer points to, so that it reads memory instead of keeping a register. */
#define FORGET(pointer) __asm__ volatile("" : "+r"(pointer) : : "memory")

static const __m256i NIBBLES = {0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f};

ALWAYS_INLINE __m256i broadcast_word(const int8_t *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm256_set1_epi32(word);
}

/* partial[t][h] += the products of one quad, in 16 bits. */
ALWAYS_INLINE void add_quad(__m256i (*partial)[HALVES], const uint8_t *codes, const int8_t *activations,
                            size_t num_tokens, const __m256i *nibbles) {
    __m256i pair = _mm256_loadu_si256((const __m256i *)codes);
    __m256i low = _mm256_and_si256(pair, *nibbles);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(pair, 4), *nibbles);
#pragma GCC unroll 6
    for (size_t t = 0; t < num_tokens; t++) {
        __m256i word = broadcast_word(activations + t * GH_QUAD);
        partial[t][0] = _mm256_add_epi16(partial[t][0], _mm256_maddubs_epi16(low, word));
        partial[t][1] = _mm256_add_epi16(partial[t][1], _mm256_maddubs_epi16(high, word));
        HOLD_IN_REGISTERS(partial[t][0], partial[t][1]);
    }
}

/* sums[t][h] (+)= the products of up to 8 quads, for 8 outputs per half. The group's first call does not add. */
ALWAYS_INLINE void add_quads(__m256i (*sums)[HALVES], bool is_first, const uint8_t *codes, const int8_t *activations,
                             size_t num_quads, size_t num_tokens) {
    const __m256i *nibbles = &NIBBLES;
    FORGET(nibbles);
    __m256i partial[GH_TOKENS][HALVES];
#pragma GCC unroll 6
    for (size_t t = 0; t < num_tokens; t++) {
        partial[t][0] = _mm256_setzero_si256();
        partial[t][1] = _mm256_setzero_si256();
    }
#pragma GCC unroll 8
    for (size_t quad = 0; quad < num_quads; quad++) {
        add_quad(partial, codes + quad * BYTES_PER_QUAD, activations + quad * num_tokens * GH_QUAD, num_tokens,
                 nibbles);
    }
    const __m256i ones = _mm256_set1_epi16(1);
    FORGET(sums);
#pragma GCC unroll 6
    for (size_t t = 0; t < num_tokens; t++) {
#pragma GCC unroll 2
        for (size_t half = 0; half < HALVES; half++) {
            __m256i wide = _mm256_madd_epi16(partial[t][half], ones);
            sums[t][half] = is_first ? wide : _mm256_add_epi32(sums[t][half], wide);
        }
    }
}

/* sums[t][h] = the products of a whole group. */
ALWAYS_INLINE void sum_group(__m256i (*sums)[HALVES], const uint8_t *codes, const int8_t *activations, size_t num_quads,
                             size_t num_tokens) {
    size_t quad = 0;
    for (; quad + QUADS_IN_16_BITS <= num_quads; quad += QUADS_IN_16_BITS) {
        const uint8_t *next_codes = codes + quad * BYTES_PER_QUAD;
        const int8_t *next_activations = activations + quad * num_tokens * GH_QUAD;
        if (quad == 0) {
            add_quads(sums, true, next_codes, next_activations, QUADS_IN_16_BITS, num_tokens);
        } else {
            add_quads(sums, false, next_codes, next_activations, QUADS_IN_16_BITS, num_tokens);
        }
    }
    for (; quad < num_quads; quad++) {
        const int8_t *next_activations = activations + quad * num_tokens * GH_QUAD;
        if (quad == 0) {
            add_quads(sums, true, codes, next_activations, 1, num_tokens);
        } else {
            add_quads(sums, false, codes + quad * BYTES_PER_QUAD, next_activations, 1, num_tokens);
        }
    }
}

/* result[t] += (activation_scale * scale) * (sums - zero * activation_sum) for one group. */
ALWAYS_INLINE void apply_scales(const gh_w4a8_tile *tile, size_t group, __m256i (*sums)[HALVES], size_t num_tokens,
                                float (*result)[GH_PANEL]) {
#pragma GCC unroll 2
    for (size_t half = 0; half < HALVES; half++) {
        size_t offset = group * GH_PANEL + half * GH_PANEL / 2;
        __m256i zeros = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(tile->zeros + offset)));
        __m256 scales = _mm256_loadu_ps(tile->scales + offset);
#pragma GCC unroll 6
        for (size_t t = 0; t < num_tokens; t++) {
            size_t index = group * num_tokens + t;
            /* Zeros (<= 15) and sums (<= 127 * 128) fit 16 bits, so madd is an exact 32-bit product of the low halves.
             */
            __m256i correction = _mm256_madd_epi16(zeros, _mm256_set1_epi32(tile->activation_sums[index]));
            __m256 total = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[t][half], correction));
            __m256 scale = _mm256_mul_ps(_mm256_set1_ps(tile->activation_scales[index]), scales);
            float *target = result[t] + half * GH_PANEL / 2;
            _mm256_storeu_ps(target, _mm256_add_ps(_mm256_loadu_ps(target), _mm256_mul_ps(scale, total)));
        }
    }
}

ALWAYS_INLINE void multiply(const gh_w4a8_tile *tile, size_t num_tokens, float (*result)[GH_PANEL]) {
    for (size_t group = 0; group < tile->num_groups; group++) {
        size_t first_quad = group * tile->num_quads;
        __m256i sums[GH_TOKENS][HALVES];
        sum_group(sums, tile->codes + first_quad * BYTES_PER_QUAD,
                  tile->activations + first_quad * num_tokens * GH_QUAD, tile->num_quads, num_tokens);
        apply_scales(tile, group, sums, num_tokens, result);
    }
}

/* The number of tokens is a constant in each branch, so that sums stay in registers. */
void GH_KERNEL(w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]) {
    memset(result, 0, tile->num_tokens * sizeof *result);
    switch (tile->num_tokens) {
    case 1:
        multiply(tile, 1, result);
        break;
    case 2:
        multiply(tile, 2, result);
        break;
    case 3:
        multiply(tile, 3, result);
        break;
    case 4:
        multiply(tile, 4, result);
        break;
    case 5:
        multiply(tile, 5, result);
        break;
    case GH_TOKENS:
        multiply(tile, GH_TOKENS, result);
        break;
    default:
        __builtin_unreachable();
    }
}
