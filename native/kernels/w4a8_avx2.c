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
 * compiler will not find that by itself (it loads ahead and spills, for half the speed), hence the macros.
 * The processor's vector ports are what limits it: unpacking nibbles costs 3 operations for the 24 of a quad.
 */
#include "../kernels.h"
#include "../lanes.h"

enum { QUADS_IN_16_BITS = 8, HALVES = 2, HALF_BYTES = 32 };

/* From here on, both values are in registers, and what follows in the source is not moved ahead. */
#define HOLD_IN_REGISTERS(a, b) __asm__ volatile("" : "+x"(a), "+x"(b) : : "memory")

#define KEEP_ORDER() __asm__ volatile("" : : : "memory")

/* The compiler forgets what the pointer points to, so that it reads memory instead of keeping a register. */
#define FORGET(pointer) __asm__ volatile("" : "+r"(pointer) : : "memory")

static const __m256i NIBBLES = {0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f};

/* A run of quads, and the form of its codes: a constant wherever it is used. */
typedef struct {
    const uint8_t *codes;
    const int8_t *activations;
    size_t num_tokens;
    bool is_unpacked;
} quad_run;

GH_INLINE quad_run skip_quads(quad_run run, size_t count) {
    run.codes += count * (run.is_unpacked ? HALVES * HALF_BYTES : HALF_BYTES);
    run.activations += count * run.num_tokens * GH_QUAD;
    return run;
}

GH_INLINE __m256i load_bytes(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

GH_INLINE __m256i broadcast_word(const int8_t *p) {
    int32_t word;
    memcpy(&word, p, sizeof word);
    return _mm256_set1_epi32(word);
}

/* partial[t][h] += the products of one quad, in 16 bits. */
GH_INLINE void add_quad(__m256i (*partial)[HALVES], quad_run run, const __m256i *nibbles) {
    __m256i low = load_bytes(run.codes);
    __m256i high;
    if (run.is_unpacked) {
        high = load_bytes(run.codes + HALF_BYTES);
    } else {
        high = _mm256_and_si256(_mm256_srli_epi16(low, 4), *nibbles);
        low = _mm256_and_si256(low, *nibbles);
    }
#pragma GCC unroll 6
    for (size_t t = 0; t < run.num_tokens; t++) {
        __m256i word = broadcast_word(run.activations + t * GH_QUAD);
        partial[t][0] = _mm256_add_epi16(partial[t][0], _mm256_maddubs_epi16(low, word));
        partial[t][1] = _mm256_add_epi16(partial[t][1], _mm256_maddubs_epi16(high, word));
        HOLD_IN_REGISTERS(partial[t][0], partial[t][1]);
    }
}

/* Where a run stands in its group: the first has no sums to add to, the last turns them into the result at once. */
enum { IS_FIRST = 1, IS_LAST = 2 };

/* What one group's sums are multiplied with. */
typedef struct {
    const float *scales;             /* [16] */
    const uint8_t *zeros;            /* [16] */
    const float *activation_scales;  /* [num_tokens] */
    const float *activation_offsets; /* [num_tokens] */
} group_scales;

/* sums[t][h] (+)= partial[t][h], widened. */
GH_INLINE void keep_sums(__m256i (*sums)[HALVES], int place, __m256i (*partial)[HALVES], size_t num_tokens) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 6
    for (size_t t = 0; t < num_tokens; t++) {
#pragma GCC unroll 2
        for (size_t half = 0; half < HALVES; half++) {
            __m256i wide = _mm256_madd_epi16(partial[t][half], ones);
            sums[t][half] = place & IS_FIRST ? wide : _mm256_add_epi32(sums[t][half], wide);
        }
    }
}

GH_INLINE __m256 scaled_zeros(const group_scales *group, size_t half) {
    __m256i zeros = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(group->zeros + half * GH_LANES)));
    return _mm256_mul_ps(_mm256_loadu_ps(group->scales + half * GH_LANES), _mm256_cvtepi32_ps(zeros));
}

/* target [8] += activation_scale * (scale * total) + activation_offset * (scale * zero) */
GH_INLINE void apply_scales(const group_scales *group, size_t half, __m256i total, __m256 zeros, size_t token,
                            float *target) {
    __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(group->scales + half * GH_LANES), _mm256_cvtepi32_ps(total));
    __m256 updated =
        _mm256_fmadd_ps(_mm256_broadcast_ss(group->activation_scales + token), scaled, _mm256_loadu_ps(target));
    updated = _mm256_fmadd_ps(_mm256_broadcast_ss(group->activation_offsets + token), zeros, updated);
    _mm256_storeu_ps(target, updated);
}

/* The end of a group: result[t] += its scaled sums. */
GH_INLINE void finish_group(const group_scales *group, __m256i (*sums)[HALVES], int place, __m256i (*partial)[HALVES],
                            size_t num_tokens, float (*result)[GH_PANEL]) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256 zeros[HALVES] = {scaled_zeros(group, 0), scaled_zeros(group, 1)};
#pragma GCC unroll 6
    for (size_t t = 0; t < num_tokens; t++) {
#pragma GCC unroll 2
        for (size_t half = 0; half < HALVES; half++) {
            __m256i total = _mm256_madd_epi16(partial[t][half], ones);
            total = place & IS_FIRST ? total : _mm256_add_epi32(total, sums[t][half]);
            apply_scales(group, half, total, zeros[half], t, result[t] + half * GH_LANES);
        }
        KEEP_ORDER();
    }
}

/* The products of up to 8 quads, added up in 16 bits, then widened. */
GH_INLINE void add_quads(__m256i (*sums)[HALVES], int place, quad_run run, size_t num_quads, const group_scales *group,
                         float (*result)[GH_PANEL]) {
    const __m256i *nibbles = &NIBBLES;
    FORGET(nibbles);
    __m256i partial[GH_TOKENS][HALVES];
#pragma GCC unroll 6
    for (size_t t = 0; t < run.num_tokens; t++) {
        partial[t][0] = _mm256_setzero_si256();
        partial[t][1] = _mm256_setzero_si256();
    }
#pragma GCC unroll 8
    for (size_t quad = 0; quad < num_quads; quad++) {
        add_quad(partial, skip_quads(run, quad), nibbles);
    }
    FORGET(sums);
    if (place & IS_LAST) {
        finish_group(group, sums, place, partial, run.num_tokens, result);
    } else {
        keep_sums(sums, place, partial, run.num_tokens);
    }
}

GH_INLINE group_scales scales_of(const gh_w4a8_tile *tile, size_t group) {
    return (group_scales){
        .scales = tile->scales + group * GH_PANEL,
        .zeros = tile->zeros + group * GH_PANEL,
        .activation_scales = tile->activation_scales + group * tile->num_tokens,
        .activation_offsets = tile->activation_offsets + group * tile->num_tokens,
    };
}

/* Groups of two or more whole runs of 8 quads: sizes 64, 96, 128. */
GH_INLINE void multiply_long(const gh_w4a8_tile *tile, bool is_unpacked, size_t num_tokens, float (*result)[GH_PANEL]) {
    quad_run run = {tile->codes, tile->activations, num_tokens, is_unpacked};
    for (size_t group = 0; group < tile->num_groups; group++) {
        __m256i sums[GH_TOKENS][HALVES];
        group_scales scales = scales_of(tile, group);
        add_quads(sums, IS_FIRST, run, QUADS_IN_16_BITS, &scales, result);
        run = skip_quads(run, QUADS_IN_16_BITS);
        for (size_t quad = 2 * QUADS_IN_16_BITS; quad < tile->num_quads; quad += QUADS_IN_16_BITS) {
            add_quads(sums, 0, run, QUADS_IN_16_BITS, &scales, result);
            run = skip_quads(run, QUADS_IN_16_BITS);
        }
        add_quads(sums, IS_LAST, run, QUADS_IN_16_BITS, &scales, result);
        run = skip_quads(run, QUADS_IN_16_BITS);
    }
}

/* Groups of a single run: size 32. */
GH_INLINE void multiply_short(const gh_w4a8_tile *tile, bool is_unpacked, size_t num_tokens,
                              float (*result)[GH_PANEL]) {
    quad_run run = {tile->codes, tile->activations, num_tokens, is_unpacked};
    for (size_t group = 0; group < tile->num_groups; group++) {
        group_scales scales = scales_of(tile, group);
        add_quads(NULL, IS_FIRST | IS_LAST, run, QUADS_IN_16_BITS, &scales, result);
        run = skip_quads(run, QUADS_IN_16_BITS);
    }
}

/* Any other group size, one token and one quad at a time. */
static void multiply_odd(const gh_w4a8_tile *tile, bool is_unpacked, float (*result)[GH_PANEL]) {
    quad_run run = {tile->codes, tile->activations, tile->num_tokens, is_unpacked};
    for (size_t group = 0; group < tile->num_groups; group++, run = skip_quads(run, tile->num_quads)) {
        group_scales scales = scales_of(tile, group);
        for (size_t t = 0; t < tile->num_tokens; t++) {
            __m256i sums[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (size_t quad = 0; quad < tile->num_quads; quad++) {
                quad_run here = skip_quads(run, quad);
                __m256i partial[1][HALVES] = {{_mm256_setzero_si256(), _mm256_setzero_si256()}};
                here.activations += t * GH_QUAD;
                here.num_tokens = 1;
                add_quad(partial, here, &NIBBLES);
                for (size_t half = 0; half < HALVES; half++) {
                    sums[half] =
                        _mm256_add_epi32(sums[half], _mm256_madd_epi16(partial[0][half], _mm256_set1_epi16(1)));
                }
            }
            for (size_t half = 0; half < HALVES; half++) {
                apply_scales(&scales, half, sums[half], scaled_zeros(&scales, half), t, result[t] + half * GH_LANES);
            }
        }
    }
}

/* `is_unpacked` and `num_tokens` are constants wherever this is used, so that sums stay in registers. */
GH_INLINE void multiply_groups(const gh_w4a8_tile *tile, bool is_unpacked, size_t num_tokens,
                               float (*result)[GH_PANEL]) {
    if (tile->num_quads == QUADS_IN_16_BITS) {
        multiply_short(tile, is_unpacked, num_tokens, result);
    } else {
        multiply_long(tile, is_unpacked, num_tokens, result);
    }
}

#include "w4a8_dispatch.h"

GH_INLINE void multiply(const gh_w4a8_tile *tile, bool is_unpacked, float (*result)[GH_PANEL]) {
    if (tile->num_quads % QUADS_IN_16_BITS != 0) {
        multiply_odd(tile, is_unpacked, result);
        return;
    }
    multiply_tokens(tile, is_unpacked, result);
}

void GH_KERNEL(w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]) {
    if (tile->is_unpacked) {
        multiply(tile, true, result);
    } else {
        multiply(tile, false, result);
    }
}

void GH_KERNEL(unpack)(const uint8_t *codes, size_t num_quads, uint8_t *bytes) {
    for (size_t quad = 0; quad < num_quads; quad++) {
        __m256i pair = load_bytes(codes + quad * HALF_BYTES);
        __m256i *target = (__m256i *)(bytes + quad * HALVES * HALF_BYTES);
        _mm256_storeu_si256(target, _mm256_and_si256(pair, NIBBLES));
        _mm256_storeu_si256(target + 1, _mm256_and_si256(_mm256_srli_epi16(pair, 4), NIBBLES));
    }
}
