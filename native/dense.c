/* y = x @ weight.T + bias for float16 or float32 weights as checkpoints store them, and rows of such a table.
 *
 *             outputs: one task takes 16 rows of the weight, which stay in cache
 *            ┌────┬────┬────┬────┐
 *   3 tokens │ 3x4│    │    │    │   one kernel call: 3 tokens x 4 outputs over the whole width (kernels/dot.c)
 *            ├────┼────┼────┼────┤
 *            │    │    │    │    │
 */
#include "runtime.h"

#include <string.h>

enum { OUTPUTS_PER_TASK = 4 * GH_DOT_COLUMNS };

typedef struct {
    const gh_runtime *runtime;
    const gh_dense_weight *weight;
    const float *x;
    float *y;
    size_t num_tokens;
} product;

static const void *row_of(const gh_dense_weight *weight, size_t row) {
    size_t bytes = weight->is_half ? sizeof(uint16_t) : sizeof(float);
    return (const char *)weight->weight + row * (size_t)weight->in_features * bytes;
}

static void multiply_tile(const product *p, size_t first_token, size_t first_output, size_t num_outputs) {
    const void *rows[GH_DOT_COLUMNS];
    for (size_t o = 0; o < GH_DOT_COLUMNS; o++) { /* past the end the last row is computed again and dropped */
        rows[o] = row_of(p->weight, first_output + gh_min(o, num_outputs - 1));
    }
    size_t width = (size_t)p->weight->in_features;
    size_t num_rows = gh_min(GH_DOT_ROWS, p->num_tokens - first_token);
    float sums[GH_DOT_ROWS][GH_DOT_COLUMNS];
    p->runtime->kernels->dot(p->x + first_token * width, num_rows, rows, p->weight->is_half, width, sums);

    const float *bias = p->weight->bias;
    for (size_t t = 0; t < num_rows; t++) {
        float *y = p->y + (first_token + t) * (size_t)p->weight->out_features + first_output;
        for (size_t o = 0; o < num_outputs; o++) {
            y[o] = bias != NULL ? sums[t][o] + bias[first_output + o] : sums[t][o];
        }
    }
}

static void multiply_outputs(void *argument, size_t index, void *scratch) {
    (void)scratch;
    const product *p = argument;
    size_t begin = index * OUTPUTS_PER_TASK;
    size_t end = gh_min(begin + OUTPUTS_PER_TASK, (size_t)p->weight->out_features);
    for (size_t token = 0; token < p->num_tokens; token += GH_DOT_ROWS) {
        for (size_t output = begin; output < end; output += GH_DOT_COLUMNS) {
            multiply_tile(p, token, output, gh_min(GH_DOT_COLUMNS, end - output));
        }
    }
}

int gh_linear_dense(gh_runtime *runtime, const float *x, int64_t num_tokens, const gh_dense_weight *weight, float *y) {
    int status = gh_pool_acquire(runtime->pool, 0, 0);
    if (status != GH_OK) {
        return status;
    }
    product p = {runtime, weight, x, y, (size_t)num_tokens};
    size_t work = p.num_tokens * (size_t)weight->in_features * (size_t)weight->out_features;
    size_t num_tasks = gh_ceil_div((size_t)weight->out_features, OUTPUTS_PER_TASK);
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
