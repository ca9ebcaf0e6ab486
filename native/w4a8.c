/* y = x @ int4 weight + bias with activations quantised to int8 (W4A8): cuts the product into tiles for the threads.
 *
 * First the rows are prepared, quantised and interleaved (activations.h). Then each task takes a run of weight panels
 * (pack.c) and multiplies every block of tokens by each of them:
 *
 *                 groups of one panel, 1 KiB each at group 128
 *                ┌────────┬────────┬────────┬─
 *      block 0   │ chunk 0: its codes are unpacked to a byte each (16 KiB, stay in the first-level cache),
 *      block 1   │   then multiplied with all blocks; result [tokens, 16] collects the chunks in order.
 *        ...     │   Meanwhile the next chunk's nibbles are fetched from memory, a few lines with every block.
 *                └────────┴────────┴────────┴─
 *
 * A few blocks read the nibbles directly, in one stream: unpacking would not pay, and for a single token, decoding,
 * memory is the limit.
 * Many tokens are done MAX_TOKENS at a time, whose activations stay in the second- and third-level cache.
 */
#include "activations.h"

#include <string.h>

enum {
    MAX_TOKENS = GH_MAX_BLOCKS * GH_TOKENS,
    CHUNK_QUADS = 256, /* unpacked at a time: 16 KiB */
    FEW_BLOCKS = 3,
    CACHE_LINE = 64
};

typedef struct {
    const gh_kernels *kernels;
    const gh_int4_weight *weight;
    gh_activations activations;
    float *y;
    bool is_added; /* to what stands in y */
    size_t num_panels;
    size_t panels_per_task;
    size_t fetched_per_block; /* bytes of the next chunk */
} product;

/* One task's scratch memory. */
typedef struct {
    float result[MAX_TOKENS][GH_PANEL];
    uint8_t bytes[CHUNK_QUADS * 2 * GH_QUAD_BYTES];
} workspace;

/* The product of one block of tokens with groups begin .. end of a panel; codes [groups, ..] begin there too. */
static gh_w4a8_tile tile_of(const product *p, size_t panel, size_t begin, size_t end, size_t block) {
    const gh_activations *a = &p->activations;
    size_t first_group = panel * a->num_groups + begin;
    size_t first = gh_tile_offset(a, begin, end, block);
    size_t scale_bytes = p->weight->has_half_scales ? sizeof(uint16_t) : sizeof(float);
    return (gh_w4a8_tile){
        .codes = p->weight->panels + first_group * a->num_quads * GH_QUAD_BYTES,
        .zeros = p->weight->zeros + first_group * GH_PANEL,
        .scales = (const char *)p->weight->scales + first_group * GH_PANEL * scale_bytes,
        .has_half_scales = p->weight->has_half_scales,
        .num_groups = end - begin,
        .num_quads = a->num_quads,
        .num_tokens = a->first_tokens[block + 1] - a->first_tokens[block],
        .activations = a->codes + first * a->num_quads * GH_QUAD,
        .activation_scales = a->scales + first,
        .activation_offsets = a->offsets + first,
        .are_small = a->are_small + gh_group_offset(a, begin, end, block),
    };
}

/* Fetches the block's share of the chunk of codes that comes next. */
static void fetch_share(const product *p, const uint8_t *codes, size_t num_bytes, size_t block) {
    size_t begin = block * p->fetched_per_block;
    size_t end = gh_min(begin + p->fetched_per_block, num_bytes);
    for (size_t i = begin; i < end; i += CACHE_LINE) {
        __builtin_prefetch(codes + i);
    }
}

static void multiply_chunk(const product *p, size_t panel, size_t begin, size_t end, workspace *space) {
    const gh_activations *a = &p->activations;
    size_t num_quads = (end - begin) * a->num_quads;
    for (size_t block = 0; block < a->num_blocks; block++) {
        gh_w4a8_tile tile = tile_of(p, panel, begin, end, block);
        if (block == 0) {
            p->kernels->unpack(tile.codes, num_quads, space->bytes);
        }
        fetch_share(p, tile.codes + num_quads * GH_QUAD_BYTES, num_quads * GH_QUAD_BYTES, block);
        tile.codes = space->bytes;
        tile.is_unpacked = true;
        p->kernels->w4a8(&tile, space->result + a->first_tokens[block]);
    }
}

static void multiply_nibbles(const product *p, size_t panel, workspace *space) {
    const gh_activations *a = &p->activations;
    for (size_t block = 0; block < a->num_blocks; block++) {
        gh_w4a8_tile tile = tile_of(p, panel, 0, a->num_groups, block);
        p->kernels->w4a8(&tile, space->result + a->first_tokens[block]);
    }
}

static void store_panel(const product *p, size_t panel, float (*result)[GH_PANEL]) {
    size_t num_outputs = (size_t)p->weight->out_features;
    size_t first_output = panel * GH_PANEL;
    size_t count = gh_min(GH_PANEL, num_outputs - first_output);
    const float *bias = p->weight->bias;
    for (size_t t = 0; t < p->activations.num_tokens; t++) {
        float *target = p->y + t * num_outputs + first_output;
        if (bias != NULL) {
            p->kernels->add(result[t], bias + first_output, count);
        }
        if (p->is_added) {
            p->kernels->add(target, result[t], count);
        } else if (count ==
                   GH_PANEL) { /* a constant: without it the compiler copies 8 bytes at a time, 17 % of the time */
            memcpy(target, result[t], sizeof *result);
        } else {
            memcpy(target, result[t], count * sizeof *target);
        }
    }
}

static void multiply_panel(const product *p, size_t panel, workspace *space) {
    const gh_activations *a = &p->activations;
    memset(space->result, 0, a->num_tokens * sizeof *space->result);
    if (a->num_blocks <= FEW_BLOCKS) {
        multiply_nibbles(p, panel, space);
    } else {
        for (size_t begin = 0; begin < a->num_groups; begin += a->groups_per_chunk) {
            multiply_chunk(p, panel, begin, gh_min(begin + a->groups_per_chunk, a->num_groups), space);
        }
    }
    store_panel(p, panel, space->result);
}

static void multiply_panels(void *argument, size_t index, void *scratch) {
    const product *p = argument;
    size_t begin = index * p->panels_per_task;
    size_t end = gh_min(begin + p->panels_per_task, p->num_panels);
    for (size_t panel = begin; panel < end; panel++) {
        multiply_panel(p, panel, scratch);
    }
}

static void multiply_tokens(const gh_runtime *runtime, product *p) {
    gh_activations *a = &p->activations;
    size_t work = a->num_tokens * a->input.width * (size_t)p->weight->out_features;
    bool is_parallel = work > 2 * GH_PARALLEL_WORK;
    gh_activations_lay_out(a, gh_pool_shared(runtime->pool));
    bool is_unpacked = a->num_blocks > FEW_BLOCKS;
    a->groups_per_chunk = is_unpacked ? CHUNK_QUADS / a->num_quads : a->num_groups;
    size_t chunk_bytes = gh_min(a->groups_per_chunk, a->num_groups) * a->num_quads * GH_QUAD_BYTES;
    p->fetched_per_block = gh_ceil_div(chunk_bytes, a->num_blocks * CACHE_LINE) * CACHE_LINE;
    gh_pool_run(runtime->pool, gh_quantize_block, a, a->num_blocks, is_parallel);
    gh_pool_run(runtime->pool, multiply_panels, p, gh_ceil_div(p->num_panels, p->panels_per_task), is_parallel);
}

static int multiply(gh_runtime *runtime, gh_input input, int64_t num_tokens, const gh_int4_weight *weight, float *y,
                    bool is_added) {
    size_t num_panels = gh_ceil_div((size_t)weight->out_features, GH_PANEL);
    input.width = (size_t)weight->in_features;
    product p = {
        .kernels = runtime->kernels,
        .weight = weight,
        .activations =
            {
                .kernels = runtime->kernels,
                .input = input,
                .num_groups = (size_t)(weight->in_features / weight->group_size),
                .num_quads = gh_ceil_div((size_t)weight->group_size, GH_QUAD),
            },
        .is_added = is_added,
        .num_panels = num_panels,
        .panels_per_task = gh_run_length(runtime, num_panels),
    };
    gh_activations *a = &p.activations;
    size_t count = (size_t)num_tokens;
    int status =
        gh_pool_acquire(runtime->pool, gh_activation_bytes(gh_min(count, MAX_TOKENS), a->num_groups, a->num_quads),
                        gh_max(sizeof(workspace), gh_quantize_scratch(&input)));
    if (status != GH_OK) {
        return status;
    }
    size_t row_width = input.width * (input.preparation == GH_GATED ? 2 : 1);
    for (size_t first = 0; first < count; first += MAX_TOKENS) {
        a->input.x = input.x + first * row_width;
        p.y = y + first * (size_t)weight->out_features;
        a->num_tokens = gh_min(MAX_TOKENS, count - first);
        multiply_tokens(runtime, &p);
    }
    gh_pool_release(runtime->pool);
    return GH_OK;
}

int gh_linear_int4(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_int4_weight *weight, float *y) {
    return multiply(runtime, (gh_input){.x = x, .preparation = GH_PLAIN}, num_tokens, weight, y, false);
}

int gh_norm_linear_int4(gh_runtime *runtime, const float *x, const float *norm, float eps, int64_t num_tokens,
                        const gh_int4_weight *weight, float *y) {
    gh_input input = {.x = x, .preparation = GH_NORMED, .norm = norm, .eps = eps};
    return multiply(runtime, input, num_tokens, weight, y, false);
}

int gh_add_linear_int4(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_int4_weight *weight,
                       float *y) {
    return multiply(runtime, (gh_input){.x = x, .preparation = GH_PLAIN}, num_tokens, weight, y, true);
}

int gh_add_gated_linear_int4(gh_runtime *runtime, const float *gate_up, int64_t num_tokens,
                             const gh_int4_weight *weight, float *y) {
    return multiply(runtime, (gh_input){.x = gate_up, .preparation = GH_GATED}, num_tokens, weight, y, true);
}
