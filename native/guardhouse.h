/* The C ABI of libguardhouse_native: what guardhouse/ops/cpu.py calls.
 *
 * Knows: raw pointers, sizes, status codes. Every array is C-contiguous; shapes stand beside the fields.
 * Never knows: Python, files, checkpoints.
 *
 * The caller vouches for sizes; indices that come from data (token ids, slots, blocks, positions) are checked here.
 * Concurrent calls on one runtime wait for each other.
 */
#ifndef GUARDHOUSE_H
#define GUARDHOUSE_H

#include <stdint.h>

#define GH_API __attribute__((visibility("default")))

/* Raise it whenever a packed layout or a result bit changes: it is part of every disk-cache key. */
enum { GH_KERNEL_VERSION = 3 };

enum gh_status { GH_OK = 0, GH_OUT_OF_MEMORY = 1, GH_INDEX_OUT_OF_RANGE = 2 };
enum gh_isa { GH_ISA_PORTABLE = 0, GH_ISA_AVX2 = 1, GH_ISA_NEON = 2, GH_ISA_AVXVNNI = 3, GH_ISA_AVX512 = 4 };

/* Threads, scratch memory and the kernels for one instruction set. */
typedef struct gh_runtime gh_runtime;

/* A 4-bit weight in panels of 16 outputs; pack.c draws them. */
typedef struct {
    int64_t in_features;
    int64_t out_features;
    int64_t group_size;    /* divides in_features; at most 128 */
    const uint8_t *panels; /* [panels, groups, quads, 32] */
    const uint8_t *zeros;  /* [panels, groups, 16] */
    const void *scales;    /* [panels, groups, 16], float16 or float32; 0 where an output is padding */
    const float *bias;     /* [out_features] or NULL */
    int32_t has_half_scales;
} gh_int4_weight;

/* A weight as checkpoints store it. */
typedef struct {
    int64_t in_features;
    int64_t out_features;
    const void *weight; /* [out_features, in_features], float16 or float32 */
    const float *bias;  /* [out_features] or NULL */
    int32_t is_half;
} gh_dense_weight;

/* How a fused qkv row is cut: queries, keys, values. */
typedef struct {
    int64_t num_heads;
    int64_t num_kv_heads;
    int64_t head_dim;
} gh_heads;

/* One layer of the paged cache. */
typedef struct {
    uint16_t *keys;   /* [num_blocks, num_kv_heads, block_size, head_dim], float16 */
    uint16_t *values; /* the same */
    int64_t num_blocks;
    int64_t block_size;
} gh_cache;

/* A ragged batch of new tokens; guardhouse/ops/table.py draws one. */
typedef struct {
    const int32_t *positions;    /* [num_tokens] */
    const int32_t *slot_mapping; /* [num_tokens] */
    const int32_t *query_starts; /* [num_seqs + 1] */
    const int32_t *context_lens; /* [num_seqs] */
    const int32_t *block_tables; /* [num_seqs, max_blocks] */
    int64_t num_tokens;
    int64_t num_seqs;
    int64_t max_blocks;
} gh_batch;

/* cos and sin, [max_positions, head_dim / 2] each. */
typedef struct {
    const float *cosines;
    const float *sines;
    int64_t max_positions;
} gh_rope;

GH_API int gh_kernel_version(void);
GH_API int gh_supports_isa(int isa);

/* NULL when memory or threads are short or the machine lacks the instruction set. */
GH_API gh_runtime *gh_runtime_create(int num_threads, int isa);
GH_API void gh_runtime_destroy(gh_runtime *runtime);

/* codes [in_features, out_features], one per byte -> panels (weight->panels is ignored). */
GH_API int gh_pack_int4(gh_runtime *runtime, const uint8_t *codes, const gh_int4_weight *shape, uint8_t *panels);

GH_API int gh_linear_int4(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_int4_weight *weight,
                          float *y);

/* The same with what stands before or after it: y = rms_norm(x) @ weight, y += x @ weight, y += silu_mul(gate_up) @
 * weight. Each gives the bits of its parts done one after the other. */
GH_API int gh_norm_linear_int4(gh_runtime *runtime, const float *x, const float *norm, float eps, int64_t num_tokens,
                               const gh_int4_weight *weight, float *y);
GH_API int gh_add_linear_int4(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_int4_weight *weight,
                              float *y);
GH_API int gh_add_gated_linear_int4(gh_runtime *runtime, const float *gate_up, int64_t num_tokens,
                                    const gh_int4_weight *weight, float *y);

GH_API int gh_linear_dense(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_dense_weight *weight,
                           float *y);
GH_API int gh_embed(gh_runtime *runtime, const gh_dense_weight *table, const int32_t *token_ids, int64_t num_tokens,
                    float *y);
GH_API int gh_rms_norm(gh_runtime *runtime, const float *x, const float *weight, float eps, int64_t num_tokens,
                       int64_t width, float *y);
GH_API int gh_silu_mul(gh_runtime *runtime, const float *gate_up, int64_t num_tokens, int64_t width, float *y);
GH_API int gh_add(gh_runtime *runtime, float *x, const float *y, int64_t count);

/* Rotates queries and keys of qkv in place, then writes keys and values to the cache. */
GH_API int gh_rope_and_store(gh_runtime *runtime, float *qkv, const gh_heads *heads, const gh_rope *rope,
                             const gh_cache *cache, const gh_batch *batch);

/* out [num_tokens, num_heads * head_dim] */
GH_API int gh_attention(gh_runtime *runtime, const float *qkv, const gh_heads *heads, const gh_cache *cache,
                        const gh_batch *batch, float *out);

#endif
