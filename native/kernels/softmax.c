/* The two steps of streaming attention over a tile of keys: softmax of a row of scores, weighted sum of values.
 *
 * Sums over keys run in ascending position; the softmax's sum has eight lanes, lane = key's index in the tile modulo 8.
 */
#include "../exp.h"
#include "../kernels.h"
#include "../lanes.h"

static float maximum_of(const float *scores, size_t count, float start) {
    lanes largest = lanes_set1(start);
    for (size_t j = 0; j < count; j += GH_LANES) {
        largest = lanes_max(lanes_load(scores + j), largest);
    }
    float buffer[GH_LANES];
    lanes_store(buffer, largest);
    float result = buffer[0];
    for (int i = 1; i < GH_LANES; i++) {
        result = buffer[i] > result ? buffer[i] : result;
    }
    return result;
}

float GH_KERNEL(softmax)(float *scores, size_t count, gh_softmax *state) {
    size_t padded = (count + GH_LANES - 1) / GH_LANES * GH_LANES;
    for (size_t j = count; j < padded; j++) {
        scores[j] = -INFINITY;
    }
    float maximum = maximum_of(scores, padded, state->maximum);
    lanes shift = lanes_set1(maximum);
    lanes sum = lanes_set1(0.0f);
    for (size_t j = 0; j < padded; j += GH_LANES) {
        lanes weight = lanes_exp(lanes_sub(lanes_load(scores + j), shift));
        lanes_store(scores + j, weight);
        sum = lanes_add(sum, weight);
    }
    float buffer[GH_LANES];
    lanes_store(buffer, lanes_exp(lanes_sub(lanes_set1(state->maximum), shift)));
    float rescale = buffer[0];
    state->sum = state->sum * rescale + lanes_sum(sum);
    state->maximum = maximum;
    return rescale;
}

GH_INLINE void sum_columns(float *sums, size_t num_rows, const float *weights, size_t weights_stride,
                           const float *values, size_t begin, size_t end, size_t width, size_t num_vectors) {
    lanes partial[GH_DOT_ROWS][4];
#pragma GCC unroll 3
    for (size_t t = 0; t < num_rows; t++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < num_vectors; v++) {
            partial[t][v] = lanes_load(sums + t * width + v * GH_LANES);
        }
    }
    for (size_t j = begin; j < end; j++) {
        lanes weight[GH_DOT_ROWS];
#pragma GCC unroll 3
        for (size_t t = 0; t < num_rows; t++) {
            weight[t] = lanes_set1(weights[t * weights_stride + j]);
        }
#pragma GCC unroll 4
        for (size_t v = 0; v < num_vectors; v++) {
            lanes value = lanes_load(values + j * width + v * GH_LANES);
#pragma GCC unroll 3
            for (size_t t = 0; t < num_rows; t++) {
                partial[t][v] = lanes_fma(weight[t], value, partial[t][v]);
            }
        }
    }
#pragma GCC unroll 3
    for (size_t t = 0; t < num_rows; t++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < num_vectors; v++) {
            lanes_store(sums + t * width + v * GH_LANES, partial[t][v]);
        }
    }
}

GH_INLINE void sum_rows(float *sums, size_t num_rows, const float *weights, size_t weights_stride, const float *values,
                        size_t begin, size_t end, size_t width) {
    size_t column = 0;
    for (; column + 4 * GH_LANES <= width; column += 4 * GH_LANES) {
        sum_columns(sums + column, num_rows, weights, weights_stride, values + column, begin, end, width, 4);
    }
    for (; column < width; column += GH_LANES) {
        sum_columns(sums + column, num_rows, weights, weights_stride, values + column, begin, end, width, 1);
    }
}

/* `width` is a multiple of 8. The number of rows is a constant in each branch, so that sums stay in registers. */
void GH_KERNEL(weighted_sum)(float *sums, size_t num_rows, const float *weights, size_t weights_stride,
                             const float *values, size_t begin, size_t end, size_t width) {
    switch (num_rows) {
    case 1:
        sum_rows(sums, 1, weights, weights_stride, values, begin, end, width);
        break;
    case 2:
        sum_rows(sums, 2, weights, weights_stride, values, begin, end, width);
        break;
    case GH_DOT_ROWS:
        sum_rows(sums, GH_DOT_ROWS, weights, weights_stride, values, begin, end, width);
        break;
    default:
        __builtin_unreachable();
    }
}
