/* Causal attention over the paged float16 cache: streaming softmax over tiles of 32 keys, no quadratic scratch.
 *
 * A task is one key head and up to 192 rows that read it. With grouped queries, the query heads that share the key head
 * are neighbouring rows; short sequences that begin with the same blocks (a policy's prefix) share a task, too:
 *
 *   row = query * heads_per_kv + head      keys 0 .. 31 | 32 .. 63 | ...    tiles begin at multiples of 32 in the
 *   sequence 0   q0h0  ■■■■■■■■■■■■ ■■■■■■■■·····                           sequence, whatever the batch looks like
 *                q0h1  ■■■■■■■■■■■■ ■■■■■■■■·····
 *                q1h0  ■■■■■■■■■■■■ ■■■■■■■■■····       a tile is converted to float32 once for all its rows
 *   sequence 1   q0h0  ■■■■■■■■■■■■│■■■······           (kernels/attention.c meets it with them)
 *                      shared tiles │ own tiles, one sequence after the other
 *
 * Since tiles are fixed by absolute position and every sum runs in ascending position, a row's bits do not depend on
 * how its sequence was cut into steps, nor on its neighbours.
 */
#include "attention_plan.h"

#include <math.h>
#include <string.h>

enum { LANES = 8, FEW_ROWS = 24, CACHE_LINE = 64 };

typedef struct {
    const gh_runtime *runtime;
    const float *qkv;
    const gh_heads *heads;
    const gh_cache *cache;
    const gh_batch *batch;
    float *out;
    size_t heads_per_kv;
    size_t padded_dim; /* head_dim rounded up to whole lanes; what is added is zero */
    gh_attention_plan plan;
} attention_job;

/* A thread's scratch memory. The pointers of `rows` to inputs are written through these. */
typedef struct {
    gh_attention_rows rows;
    float *queries;
    size_t *ends;
    float *keys;   /* [head_dim, GH_KEY_TILE] */
    float *values; /* [GH_KEY_TILE, padded_dim] */
} workspace;

static size_t workspace_bytes(const attention_job *job) {
    size_t floats_per_row = 2 * job->padded_dim + GH_KEY_TILE + LANES + 1;
    size_t bytes_per_row = floats_per_row * sizeof(float) + sizeof(size_t);
    return job->plan.max_rows * bytes_per_row + 2 * GH_KEY_TILE * job->padded_dim * sizeof(float);
}

static workspace carve(const attention_job *job, const gh_attention_task *task, void *scratch) {
    workspace space;
    size_t rows = job->plan.max_rows;
    space.ends = scratch;
    space.keys = (float *)(space.ends + rows);
    space.values = space.keys + GH_KEY_TILE * job->padded_dim;
    space.queries = space.values + GH_KEY_TILE * job->padded_dim;
    space.rows = (gh_attention_rows){
        .num_rows = task->num_rows,
        .head_dim = (size_t)job->heads->head_dim,
        .padded_dim = job->padded_dim,
        .ends = space.ends,
        .queries = space.queries,
        .sums = space.queries + rows * job->padded_dim,
    };
    space.rows.totals = space.rows.sums + rows * job->padded_dim;
    space.rows.weights = space.rows.totals + rows * LANES;
    space.rows.maxima = space.rows.weights + rows * GH_KEY_TILE;
    return space;
}

/* Some rows of a task, as a task of their own. */
static gh_attention_rows rows_from(gh_attention_rows rows, size_t first, size_t count) {
    rows.num_rows = count;
    rows.ends += first;
    rows.queries += first * rows.head_dim;
    rows.sums += first * rows.padded_dim;
    rows.weights += first * GH_KEY_TILE;
    rows.maxima += first;
    rows.totals += first * LANES;
    return rows;
}

static size_t num_rows_of(const attention_job *job, const gh_segment *part) {
    return part->num_queries * job->heads_per_kv;
}

/* A row of a segment: its token, and its head among those of the key head. */
static size_t head_index(const attention_job *job, const gh_segment *part, size_t kv_head, size_t row, size_t heads) {
    return (part->first_token + row / job->heads_per_kv) * heads + kv_head * job->heads_per_kv +
           row % job->heads_per_kv;
}

static size_t end_of_token(const attention_job *job, size_t token) { return (size_t)job->batch->positions[token] + 1; }

static void start_rows(const attention_job *job, const gh_attention_task *task, size_t kv_head,
                       const workspace *space) {
    size_t head_dim = (size_t)job->heads->head_dim;
    size_t num_heads = (size_t)(job->heads->num_heads + 2 * job->heads->num_kv_heads);
    float scale = 1.0f / sqrtf((float)head_dim);
    float *query = space->queries;
    size_t *end = space->ends;
    for (size_t i = 0; i < task->num_segments; i++) {
        const gh_segment *part = &task->segments[i];
        for (size_t row = 0; row < num_rows_of(job, part); row++, query += head_dim) {
            memcpy(query, job->qkv + head_index(job, part, kv_head, row, num_heads) * head_dim,
                   head_dim * sizeof(float));
            job->runtime->kernels->scale(query, scale, head_dim);
            *end++ = end_of_token(job, part->first_token + row / job->heads_per_kv);
        }
    }
    memset(space->rows.sums, 0, task->num_rows * job->padded_dim * sizeof(float));
    memset(space->rows.totals, 0, task->num_rows * LANES * sizeof(float));
    for (size_t row = 0; row < task->num_rows; row++) {
        space->rows.maxima[row] = -INFINITY;
    }
    if (job->padded_dim != head_dim) {
        memset(space->values, 0, GH_KEY_TILE * job->padded_dim * sizeof(float));
    }
}

/* Where the key or value of a position begins in the cache, in numbers. */
static size_t cache_offset(const attention_job *job, size_t seq, size_t kv_head, size_t position) {
    size_t block_size = (size_t)job->cache->block_size;
    size_t block = (size_t)job->batch->block_tables[seq * (size_t)job->batch->max_blocks + position / block_size];
    size_t row = (block * (size_t)job->heads->num_kv_heads + kv_head) * block_size + position % block_size;
    return row * (size_t)job->heads->head_dim;
}

/* Keys and values of positions begin .. begin + count as float32; what lies behind in the tile is never read or used.
 */
static void load_tile(const attention_job *job, size_t seq, size_t kv_head, size_t begin, size_t count,
                      const workspace *space) {
    const gh_kernels *kernels = job->runtime->kernels;
    size_t head_dim = (size_t)job->heads->head_dim;
    for (size_t first = 0; first < count; first += LANES) {
        const uint16_t *keys[LANES];
        for (size_t i = 0; i < LANES; i++) {
            size_t offset = cache_offset(job, seq, kv_head, begin + gh_min(first + i, count - 1));
            keys[i] = job->cache->keys + offset;
            kernels->halves_to_floats(job->cache->values + offset, space->values + (first + i) * job->padded_dim,
                                      head_dim);
        }
        kernels->load_keys(keys, head_dim, space->keys + first);
    }
}

/* Asks for the tile that comes next, so that memory works while this one is computed. */
static void prefetch_tile(const attention_job *job, size_t seq, size_t kv_head, size_t begin, size_t count) {
    size_t num_bytes = (size_t)job->heads->head_dim * sizeof(uint16_t);
    for (size_t j = 0; j < count; j++) {
        size_t offset = cache_offset(job, seq, kv_head, begin + j);
        for (size_t byte = 0; byte < num_bytes; byte += CACHE_LINE) {
            __builtin_prefetch((const char *)(job->cache->keys + offset) + byte);
            __builtin_prefetch((const char *)(job->cache->values + offset) + byte);
        }
    }
}

/* These rows against the tiles of one sequence from position `begin` to `end`. */
static void attend_span(const attention_job *job, size_t seq, size_t kv_head, const workspace *space,
                        gh_attention_rows rows, size_t begin, size_t end) {
    for (; begin < end; begin += GH_KEY_TILE) {
        load_tile(job, seq, kv_head, begin, gh_min(GH_KEY_TILE, end - begin), space);
        size_t next = begin + GH_KEY_TILE;
        if (next < end && rows.num_rows <= FEW_ROWS) {
            prefetch_tile(job, seq, kv_head, next, gh_min(GH_KEY_TILE, end - next));
        }
        job->runtime->kernels->attend_tile(&rows, space->keys, space->values, begin);
    }
}

static void finish_rows(const attention_job *job, const gh_segment *part, size_t kv_head, gh_attention_rows rows) {
    size_t head_dim = rows.head_dim;
    for (size_t row = 0; row < rows.num_rows; row++) {
        float *sums = rows.sums + row * rows.padded_dim;
        const float *t = rows.totals + row * LANES;
        float total = ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7]));
        job->runtime->kernels->scale(sums, 1.0f / total, head_dim);
        size_t head = head_index(job, part, kv_head, row, (size_t)job->heads->num_heads);
        memcpy(job->out + head * head_dim, sums, head_dim * sizeof *sums);
    }
}

static void attend(void *argument, size_t index, void *scratch) {
    const attention_job *job = argument;
    const gh_attention_task *task = &job->plan.tasks[index / (size_t)job->heads->num_kv_heads];
    size_t kv_head = index % (size_t)job->heads->num_kv_heads;
    workspace space = carve(job, task, scratch);
    start_rows(job, task, kv_head, &space);
    attend_span(job, task->segments[0].seq, kv_head, &space, space.rows, 0, task->shared_keys);
    size_t first_row = 0;
    for (size_t i = 0; i < task->num_segments; i++) {
        const gh_segment *part = &task->segments[i];
        gh_attention_rows rows = rows_from(space.rows, first_row, num_rows_of(job, part));
        size_t end = end_of_token(job, part->first_token + part->num_queries - 1);
        attend_span(job, part->seq, kv_head, &space, rows, task->shared_keys, end);
        finish_rows(job, part, kv_head, rows);
        first_row += rows.num_rows;
    }
}

int gh_attention(gh_runtime *runtime, const float *qkv, const gh_heads *heads, const gh_cache *cache,
                 const gh_batch *batch, float *out) {
    if (!gh_is_sound_batch(batch, cache)) {
        return GH_INDEX_OUT_OF_RANGE;
    }
    attention_job job = {runtime, qkv, heads, cache, batch, out, .heads_per_kv = 1};
    job.heads_per_kv = (size_t)(heads->num_heads / heads->num_kv_heads);
    job.padded_dim = gh_ceil_div((size_t)heads->head_dim, LANES) * LANES;
    job.plan = gh_attention_plan_start(heads, cache, batch, gh_pool_num_threads(runtime->pool));
    int status = gh_pool_acquire(runtime->pool, gh_attention_plan_bytes(batch), workspace_bytes(&job));
    if (status != GH_OK) {
        return status;
    }
    gh_attention_plan_cut(&job.plan, gh_pool_shared(runtime->pool));
    size_t num_tasks = job.plan.num_tasks * (size_t)heads->num_kv_heads;
    gh_pool_run(runtime->pool, attend, &job, num_tasks, job.plan.work > GH_PARALLEL_WORK / 2);
    gh_pool_release(runtime->pool);
    return GH_OK;
}
