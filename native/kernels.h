/* The inner kernels, one table per instruction set: what kernels/ implements and the drivers beside this file call.
 *
 * Knows: small tiles that fit a first-level cache.
 * Never knows: threads, batches, paged caches.
 *
 * Every file of kernels/ is compiled once per instruction set; GH_KERNEL(name) keeps the copies apart. All copies give
 * the same bits. VNNI adds an instruction for the int4 tile alone: the tables of AVX-VNNI and AVX-512 have a tile of
 * their own and share the rest with AVX2, as GH_SHARED(name) says.
 */
#ifndef GH_KERNELS_H
#define GH_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(GH_BUILD_AVX2)
#define GH_KERNEL(name) gh_##name##_avx2
#elif defined(GH_BUILD_AVXVNNI)
#define GH_KERNEL(name) gh_##name##_avxvnni
#define GH_SHARED(name) gh_##name##_avx2
#elif defined(GH_BUILD_AVX512)
#define GH_KERNEL(name) gh_##name##_avx512
#define GH_SHARED(name) gh_##name##_avx2
#elif defined(GH_BUILD_NEON)
#define GH_KERNEL(name) gh_##name##_neon
#else
#define GH_KERNEL(name) gh_##name##_portable
#endif
#if !defined(GH_SHARED)
#define GH_SHARED(name) GH_KERNEL(name)
#endif

enum {
    GH_PANEL = 16,      /* outputs of an int4 panel */
    GH_QUAD = 4,        /* input rows that one 32-bit word of activations holds */
    GH_QUAD_BYTES = 32, /* a panel's codes of one quad, two to a byte */
    GH_TOKENS = 6,      /* tokens of an int4 tile */
    GH_MAX_GROUP = 128, /* input rows that share an activation scale, at most */
    GH_KEY_TILE = 32,   /* keys of an attention tile; tiles begin at its multiples */
    GH_DOT_ROWS = 3     /* rows of a dense tile */
};

/* A loop over a constant number of tokens. Both gcc and clang unroll this form; a plain bound leaves sums in memory
 * with clang. */
#define GH_EACH_TOKEN(t, num_tokens)                                                                                   \
    _Pragma("GCC unroll 6") for (size_t t = 0; t < GH_TOKENS; t++) if (t < (num_tokens))

/* What one int4 tile reads: some groups of one panel, and up to GH_TOKENS tokens as w4a8.c interleaves them. */
typedef struct {
    const uint8_t *codes; /* [groups, quads, 32], or [groups, quads, 64] unpacked */
    const uint8_t *zeros; /* [groups, 16] */
    const void *scales;   /* [groups, 16], float16 or float32 */
    bool has_half_scales;
    bool is_unpacked;
    size_t num_groups;
    size_t num_quads; /* per group */
    size_t num_tokens;
    const int8_t *activations;       /* [groups, quads, num_tokens, 4] */
    const float *activation_scales;  /* [groups, num_tokens] */
    const float *activation_offsets; /* [groups, num_tokens] */
    const bool *are_small;           /* [groups]: is_small (below) of all tokens */
} gh_w4a8_tile;

/* How a group of int8 codes stands for numbers: x = scale * code. */
typedef struct {
    float scale;
    float offset;  /* -scale * (sum of the codes): what a zero point of 1 adds to a product with this group */
    bool is_small; /* a product's sums over every other pair of codes fit 16 bits, whatever the 4-bit codes */
} gh_quantized_group;

/* A few rows of a dense product, and neighbouring rows of its weight. */
typedef struct {
    const float *x;  /* [num_rows, width] */
    size_t num_rows; /* <= GH_DOT_ROWS */
    size_t width;
    const void *rows; /* [num_outputs, width], float16 or float32 */
    bool is_half;
    size_t num_outputs;
    size_t y_stride;
} gh_dot_run;

/* Rows of attention, queries of one key head, and their running state; kernels/attention.c draws the tile they meet. */
typedef struct {
    size_t num_rows;
    size_t head_dim;
    size_t padded_dim;    /* head_dim rounded up to whole lanes */
    const size_t *ends;   /* [rows]: a row sees the positions below its end; ascending where a tile holds any of them */
    const float *queries; /* [rows, head_dim], scaled */
    float *sums;          /* [rows, padded_dim]: weighted values, under the maximum so far */
    float *weights;       /* [rows, GH_KEY_TILE]: scratch */
    float *maxima;        /* [rows]: -infinity at first */
    float *totals;        /* [rows, 8]: sums of weights */
} gh_attention_rows;

typedef struct {
    /* Quantises `count` (<= 128) activations; pads the codes with zeros to a multiple of 4. */
    gh_quantized_group (*quantize_group)(const float *x, size_t count, int8_t *codes);

    /* result [num_tokens, 16] += the tile's product, without bias. */
    void (*w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]);

    /* Two codes to a byte -> one to a byte: [num_quads, 32] -> [num_quads, 64]. */
    void (*unpack)(const uint8_t *codes, size_t num_quads, uint8_t *bytes);

    /* y[t * y_stride + o] = x[t] . rows[o] */
    void (*dot)(const gh_dot_run *run, float *y);

    /* Eight keys, one per float16 row -> the first eight columns of keys [head_dim, GH_KEY_TILE]. */
    void (*load_keys)(const uint16_t *const rows[8], size_t head_dim, float *keys);

    /* One step of streaming attention, over the tile of keys [head_dim, GH_KEY_TILE] and values [GH_KEY_TILE,
     * padded_dim] that begins at position `begin`. */
    void (*attend_tile)(const gh_attention_rows *rows, const float *keys, const float *values, size_t begin);

    void (*scale)(float *x, float factor, size_t count);

    void (*halves_to_floats)(const uint16_t *halves, float *floats, size_t count);
    void (*floats_to_halves)(const float *floats, uint16_t *halves, size_t count);

    /* One row each. */
    void (*rms_norm)(const float *x, const float *weight, float eps, size_t width, float *y);
    void (*silu_mul)(const float *gate, const float *up, size_t width, float *y);
    void (*add)(float *x, const float *y, size_t count);
    void (*rotate)(float *head, const float *cosines, const float *sines, size_t half_dim);
} gh_kernels;

extern const gh_kernels gh_kernels_portable;
extern const gh_kernels gh_kernels_avx2;
extern const gh_kernels gh_kernels_avxvnni;
extern const gh_kernels gh_kernels_avx512;
extern const gh_kernels gh_kernels_neon;

/* The members above, as each instruction set defines them. */
gh_quantized_group GH_SHARED(quantize_group)(const float *x, size_t count, int8_t *codes);
void GH_KERNEL(w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]);
void GH_SHARED(unpack)(const uint8_t *codes, size_t num_quads, uint8_t *bytes);
void GH_SHARED(dot)(const gh_dot_run *run, float *y);
void GH_SHARED(load_keys)(const uint16_t *const rows[8], size_t head_dim, float *keys);
void GH_SHARED(attend_tile)(const gh_attention_rows *rows, const float *keys, const float *values, size_t begin);
void GH_SHARED(scale)(float *x, float factor, size_t count);
void GH_SHARED(halves_to_floats)(const uint16_t *halves, float *floats, size_t count);
void GH_SHARED(floats_to_halves)(const float *floats, uint16_t *halves, size_t count);
void GH_SHARED(rms_norm)(const float *x, const float *weight, float eps, size_t width, float *y);
void GH_SHARED(silu_mul)(const float *gate, const float *up, size_t width, float *y);
void GH_SHARED(add)(float *x, const float *y, size_t count);
void GH_SHARED(rotate)(float *head, const float *cosines, const float *sines, size_t half_dim);

#endif
