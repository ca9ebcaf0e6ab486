/* The rows that a W4A8 product reads: quantised to int8 per group, and interleaved in blocks of at most 6 tokens, as
 * equal as possible (m tokens each), chunk by chunk of the groups that w4a8.c multiplies at a time:
 *
 *   codes    [chunks] [blocks] [groups] [quads] [m tokens] [4 bytes]    m words side by side: one broadcast each
 *   scales   [chunks] [blocks] [groups] [m tokens]                      and offsets (kernels/quantize.c)
 *   are_small  [chunks] [blocks] [groups]                               whether all of a block's tokens are
 *
 * Knows: where rows come from (as they are, normed, or gate and up), blocks, groups.
 * Never knows: weights, panels.
 */
#ifndef GH_ACTIVATIONS_H
#define GH_ACTIVATIONS_H

#include "runtime.h"

enum { GH_MAX_BLOCKS = 32 };

/* What is done to a row before it is quantised. */
typedef enum {
    GH_PLAIN,  /* x [num_tokens, width] */
    GH_NORMED, /* the same, through RMSNorm */
    GH_GATED   /* x [num_tokens, 2 * width]: silu(first half) * second half */
} gh_preparation;

typedef struct {
    const float *x;
    gh_preparation preparation;
    const float *norm; /* [width] if normed */
    float eps;
    size_t width;
} gh_input;

typedef struct {
    const gh_kernels *kernels;
    gh_input input;
    size_t num_tokens;
    size_t num_blocks;
    size_t num_groups;
    size_t num_quads; /* per group */
    size_t groups_per_chunk;
    size_t first_tokens[GH_MAX_BLOCKS + 1]; /* block b holds the tokens from first_tokens[b] to first_tokens[b + 1] */
    int8_t *codes;
    float *scales;
    float *offsets;
    bool *are_small;
} gh_activations;

/* Memory that `num_tokens` tokens take, for a width of `num_groups` groups. */
size_t gh_activation_bytes(size_t num_tokens, size_t num_groups, size_t num_quads);

/* Private scratch that the task below needs. */
static inline size_t gh_quantize_scratch(const gh_input *input) { return input->width * sizeof(float); }

/* Cuts the tokens into blocks and lays the arrays out in `memory`. */
void gh_activations_lay_out(gh_activations *activations, void *memory);

/* Fills one block: a task for gh_pool_run, whose argument is a gh_activations. */
void gh_quantize_block(void *argument, size_t block, void *scratch);

/* Where the scales of a chunk of groups and a block of tokens begin. The codes begin there too, times the bytes of a
 * group. */
static inline size_t gh_tile_offset(const gh_activations *a, size_t first_group, size_t end_group, size_t block) {
    return first_group * a->num_tokens + (end_group - first_group) * a->first_tokens[block];
}

/* The same for are_small. */
static inline size_t gh_group_offset(const gh_activations *a, size_t first_group, size_t end_group, size_t block) {
    return first_group * a->num_blocks + (end_group - first_group) * block;
}

#endif
