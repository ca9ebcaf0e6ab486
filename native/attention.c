/* Causal attention over the paged float16 cache: streaming softmax over tiles of 32 keys, no quadratic scratch.
 *
 * A task is one key head and a few neighbouring queries of one sequence. With grouped queries, all query heads that
 * share the key head are its rows, so that a tile of keys or values is converted to float32 once for all of them:
 *
 *   row = query * heads_per_kv + head      keys 0 .. 31 | 32 .. 63 | ...    tiles begin at multiples of 32 in the
 *   q0h0  ■■■■■■■■■■■■ ■■■■■■■■·····                                        sequence, whatever the batch looks like
 *   q0h1  ■■■■■■■■■■■■ ■■■■■■■■·····       per tile: scores = q . k,  softmax step,  sums = sums * rescale + w . v
 *   q1h0  ■■■■■■■■■■■■ ■■■■■■■■■····
 *
 * Since tiles are fixed by absolute position and every sum runs in ascending position, a row's bits do not depend on
 * how its sequence was cut into steps, nor on its neighbours.
 */
#include "runtime.h"

#include "lanes.h"

#include <math.h>
#include <string.h>

enum { KEY_TILE = 32, ROWS_PER_TASK = 24 };

/* Neighbouring queries of one sequence. */
typedef struct {
    size_t seq;
    size_t first_token; /* row of qkv */
    size_t num_queries;
    size_t first_position; /* of the first query */
} query_tile;

typedef struct {
    const gh_runtime *runtime;
    const float *qkv;
    const gh_heads *heads;
    const gh_cache *cache;
    const gh_batch *batch;
    float *out;
    size_t heads_per_kv;
    size_t queries_per_task;
    size_t padded_dim; /* head_dim rounded up to whole lanes; what is added is zero */
    query_tile *tiles;
} attention_job;

/* One task's scratch memory. */
typedef struct {
    float *queries;     /* [rows, padded_dim], scaled */
    float *sums;        /* [rows, padded_dim] */
    float *scores;      /* [rows, KEY_TILE] */
    float *tile;        /* [KEY_TILE, padded_dim]: keys, then values */
    gh_softmax *states; /* [rows] */
} workspace;

static size_t rows_per_task(const attention_job *job) { return job->queries_per_task * job->heads_per_kv; }

static size_t workspace_bytes(const attention_job *job) {
    size_t floats = 2 * rows_per_task(job) * job->padded_dim + (rows_per_task(job) + job->padded_dim) * KEY_TILE;
    return floats * sizeof(float) + rows_per_task(job) * sizeof(gh_softmax);
}

static workspace carve(const attention_job *job, void *scratch) {
    size_t num_rows = rows_per_task(job);
    workspace space;
    space.queries = scratch;
    space.sums = space.queries + num_rows * job->padded_dim;
    space.scores = space.sums + num_rows * job->padded_dim;
    space.tile = space.scores + num_rows * KEY_TILE;
    space.states = (gh_softmax *)(space.tile + KEY_TILE * job->padded_dim);
    return space;
}

/* Where row r's query stands in qkv. */
static const float *query_of(const attention_job *job, const query_tile *tile, size_t kv_head, size_t row) {
    size_t token = tile->first_token + row / job->heads_per_kv;
    size_t head = kv_head * job->heads_per_kv + row % job->heads_per_kv;
    size_t num_heads = (size_t)(job->heads->num_heads + 2 * job->heads->num_kv_heads);
    return job->qkv + (token * num_heads + head) * (size_t)job->heads->head_dim;
}

static void start_rows(const attention_job *job, const query_tile *tile, size_t kv_head, const workspace *space) {
    size_t head_dim = (size_t)job->heads->head_dim;
    size_t num_rows = tile->num_queries * job->heads_per_kv;
    float scale = 1.0f / sqrtf((float)head_dim);
    memset(space->queries, 0, num_rows * job->padded_dim * sizeof(float));
    memset(space->sums, 0, num_rows * job->padded_dim * sizeof(float));
    memset(space->tile, 0, KEY_TILE * job->padded_dim * sizeof(float));
    for (size_t row = 0; row < num_rows; row++) {
        float *query = space->queries + row * job->padded_dim;
        memcpy(query, query_of(job, tile, kv_head, row), head_dim * sizeof *query);
        job->runtime->kernels->scale(query, scale, head_dim);
        space->states[row] = (gh_softmax){-INFINITY, 0.0f};
    }
}

/* Keys or values of positions begin .. begin + count as float32 rows. */
static void load_tile(const attention_job *job, size_t seq, size_t kv_head, const uint16_t *source, size_t begin,
                      size_t count, float *target) {
    size_t block_size = (size_t)job->cache->block_size;
    size_t head_dim = (size_t)job->heads->head_dim;
    const int32_t *table = job->batch->block_tables + seq * (size_t)job->batch->max_blocks;
    for (size_t j = 0; j < count; j++) {
        size_t block = (size_t)table[(begin + j) / block_size];
        size_t row = (block * (size_t)job->heads->num_kv_heads + kv_head) * block_size + (begin + j) % block_size;
        job->runtime->kernels->halves_to_floats(source + row * head_dim, target + j * job->padded_dim, head_dim);
    }
}

static void score_rows(const attention_job *job, const workspace *space, size_t num_rows, size_t num_keys) {
    for (size_t row = 0; row < num_rows; row += GH_DOT_ROWS) {
        size_t count = gh_min(GH_DOT_ROWS, num_rows - row);
        const float *queries = space->queries + row * job->padded_dim;
        for (size_t key = 0; key < num_keys; key += GH_DOT_COLUMNS) {
            const void *keys[GH_DOT_COLUMNS];
            for (size_t i = 0; i < GH_DOT_COLUMNS; i++) {
                keys[i] = space->tile + (key + i) * job->padded_dim;
            }
            float scores[GH_DOT_ROWS][GH_DOT_COLUMNS];
            job->runtime->kernels->dot(queries, count, keys, false, job->padded_dim, scores);
            for (size_t t = 0; t < count; t++) {
                memcpy(space->scores + (row + t) * KEY_TILE + key, scores[t], sizeof scores[t]);
            }
        }
    }
}

/* How many keys of the tile that begins at position `begin` a row may see. */
static size_t visible_keys(const attention_job *job, const query_tile *tile, size_t row, size_t begin) {
    size_t end = tile->first_position + row / job->heads_per_kv + 1;
    return end > begin ? gh_min(end - begin, KEY_TILE) : 0;
}

static void weigh_rows(const attention_job *job, const query_tile *tile, const workspace *space, size_t begin) {
    size_t num_rows = tile->num_queries * job->heads_per_kv;
    for (size_t row = 0; row < num_rows; row++) {
        size_t count = visible_keys(job, tile, row, begin);
        if (count == 0) {
            continue;
        }
        float rescale = job->runtime->kernels->softmax(space->scores + row * KEY_TILE, count, &space->states[row]);
        if (rescale != 1.0f) {
            job->runtime->kernels->scale(space->sums + row * job->padded_dim, rescale, job->padded_dim);
        }
    }
}

/* Three rows at a time over the keys that all of them see, then each alone over the rest: never a masked key, whose
 * value might be NaN. Rows see ever more keys, so the first sees the fewest. */
static void sum_rows(const attention_job *job, const query_tile *tile, const workspace *space, size_t begin) {
    size_t num_rows = tile->num_queries * job->heads_per_kv;
    size_t width = job->padded_dim;
    for (size_t row = 0; row < num_rows; row += GH_DOT_ROWS) {
        size_t count = gh_min(GH_DOT_ROWS, num_rows - row);
        size_t common = visible_keys(job, tile, row, begin);
        const float *weights = space->scores + row * KEY_TILE;
        float *sums = space->sums + row * width;
        job->runtime->kernels->weighted_sum(sums, count, weights, KEY_TILE, space->tile, 0, common, width);
        for (size_t t = 0; t < count; t++) {
            size_t end = visible_keys(job, tile, row + t, begin);
            if (end > common) {
                job->runtime->kernels->weighted_sum(sums + t * width, 1, weights + t * KEY_TILE, KEY_TILE, space->tile,
                                                    common, end, width);
            }
        }
    }
}

static void finish_rows(const attention_job *job, const query_tile *tile, size_t kv_head, const workspace *space) {
    size_t head_dim = (size_t)job->heads->head_dim;
    size_t num_rows = tile->num_queries * job->heads_per_kv;
    for (size_t row = 0; row < num_rows; row++) {
        size_t token = tile->first_token + row / job->heads_per_kv;
        size_t head = kv_head * job->heads_per_kv + row % job->heads_per_kv;
        float *sums = space->sums + row * job->padded_dim;
        job->runtime->kernels->scale(sums, 1.0f / space->states[row].sum, head_dim);
        memcpy(job->out + (token * (size_t)job->heads->num_heads + head) * head_dim, sums, head_dim * sizeof *sums);
    }
}

static void attend(void *argument, size_t index, void *scratch) {
    const attention_job *job = argument;
    const query_tile *tile = &job->tiles[index / (size_t)job->heads->num_kv_heads];
    size_t kv_head = index % (size_t)job->heads->num_kv_heads;
    size_t num_rows = tile->num_queries * job->heads_per_kv;
    size_t num_keys = tile->first_position + tile->num_queries;
    workspace space = carve(job, scratch);

    start_rows(job, tile, kv_head, &space);
    for (size_t begin = 0; begin < num_keys; begin += KEY_TILE) {
        size_t count = gh_min(KEY_TILE, num_keys - begin);
        load_tile(job, tile->seq, kv_head, job->cache->keys, begin, count, space.tile);
        score_rows(job, &space, num_rows, count);
        weigh_rows(job, tile, &space, begin);
        load_tile(job, tile->seq, kv_head, job->cache->values, begin, count, space.tile);
        sum_rows(job, tile, &space, begin);
    }
    finish_rows(job, tile, kv_head, &space);
}

/* True when every token stands where its sequence says and every block that is read exists. */
static bool is_sound(const gh_batch *batch, const gh_cache *cache) {
    if (batch->query_starts[0] != 0 || batch->query_starts[batch->num_seqs] != batch->num_tokens) {
        return false;
    }
    for (int64_t seq = 0; seq < batch->num_seqs; seq++) {
        int64_t begin = batch->query_starts[seq];
        int64_t end = batch->query_starts[seq + 1];
        int64_t context = batch->context_lens[seq];
        if (begin < 0 || end < begin || end > batch->num_tokens || context < end - begin) {
            return false;
        }
        for (int64_t t = begin; t < end; t++) {
            if (batch->positions[t] != context - (end - t)) {
                return false;
            }
        }
        int64_t num_blocks = (context + cache->block_size - 1) / cache->block_size;
        if (num_blocks > batch->max_blocks) {
            return false;
        }
        for (int64_t j = 0; j < num_blocks; j++) {
            int32_t block = batch->block_tables[seq * batch->max_blocks + j];
            if (block < 0 || block >= cache->num_blocks) {
                return false;
            }
        }
    }
    return true;
}

/* Cuts every span into tiles; returns their number. *work is about the number of multiply-adds. */
static size_t cut_tiles(const attention_job *job, size_t *work) {
    const gh_batch *batch = job->batch;
    size_t num_tiles = 0;
    *work = 0;
    for (size_t seq = 0; seq < (size_t)batch->num_seqs; seq++) {
        size_t begin = (size_t)batch->query_starts[seq];
        size_t end = (size_t)batch->query_starts[seq + 1];
        size_t width = (size_t)(job->heads->num_heads * job->heads->head_dim);
        *work += 2 * (end - begin) * (size_t)batch->context_lens[seq] * width;
        for (size_t first = begin; first < end; first += job->queries_per_task) {
            size_t count = gh_min(job->queries_per_task, end - first);
            job->tiles[num_tiles++] = (query_tile){seq, first, count, (size_t)batch->positions[first]};
        }
    }
    return num_tiles;
}

int gh_attention(gh_runtime *runtime, const float *qkv, const gh_heads *heads, const gh_cache *cache,
                 const gh_batch *batch, float *out) {
    if (!is_sound(batch, cache)) {
        return GH_INDEX_OUT_OF_RANGE;
    }
    attention_job job = {runtime, qkv, heads, cache, batch, out, .heads_per_kv = 1};
    job.heads_per_kv = (size_t)(heads->num_heads / heads->num_kv_heads);
    job.queries_per_task = job.heads_per_kv < ROWS_PER_TASK ? ROWS_PER_TASK / job.heads_per_kv : 1;
    job.padded_dim = gh_ceil_div((size_t)heads->head_dim, GH_LANES) * GH_LANES;
    size_t tile_bytes = (size_t)batch->num_tokens * sizeof(query_tile);
    int status = gh_pool_acquire(runtime->pool, tile_bytes, workspace_bytes(&job));
    if (status != GH_OK) {
        return status;
    }
    size_t work;
    job.tiles = gh_pool_shared(runtime->pool);
    size_t num_tasks = cut_tiles(&job, &work) * (size_t)heads->num_kv_heads;
    gh_pool_run(runtime->pool, attend, &job, num_tasks, work > GH_PARALLEL_WORK / 2);
    gh_pool_release(runtime->pool);
    return GH_OK;
}
