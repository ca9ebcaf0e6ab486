/* Operations on rows: norm, SiLU, sum, rotary embedding and the write into the cache. Rows are dealt to threads in
 * runs. */
#include "runtime.h"

typedef struct {
    const gh_kernels *kernels;
    const float *x;
    const float *weight;
    float *y;
    float eps;
    size_t num_rows;
    size_t rows_per_task;
    size_t width;
} row_job;

typedef struct {
    const gh_kernels *kernels;
    float *qkv;
    const gh_heads *heads;
    const gh_rope *rope;
    const gh_cache *cache;
    const gh_batch *batch;
    size_t rows_per_task;
} rope_job;

/* Runs `task` over `num_rows` rows in runs of *rows_per_task, which it sets. */
static int run_rows(gh_runtime *runtime, gh_task task, void *job, size_t num_rows, size_t *rows_per_task, size_t work) {
    int status = gh_pool_acquire(runtime->pool, 0, 0);
    if (status != GH_OK) {
        return status;
    }
    *rows_per_task = gh_run_length(runtime, num_rows);
    gh_pool_run(runtime->pool, task, job, gh_ceil_div(num_rows, *rows_per_task), work > GH_PARALLEL_WORK);
    gh_pool_release(runtime->pool);
    return GH_OK;
}

static void rms_norm_rows(void *argument, size_t index, void *scratch) {
    (void)scratch;
    const row_job *job = argument;
    size_t begin = index * job->rows_per_task;
    for (size_t row = begin; row < gh_min(begin + job->rows_per_task, job->num_rows); row++) {
        job->kernels->rms_norm(job->x + row * job->width, job->weight, job->eps, job->width, job->y + row * job->width);
    }
}

int gh_rms_norm(gh_runtime *runtime, const float *x, const float *weight, float eps, int64_t num_tokens, int64_t width,
                float *y) {
    row_job job = {runtime->kernels, x, weight, y, eps, (size_t)num_tokens, 1, (size_t)width};
    return run_rows(runtime, rms_norm_rows, &job, job.num_rows, &job.rows_per_task, job.num_rows * job.width * 20);
}

static void silu_mul_rows(void *argument, size_t index, void *scratch) {
    (void)scratch;
    const row_job *job = argument;
    size_t begin = index * job->rows_per_task;
    for (size_t row = begin; row < gh_min(begin + job->rows_per_task, job->num_rows); row++) {
        const float *gate = job->x + row * 2 * job->width;
        job->kernels->silu_mul(gate, gate + job->width, job->width, job->y + row * job->width);
    }
}

int gh_silu_mul(gh_runtime *runtime, const float *gate_up, int64_t num_tokens, int64_t width, float *y) {
    row_job job = {runtime->kernels, gate_up, NULL, y, 0.0f, (size_t)num_tokens, 1, (size_t)width};
    return run_rows(runtime, silu_mul_rows, &job, job.num_rows, &job.rows_per_task, job.num_rows * job.width * 100);
}

typedef struct {
    const gh_kernels *kernels;
    float *x;
    const float *y;
    size_t count;
} add_job;

enum { NUMBERS_PER_TASK = 1 << 14 };

static void add_numbers(void *argument, size_t index, void *scratch) {
    (void)scratch;
    const add_job *job = argument;
    size_t begin = index * NUMBERS_PER_TASK;
    job->kernels->add(job->x + begin, job->y + begin, gh_min(NUMBERS_PER_TASK, job->count - begin));
}

int gh_add(gh_runtime *runtime, float *x, const float *y, int64_t count) {
    int status = gh_pool_acquire(runtime->pool, 0, 0);
    if (status != GH_OK) {
        return status;
    }
    add_job job = {runtime->kernels, x, y, (size_t)count};
    size_t num_tasks = gh_ceil_div(job.count, NUMBERS_PER_TASK);
    gh_pool_run(runtime->pool, add_numbers, &job, num_tasks, job.count * 20 > GH_PARALLEL_WORK);
    gh_pool_release(runtime->pool);
    return GH_OK;
}

/* Head h of token t goes to [block, h, offset] of the cache, slot = block * block_size + offset. */
static void store_head(const rope_job *job, const float *head, size_t kv_head, int32_t slot, uint16_t *target) {
    size_t block = (size_t)(slot / job->cache->block_size);
    size_t offset = (size_t)(slot % job->cache->block_size);
    size_t head_dim = (size_t)job->heads->head_dim;
    size_t row = (block * (size_t)job->heads->num_kv_heads + kv_head) * (size_t)job->cache->block_size + offset;
    job->kernels->floats_to_halves(head, target + row * head_dim, head_dim);
}

static void rope_and_store_row(const rope_job *job, size_t token) {
    size_t num_heads = (size_t)job->heads->num_heads;
    size_t num_kv_heads = (size_t)job->heads->num_kv_heads;
    size_t head_dim = (size_t)job->heads->head_dim;
    size_t half_dim = head_dim / 2;
    float *queries = job->qkv + token * (num_heads + 2 * num_kv_heads) * head_dim;
    float *keys = queries + num_heads * head_dim;
    float *values = keys + num_kv_heads * head_dim;
    size_t position = (size_t)job->batch->positions[token];
    const float *cosines = job->rope->cosines + position * half_dim;
    const float *sines = job->rope->sines + position * half_dim;
    for (size_t head = 0; head < num_heads + num_kv_heads; head++) {
        job->kernels->rotate(queries + head * head_dim, cosines, sines, half_dim);
    }
    for (size_t head = 0; head < num_kv_heads; head++) {
        int32_t slot = job->batch->slot_mapping[token];
        store_head(job, keys + head * head_dim, head, slot, job->cache->keys);
        store_head(job, values + head * head_dim, head, slot, job->cache->values);
    }
}

static void rope_and_store_rows(void *argument, size_t index, void *scratch) {
    (void)scratch;
    const rope_job *job = argument;
    size_t begin = index * job->rows_per_task;
    size_t end = gh_min(begin + job->rows_per_task, (size_t)job->batch->num_tokens);
    for (size_t token = begin; token < end; token++) {
        rope_and_store_row(job, token);
    }
}

int gh_rope_and_store(gh_runtime *runtime, float *qkv, const gh_heads *heads, const gh_rope *rope,
                      const gh_cache *cache, const gh_batch *batch) {
    int64_t num_slots = cache->num_blocks * cache->block_size;
    for (int64_t t = 0; t < batch->num_tokens; t++) {
        int64_t slot = batch->slot_mapping[t];
        int64_t position = batch->positions[t];
        if (slot < 0 || slot >= num_slots || position < 0 || position >= rope->max_positions) {
            return GH_INDEX_OUT_OF_RANGE;
        }
    }
    rope_job job = {runtime->kernels, qkv, heads, rope, cache, batch, 1};
    size_t num_rows = (size_t)batch->num_tokens;
    size_t width = (size_t)((heads->num_heads + 2 * heads->num_kv_heads) * heads->head_dim);
    return run_rows(runtime, rope_and_store_rows, &job, num_rows, &job.rows_per_task, num_rows * width * 50);
}
