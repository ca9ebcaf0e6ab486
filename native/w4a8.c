/* y = x @ int4 weight + bias with activations quantised to int8 (W4A8): cuts the product into tiles for the threads.
 *
 * First, tokens are quantised per group and interleaved in blocks of at most 6, as equal as possible (m tokens each):
 *
 *   activations  [chunks] [blocks] [groups] [quads] [m tokens] [4 bytes]    m words side by side: one broadcast each
 *   scales       [chunks] [blocks] [groups] [m tokens]                      and offsets (kernels/quantize.c)
 *
 * Then each task takes a run of weight panels (pack.c) and multiplies every block of tokens by each of them:
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
#include "runtime.h"

#include <string.h>

enum {
    MAX_TOKENS = 32 * GH_TOKENS,
    CHUNK_QUADS = 256, /* unpacked at a time: 16 KiB */
    FEW_BLOCKS = 3,
    CACHE_LINE = 64
};

typedef struct {
    const gh_runtime *runtime;
    const gh_int4_weight *weight;
    const float *x;
    float *y;
    size_t num_tokens;
    size_t num_blocks;
    size_t num_groups;
    size_t num_quads; /* per group */
    size_t groups_per_chunk;
    size_t num_panels;
    size_t panels_per_task;
    float *scales;
    float *offsets;
    int8_t *activations;
} product;

/* One task's scratch memory. */
typedef struct {
    float result[MAX_TOKENS][GH_PANEL];
    uint8_t bytes[CHUNK_QUADS * 2 * GH_QUAD_BYTES];
} workspace;

static size_t bytes_per_token(const product *p) { return p->num_groups * (p->num_quads * GH_QUAD + 2 * sizeof(float)); }

static size_t first_token_of(const product *p, size_t block) { return block * p->num_tokens / p->num_blocks; }

/* codes [quads, 4] of one token -> target [quads, num_tokens, 4] */
static void interleave(const int8_t *codes, size_t num_quads, size_t num_tokens, int8_t *target) {
    for (size_t quad = 0; quad < num_quads; quad++) {
        memcpy(target + quad * num_tokens * GH_QUAD, codes + quad * GH_QUAD, GH_QUAD);
    }
}

/* Where the scales of a chunk of groups and a block of tokens begin. The activations begin there too, times the bytes
 * of a group. */
static size_t tile_offset(const product *p, size_t first_group, size_t end_group, size_t first_token) {
    return first_group * p->num_tokens + (end_group - first_group) * first_token;
}

static void quantize_block(void *argument, size_t block, void *scratch) {
    (void)scratch;
    const product *p = argument;
    size_t first_token = first_token_of(p, block);
    size_t num_tokens = first_token_of(p, block + 1) - first_token;
    size_t group_size = (size_t)p->weight->group_size;
    size_t bytes_per_group = p->num_quads * GH_QUAD;
    for (size_t t = 0; t < num_tokens; t++) {
        const float *row = p->x + (first_token + t) * (size_t)p->weight->in_features;
        for (size_t group = 0; group < p->num_groups; group++) {
            size_t begin = group / p->groups_per_chunk * p->groups_per_chunk;
            size_t end = gh_min(begin + p->groups_per_chunk, p->num_groups);
            size_t first = tile_offset(p, begin, end, first_token) + (group - begin) * num_tokens;
            int8_t codes[GH_MAX_GROUP];
            gh_quantized_group quantized =
                p->runtime->kernels->quantize_group(row + group * group_size, group_size, codes);
            p->scales[first + t] = quantized.scale;
            p->offsets[first + t] = quantized.offset;
            interleave(codes, p->num_quads, num_tokens, p->activations + first * bytes_per_group + t * GH_QUAD);
        }
    }
}

/* The product of one block of tokens with groups begin .. end of a panel; codes [groups, ..] begin there too. */
static gh_w4a8_tile tile_of(const product *p, size_t panel, size_t begin, size_t end, size_t block) {
    size_t first_token = first_token_of(p, block);
    size_t num_tokens = first_token_of(p, block + 1) - first_token;
    size_t first_group = panel * p->num_groups + begin;
    size_t first = tile_offset(p, begin, end, first_token);
    return (gh_w4a8_tile){
        .codes = p->weight->panels + first_group * p->num_quads * GH_QUAD_BYTES,
        .zeros = p->weight->zeros + first_group * GH_PANEL,
        .scales = p->weight->scales + first_group * GH_PANEL,
        .num_groups = end - begin,
        .num_quads = p->num_quads,
        .num_tokens = num_tokens,
        .activations = p->activations + first * p->num_quads * GH_QUAD,
        .activation_scales = p->scales + first,
        .activation_offsets = p->offsets + first,
    };
}

/* Fetches the block's share of the chunk of codes that comes next. */
static void prefetch_share(const product *p, const uint8_t *codes, size_t num_bytes, size_t block) {
    size_t begin = block * num_bytes / p->num_blocks;
    size_t end = (block + 1) * num_bytes / p->num_blocks;
    for (size_t i = begin / CACHE_LINE * CACHE_LINE; i < end; i += CACHE_LINE) {
        __builtin_prefetch(codes + i);
    }
}

static void multiply_chunk(const product *p, size_t panel, size_t begin, size_t end, workspace *space) {
    const gh_kernels *kernels = p->runtime->kernels;
    size_t num_quads = (end - begin) * p->num_quads;
    for (size_t block = 0; block < p->num_blocks; block++) {
        gh_w4a8_tile tile = tile_of(p, panel, begin, end, block);
        if (block == 0) {
            kernels->unpack(tile.codes, num_quads, space->bytes);
        }
        prefetch_share(p, tile.codes + num_quads * GH_QUAD_BYTES, num_quads * GH_QUAD_BYTES, block);
        tile.codes = space->bytes;
        tile.is_unpacked = true;
        kernels->w4a8(&tile, space->result + first_token_of(p, block));
    }
}

static void multiply_nibbles(const product *p, size_t panel, workspace *space) {
    for (size_t block = 0; block < p->num_blocks; block++) {
        gh_w4a8_tile tile = tile_of(p, panel, 0, p->num_groups, block);
        p->runtime->kernels->w4a8(&tile, space->result + first_token_of(p, block));
    }
}

static void store_panel(const product *p, size_t panel, float (*result)[GH_PANEL]) {
    size_t num_outputs = (size_t)p->weight->out_features;
    size_t first_output = panel * GH_PANEL;
    size_t count = gh_min(GH_PANEL, num_outputs - first_output);
    const float *bias = p->weight->bias;
    for (size_t t = 0; t < p->num_tokens; t++) {
        if (bias != NULL) {
            p->runtime->kernels->add(result[t], bias + first_output, count);
        }
        memcpy(p->y + t * num_outputs + first_output, result[t], count * sizeof **result);
    }
}

static void multiply_panel(const product *p, size_t panel, workspace *space) {
    memset(space->result, 0, p->num_tokens * sizeof *space->result);
    if (p->num_blocks <= FEW_BLOCKS) {
        multiply_nibbles(p, panel, space);
    } else {
        for (size_t begin = 0; begin < p->num_groups; begin += p->groups_per_chunk) {
            multiply_chunk(p, panel, begin, gh_min(begin + p->groups_per_chunk, p->num_groups), space);
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
    size_t work = p->num_tokens * (size_t)p->weight->in_features * (size_t)p->weight->out_features;
    bool is_parallel = work > 2 * GH_PARALLEL_WORK;
    p->num_blocks = gh_ceil_div(p->num_tokens, GH_TOKENS);
    p->groups_per_chunk = p->num_blocks <= FEW_BLOCKS ? p->num_groups : CHUNK_QUADS / p->num_quads;
    p->scales = gh_pool_shared(runtime->pool);
    p->offsets = p->scales + p->num_tokens * p->num_groups;
    p->activations = (int8_t *)(p->offsets + p->num_tokens * p->num_groups);
    gh_pool_run(runtime->pool, quantize_block, p, p->num_blocks, is_parallel);
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
    int status = gh_pool_acquire(runtime->pool, gh_min(count, MAX_TOKENS) * bytes_per_token(&p), sizeof(workspace));
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
