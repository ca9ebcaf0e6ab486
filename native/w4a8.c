/* y = x @ int4 weight + bias with activations quantised to int8 (W4A8): cuts the product into tiles for the threads.
 *
 * First, tokens are quantised per group and interleaved in blocks of 6 (the last block holds the rest, m tokens):
 *
 *   activations  [blocks] [groups] [quads] [m tokens] [4 bytes]     m words side by side: one broadcast per token
 *   scales, sums [blocks] [groups] [m tokens]
 *
 * Then each task takes a run of weight panels (pack.c) and multiplies every block of tokens by each of them. One panel
 * (in_features * 8 bytes) stays in the second-level cache meanwhile. Many tokens are done 768 at a time.
 */
#include "runtime.h"

#include <string.h>

enum { MAX_TOKENS = 128 * GH_TOKENS };

typedef struct {
    const gh_runtime *runtime;
    const gh_int4_weight *weight;
    const float *x;
    float *y;
    size_t num_tokens;
    size_t num_groups;
    size_t num_quads; /* per group */
    size_t num_panels;
    size_t panels_per_task;
    float *scales;
    int32_t *sums;
    int8_t *activations;
} product;

static size_t bytes_per_token(const product *p) {
    return p->num_groups * (p->num_quads * GH_QUAD + sizeof *p->scales + sizeof *p->sums);
}

static size_t block_size(const product *p, size_t block) {
    return gh_min(GH_TOKENS, p->num_tokens - block * GH_TOKENS);
}

/* Index of a block's first byte, in units of one group of one token. */
static size_t block_offset(const product *p, size_t block) { return block * GH_TOKENS * p->num_groups; }

/* codes [quads, 4] of one token -> target [quads, num_tokens, 4] */
static void interleave(const int8_t *codes, size_t num_quads, size_t num_tokens, int8_t *target) {
    for (size_t quad = 0; quad < num_quads; quad++) {
        memcpy(target + quad * num_tokens * GH_QUAD, codes + quad * GH_QUAD, GH_QUAD);
    }
}

static void quantize_block(void *argument, size_t block, void *scratch) {
    (void)scratch;
    const product *p = argument;
    size_t num_tokens = block_size(p, block);
    size_t group_size = (size_t)p->weight->group_size;
    size_t bytes_per_group = p->num_quads * GH_QUAD;
    for (size_t t = 0; t < num_tokens; t++) {
        const float *row = p->x + (block * GH_TOKENS + t) * (size_t)p->weight->in_features;
        for (size_t group = 0; group < p->num_groups; group++) {
            size_t first = block_offset(p, block) + group * num_tokens;
            int8_t codes[GH_MAX_GROUP];
            p->scales[first + t] =
                p->runtime->kernels->quantize_group(row + group * group_size, group_size, codes, &p->sums[first + t]);
            interleave(codes, p->num_quads, num_tokens, p->activations + first * bytes_per_group + t * GH_QUAD);
        }
    }
}

static void store_block(const product *p, size_t block, size_t panel, float (*result)[GH_PANEL]) {
    size_t num_outputs = (size_t)p->weight->out_features;
    size_t first_output = panel * GH_PANEL;
    size_t count = gh_min(GH_PANEL, num_outputs - first_output);
    const float *bias = p->weight->bias;
    for (size_t t = 0; t < block_size(p, block); t++) {
        if (bias != NULL) {
            for (size_t o = 0; o < count; o++) {
                result[t][o] += bias[first_output + o];
            }
        }
        memcpy(p->y + (block * GH_TOKENS + t) * num_outputs + first_output, result[t], count * sizeof **result);
    }
}

static void multiply_panel(const product *p, size_t panel) {
    size_t first_group = panel * p->num_groups;
    gh_w4a8_tile tile = {
        .codes = p->weight->panels + first_group * p->num_quads * 2 * GH_PANEL,
        .zeros = p->weight->zeros + first_group * GH_PANEL,
        .scales = p->weight->scales + first_group * GH_PANEL,
        .num_groups = p->num_groups,
        .num_quads = p->num_quads,
    };
    for (size_t block = 0; block * GH_TOKENS < p->num_tokens; block++) {
        size_t first = block_offset(p, block);
        tile.num_tokens = block_size(p, block);
        tile.activations = p->activations + first * p->num_quads * GH_QUAD;
        tile.activation_scales = p->scales + first;
        tile.activation_sums = p->sums + first;
        float result[GH_TOKENS][GH_PANEL];
        p->runtime->kernels->w4a8(&tile, result);
        store_block(p, block, panel, result);
    }
}

static void multiply_panels(void *argument, size_t index, void *scratch) {
    (void)scratch;
    const product *p = argument;
    size_t begin = index * p->panels_per_task;
    size_t end = gh_min(begin + p->panels_per_task, p->num_panels);
    for (size_t panel = begin; panel < end; panel++) {
        multiply_panel(p, panel);
    }
}

static void multiply_tokens(const gh_runtime *runtime, product *p) {
    size_t work = p->num_tokens * (size_t)p->weight->in_features * (size_t)p->weight->out_features;
    bool is_parallel = work > 2 * GH_PARALLEL_WORK;
    p->scales = gh_pool_shared(runtime->pool);
    p->sums = (int32_t *)(p->scales + p->num_tokens * p->num_groups);
    p->activations = (int8_t *)(p->sums + p->num_tokens * p->num_groups);
    gh_pool_run(runtime->pool, quantize_block, p, gh_ceil_div(p->num_tokens, GH_TOKENS), is_parallel);
    gh_pool_run(runtime->pool, multiply_panels, p, gh_ceil_div(p->num_panels, p->panels_per_task), is_parallel);
}

int gh_linear_int4(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_int4_weight *weight, float *y) {
    size_t num_panels = gh_ceil_div((size_t)weight->out_features, GH_PANEL);
    product p = {
        .runtime = runtime,
        .weight = weight,
        .num_groups = (size_t)(weight->in_features / weight->group_size),
        .num_quads = gh_ceil_div((size_t)weight->group_size, GH_QUAD),
        .num_panels = num_panels,
        .panels_per_task = gh_run_length(runtime, num_panels),
    };
    size_t count = (size_t)num_tokens;
    int status = gh_pool_acquire(runtime->pool, gh_min(count, MAX_TOKENS) * bytes_per_token(&p), 0);
    if (status != GH_OK) {
        return status;
    }
    for (size_t first = 0; first < count; first += MAX_TOKENS) {
        p.x = x + first * (size_t)weight->in_features;
        p.y = y + first * (size_t)weight->out_features;
        p.num_tokens = gh_min(MAX_TOKENS, count - first);
        multiply_tokens(runtime, &p);
    }
    gh_pool_release(runtime->pool);
    return GH_OK;
}
