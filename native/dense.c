/* y = x @ weight.T + bias for float16 or float32 weights as checkpoints store them, and rows of such a table.
 *
 *             outputs: one task takes as many rows of the weight as stay in the second-level cache
 *            ┌──────────┬──────────┬─
 *   3 tokens │          │          │    one kernel call: 3 tokens x the task's outputs (kernels/dot.c)
 *            ├──────────┼──────────┼─
 *            │          │          │
 */
#include "runtime.h"

#include <string.h>

enum { TASK_BYTES = 1 << 16, FEWEST_OUTPUTS = 16 };

typedef struct {
    const gh_runtime *runtime;
    const gh_dense_weight *weight;
    const float *x;
    float *y;
    size_t num_tokens;
    size_t outputs_per_task;
} product;

static size_t bytes_of_row(const gh_dense_weight *weight) {
    return (size_t)weight->in_features * (weight->is_half ? sizeof(uint16_t) : sizeof(float));
}

static const void *row_of(const gh_dense_weight *weight, size_t row) {
    return (const char *)weight->weight + row * bytes_of_row(weight);
}

static size_t outputs_of_task(const gh_dense_weight *weight) {
    size_t outputs = TASK_BYTES / bytes_of_row(weight);
    return gh_max(outputs / FEWEST_OUTPUTS, 1) * FEWEST_OUTPUTS;
}

static void multiply_outputs(void *argument, size_t index, void *scratch) {
    (void)scratch;
    const product *p = argument;
    size_t stride = (size_t)p->weight->out_features;
    size_t begin = index * p->outputs_per_task;
    gh_dot_run run = {
        .width = (size_t)p->weight->in_features,
        .rows = row_of(p->weight, begin),
        .is_half = p->weight->is_half,
        .num_outputs = gh_min(p->outputs_per_task, stride - begin),
        .y_stride = stride,
    };
    for (size_t token = 0; token < p->num_tokens; token += GH_DOT_ROWS) {
        float *y = p->y + token * stride + begin;
        run.x = p->x + token * run.width;
        run.num_rows = gh_min(GH_DOT_ROWS, p->num_tokens - token);
        p->runtime->kernels->dot(&run, y);
        for (size_t t = 0; t < run.num_rows && p->weight->bias != NULL; t++) {
            p->runtime->kernels->add(y + t * stride, p->weight->bias + begin, run.num_outputs);
        }
    }
}

int gh_linear_dense(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_dense_weight *weight, float *y) {
    int status = gh_pool_acquire(runtime->pool, 0, 0);
    if (status != GH_OK) {
        return status;
    }
    product p = {runtime, weight, x, y, (size_t)num_tokens, outputs_of_task(weight)};
    size_t work = p.num_tokens * (size_t)weight->in_features * (size_t)weight->out_features;
    size_t num_tasks = gh_ceil_div((size_t)weight->out_features, p.outputs_per_task);
    gh_pool_run(runtime->pool, multiply_outputs, &p, num_tasks, work > GH_PARALLEL_WORK / 2);
    gh_pool_release(runtime->pool);
    return GH_OK;
}

int gh_embed(gh_runtime *runtime, const gh_dense_weight *table, const int32_t *token_ids, int64_t num_tokens,
             float *y) {
    size_t width = (size_t)table->in_features;
    for (int64_t t = 0; t < num_tokens; t++) {
        if (token_ids[t] < 0 || token_ids[t] >= table->out_features) {
            return GH_INDEX_OUT_OF_RANGE;
        }
    }
    for (int64_t t = 0; t < num_tokens; t++, y += width) {
        const void *row = row_of(table, (size_t)token_ids[t]);
        if (table->is_half) {
            runtime->kernels->halves_to_floats(row, y, width);
        } else {
            memcpy(y, row, width * sizeof *y);
        }
    }
    return GH_OK;
}
