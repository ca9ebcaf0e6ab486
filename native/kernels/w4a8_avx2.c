/* The W4A8 tile for AVX2. w4a8_portable.c draws the layout and defines the result; this gives the same bits.
 *
 * A quad's 32 bytes hold 16 outputs x 4 input rows in nibbles; a token's four activations are broadcast to all lanes:
 *
 *   low nibbles   u8  o0k0 o0k1 o0k2 o0k3 | o1k0 ...      maddubs        s16  o0(k0+k1) o0(k2+k3) | o1 ...
 *   activations   s8  a0   a1   a2   a3   | a0   ...     ─────────►           added up, modulo 2^16
 *
 *   then madd with ones: one s32 per output, lanes in the order of the outputs.
 *
 * 16 bits hold 8 quads whatever they are (8 * 2 * 15 * 127 = 30480 < 2^15), and whole groups of 128 inputs if only
 * their end results fit, which quantize.c checks for the activations and all possible codes. Nearly every group passes,
 * by far: activations that reach 127 average below 40, with either sign.
 *
 * What limits this is the number of instructions: two threads of a core share 6 per cycle. 32 make a quad of 6 tokens;
 * 6 x 2 sums, two vectors of codes, one broadcast and one product are all 16 registers. Compilers add copies and spills
 * to that, or unroll it out of the cache of decoded instructions, hence the assembly of the one loop that counts.
 */
#include "w4a8_quads.h"

enum { QUADS_IN_16_BITS = 8, QUADS_PER_ROUND = 4, HALVES = 2, HALF_BYTES = 32 };

static const __m256i NIBBLES = {0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f};

#define KEEP_ORDER() __asm__ volatile("" : : : "memory")

GH_INLINE __m256i load_bytes(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* Quad q's codes to ymm12 (outputs 0 .. 7) and ymm13 (8 .. 15). */
#define LOAD_BYTES(q)                                                                                                  \
    "vmovdqu 64*" #q "(%[codes]), %%ymm12\n\t"                                                                         \
    "vmovdqu 64*" #q "+32(%[codes]), %%ymm13\n\t"
#define LOAD_NIBBLES(q)                                                                                                \
    "vmovdqu 32*" #q "(%[codes]), %%ymm12\n\t"                                                                         \
    "vpsrlw $4, %%ymm12, %%ymm13\n\t"                                                                                  \
    "vpand %[nibbles], %%ymm12, %%ymm12\n\t"                                                                           \
    "vpand %[nibbles], %%ymm13, %%ymm13\n\t"

/* Token t of n: its sums become, or grow by, its products with quad q. */
#define BEGIN(t, q, n)                                                                                                 \
    "vpbroadcastd 4*(" #q "*" #n "+" #t ")(%[words]), %[high" #t "]\n\t"                                               \
    "vpmaddubsw %[high" #t "], %%ymm12, %[low" #t "]\n\t"                                                              \
    "vpmaddubsw %[high" #t "], %%ymm13, %[high" #t "]\n\t"
#define ADD(t, q, n)                                                                                                   \
    "vpbroadcastd 4*(" #q "*" #n "+" #t ")(%[words]), %%ymm14\n\t"                                                     \
    "vpmaddubsw %%ymm14, %%ymm12, %%ymm15\n\t"                                                                         \
    "vpmaddubsw %%ymm14, %%ymm13, %%ymm14\n\t"                                                                         \
    "vpaddw %%ymm15, %[low" #t "], %[low" #t "]\n\t"                                                                   \
    "vpaddw %%ymm14, %[high" #t "], %[high" #t "]\n\t"

#define EACH_1(step, q, n) step(0, q, n)
#define EACH_2(step, q, n) EACH_1(step, q, n) step(1, q, n)
#define EACH_3(step, q, n) EACH_2(step, q, n) step(2, q, n)
#define EACH_4(step, q, n) EACH_3(step, q, n) step(3, q, n)
#define EACH_5(step, q, n) EACH_4(step, q, n) step(4, q, n)
#define EACH_6(step, q, n) EACH_5(step, q, n) step(5, q, n)

#define SUM(t) [low##t] "=&x"(sums[t][0]), [high##t] "=&x"(sums[t][1])
#define SUMS_1 SUM(0)
#define SUMS_2 SUMS_1, SUM(1)
#define SUMS_3 SUMS_2, SUM(2)
#define SUMS_4 SUMS_3, SUM(3)
#define SUMS_5 SUMS_4, SUM(4)
#define SUMS_6 SUMS_5, SUM(5)

/* clang-format off */
/* sums[t][h] = the products of the next `num_quads` quads, a multiple of 4; the first enters the loop from outside. */
#define SUM_QUADS(n, load, bytes_per_quad)                                                                             \
    __asm__ volatile(load(0) EACH_##n(BEGIN, 0, n)                                                                     \
                     "jmp 2f\n\t"                                                                                      \
                     ".p2align 5\n"                                                                                    \
                     "1:\n\t" load(0) EACH_##n(ADD, 0, n)                                                              \
                     "2:\n\t" load(1) EACH_##n(ADD, 1, n)                                                              \
                     load(2) EACH_##n(ADD, 2, n)                                                                       \
                     load(3) EACH_##n(ADD, 3, n)                                                                       \
                     "add $4*" #bytes_per_quad ", %[codes]\n\t"                                                        \
                     "add $4*4*" #n ", %[words]\n\t"                                                                   \
                     "dec %[rounds]\n\t"                                                                               \
                     "jnz 1b"                                                                                          \
                     : SUMS_##n, [codes] "+&r"(run.codes), [words] "+&r"(run.activations), [rounds] "+&r"(rounds)      \
                     : [nibbles] "m"(NIBBLES)                                                                          \
                     : "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory")
/* clang-format on */

#define SUM_QUADS_OF(n)                                                                                                \
    case n:                                                                                                            \
        if (run.is_unpacked) {                                                                                         \
            SUM_QUADS(n, LOAD_BYTES, 64);                                                                              \
        } else {                                                                                                       \
            SUM_QUADS(n, LOAD_NIBBLES, 32);                                                                            \
        }                                                                                                              \
        break;

GH_INLINE void sum_quads(__m256i (*sums)[HALVES], quad_run run, size_t num_quads) {
    size_t rounds = num_quads / QUADS_PER_ROUND;
    switch (run.num_tokens) {
        SUM_QUADS_OF(1)
        SUM_QUADS_OF(2)
        SUM_QUADS_OF(3)
        SUM_QUADS_OF(4)
        SUM_QUADS_OF(5)
        SUM_QUADS_OF(6)
    default:
        __builtin_unreachable();
    }
}

/* What one group's sums are multiplied with. */
typedef struct {
    __m256 scales[HALVES];
    const uint8_t *zeros;            /* [16] */
    const float *activation_scales;  /* [num_tokens] */
    const float *activation_offsets; /* [num_tokens] */
} group_scales;

GH_INLINE __m256 scaled_zeros(const group_scales *group, size_t half) {
    __m256i zeros = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(group->zeros + half * GH_LANES)));
    return _mm256_mul_ps(group->scales[half], _mm256_cvtepi32_ps(zeros));
}

/* target [8] += activation_scale * (scale * total) + activation_offset * (scale * zero) */
GH_INLINE void apply_scales(const group_scales *group, size_t half, __m256i total, __m256 zeros, size_t token,
                            float *target) {
    __m256 scaled = _mm256_mul_ps(group->scales[half], _mm256_cvtepi32_ps(total));
    __m256 updated =
        _mm256_fmadd_ps(_mm256_broadcast_ss(group->activation_scales + token), scaled, _mm256_loadu_ps(target));
    updated = _mm256_fmadd_ps(_mm256_broadcast_ss(group->activation_offsets + token), zeros, updated);
    _mm256_storeu_ps(target, updated);
}

GH_INLINE __m256 load_scales(const gh_w4a8_tile *tile, size_t first) {
    return tile->has_half_scales ? lanes_load_half((const uint16_t *)tile->scales + first)
                                 : lanes_load((const float *)tile->scales + first);
}

GH_INLINE group_scales scales_of(const gh_w4a8_tile *tile, size_t group) {
    return (group_scales){
        .scales = {load_scales(tile, group * GH_PANEL), load_scales(tile, group * GH_PANEL + GH_LANES)},
        .zeros = tile->zeros + group * GH_PANEL,
        .activation_scales = tile->activation_scales + group * tile->num_tokens,
        .activation_offsets = tile->activation_offsets + group * tile->num_tokens,
    };
}

/* Pairs of 16-bit sums -> 32-bit sums. */
GH_INLINE __m256i widen(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

/* The end of a group: result[t] += its scaled sums, [num_tokens, 2] of 32 bits. */
GH_INLINE void finish_group(const group_scales *group, __m256i (*sums)[HALVES], size_t num_tokens,
                            float (*result)[GH_PANEL]) {
    const __m256 zeros[HALVES] = {scaled_zeros(group, 0), scaled_zeros(group, 1)};
#pragma GCC unroll 6
    for (size_t t = 0; t < num_tokens; t++) {
#pragma GCC unroll 2
        for (size_t half = 0; half < HALVES; half++) {
            apply_scales(group, half, sums[t][half], zeros[half], t, result[t] + half * GH_LANES);
        }
        KEEP_ORDER();
    }
}

/* The whole group in 16 bits. */
GH_INLINE void multiply_small(quad_run run, size_t num_quads, const group_scales *scales, float (*result)[GH_PANEL]) {
    __m256i sums[GH_TOKENS][HALVES];
    sum_quads(sums, run, num_quads);
#pragma GCC unroll 6
    for (size_t t = 0; t < run.num_tokens; t++) {
        sums[t][0] = widen(sums[t][0]);
        sums[t][1] = widen(sums[t][1]);
    }
    finish_group(scales, sums, run.num_tokens, result);
}

/* 8 quads at a time, which fit whatever they are; the sums of the group grow in memory. */
GH_INLINE void multiply_large(quad_run run, size_t num_quads, const group_scales *scales, float (*result)[GH_PANEL]) {
    __m256i memory[GH_TOKENS][HALVES];
    __m256i(*totals)[HALVES] = memory;
    __asm__ volatile("" : "+r"(totals)); /* the compiler forgets what it points to, and keeps no register for it */
    for (size_t t = 0; t < run.num_tokens; t++) {
        totals[t][0] = totals[t][1] = _mm256_setzero_si256();
    }
    for (size_t begin = 0; begin < num_quads; begin += QUADS_IN_16_BITS) {
        __m256i sums[GH_TOKENS][HALVES];
        size_t left = num_quads - begin;
        sum_quads(sums, skip_quads(run, begin), left < QUADS_IN_16_BITS ? left : QUADS_IN_16_BITS);
#pragma GCC unroll 6
        for (size_t t = 0; t < run.num_tokens; t++) {
            totals[t][0] = _mm256_add_epi32(totals[t][0], widen(sums[t][0]));
            totals[t][1] = _mm256_add_epi32(totals[t][1], widen(sums[t][1]));
        }
    }
    finish_group(scales, totals, run.num_tokens, result);
}

/* sums[h] += the products of one quad with token t. */
GH_INLINE void add_quad(__m256i *sums, quad_run run, size_t t) {
    __m256i low = load_bytes(run.codes);
    __m256i high = run.is_unpacked ? load_bytes(run.codes + HALF_BYTES) : _mm256_srli_epi16(low, 4);
    __m256i activations = _mm256_set1_epi32(word_of(run, t));
    sums[0] = _mm256_add_epi32(sums[0], widen(_mm256_maddubs_epi16(_mm256_and_si256(low, NIBBLES), activations)));
    sums[1] = _mm256_add_epi32(sums[1], widen(_mm256_maddubs_epi16(_mm256_and_si256(high, NIBBLES), activations)));
}

/* Groups of any other size, one token and one quad at a time. */
static void multiply_odd(const gh_w4a8_tile *tile, bool is_unpacked, float (*result)[GH_PANEL]) {
    quad_run run = {tile->codes, tile->activations, tile->num_tokens, is_unpacked};
    for (size_t group = 0; group < tile->num_groups; group++, run = skip_quads(run, tile->num_quads)) {
        group_scales scales = scales_of(tile, group);
        for (size_t t = 0; t < tile->num_tokens; t++) {
            __m256i sums[HALVES] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (size_t quad = 0; quad < tile->num_quads; quad++) {
                add_quad(sums, skip_quads(run, quad), t);
            }
            for (size_t half = 0; half < HALVES; half++) {
                apply_scales(&scales, half, sums[half], scaled_zeros(&scales, half), t, result[t] + half * GH_LANES);
            }
        }
    }
}

/* `is_unpacked` and `num_tokens` are constants wherever this is used. */
GH_INLINE void multiply_groups(const gh_w4a8_tile *tile, bool is_unpacked, size_t num_tokens,
                               float (*result)[GH_PANEL]) {
    quad_run run = {tile->codes, tile->activations, num_tokens, is_unpacked};
    for (size_t group = 0; group < tile->num_groups; group++) {
        group_scales scales = scales_of(tile, group);
        if (tile->are_small[group]) {
            multiply_small(run, tile->num_quads, &scales, result);
        } else {
            multiply_large(run, tile->num_quads, &scales, result);
        }
        run = skip_quads(run, tile->num_quads);
    }
}

#include "w4a8_dispatch.h"

GH_INLINE void multiply(const gh_w4a8_tile *tile, bool is_unpacked, float (*result)[GH_PANEL]) {
    if (tile->num_quads % QUADS_PER_ROUND != 0) {
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
