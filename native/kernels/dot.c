/* Dot products of up to three rows with four weight rows; dense products and attention scores are made of them.
 *
 *   lane l of a sum:  fma over k = l, l + 8, l + 16, ...    a short last step is filled with zeros
 *   the sum:          the lanes' fixed tree (lanes.h)
 *
 * The order depends on the width alone, so a row's result does not depend on the rows beside it.
 * 3 x 4 running sums, three rows of x and one of weights are the 16 registers of AVX2.
 */
#include "../kernels.h"
#include "../lanes.h"

GH_INLINE lanes load_weight(const void *row, size_t k, bool is_half) {
    return is_half ? lanes_load_half((const uint16_t *)row + k) : lanes_load((const float *)row + k);
}

GH_INLINE lanes load_first_weights(const void *row, size_t k, size_t count, bool is_half) {
    return is_half ? lanes_load_first_half((const uint16_t *)row + k, count)
                   : lanes_load_first((const float *)row + k, count);
}

GH_INLINE void dot(const float *x, size_t num_rows, const void *const rows[GH_DOT_COLUMNS], bool is_half, size_t width,
                   float sums[GH_DOT_ROWS][GH_DOT_COLUMNS]) {
    lanes partial[GH_DOT_ROWS][GH_DOT_COLUMNS];
#pragma GCC unroll 3
    for (size_t t = 0; t < num_rows; t++) {
#pragma GCC unroll 4
        for (size_t o = 0; o < GH_DOT_COLUMNS; o++) {
            partial[t][o] = lanes_set1(0.0f);
        }
    }
    size_t k = 0;
    for (; k + GH_LANES <= width; k += GH_LANES) {
#pragma GCC unroll 4
        for (size_t o = 0; o < GH_DOT_COLUMNS; o++) {
            lanes weight = load_weight(rows[o], k, is_half);
#pragma GCC unroll 3
            for (size_t t = 0; t < num_rows; t++) {
                partial[t][o] = lanes_fma(lanes_load(x + t * width + k), weight, partial[t][o]);
            }
        }
    }
    if (k < width) {
#pragma GCC unroll 4
        for (size_t o = 0; o < GH_DOT_COLUMNS; o++) {
            lanes weight = load_first_weights(rows[o], k, width - k, is_half);
#pragma GCC unroll 3
            for (size_t t = 0; t < num_rows; t++) {
                lanes tail = lanes_load_first(x + t * width + k, width - k);
                partial[t][o] = lanes_fma(tail, weight, partial[t][o]);
            }
        }
    }
#pragma GCC unroll 3
    for (size_t t = 0; t < num_rows; t++) {
        lanes_sum4(partial[t], sums[t]);
    }
}

GH_INLINE void dot_rows(const float *x, size_t num_rows, const void *const rows[GH_DOT_COLUMNS], bool is_half,
                        size_t width, float sums[GH_DOT_ROWS][GH_DOT_COLUMNS]) {
    if (is_half) {
        dot(x, num_rows, rows, true, width, sums);
    } else {
        dot(x, num_rows, rows, false, width, sums);
    }
}

/* The number of rows is a constant in each branch, so that sums stay in registers. */
void GH_KERNEL(dot)(const float *x, size_t num_rows, const void *const rows[GH_DOT_COLUMNS], bool is_half, size_t width,
                    float sums[GH_DOT_ROWS][GH_DOT_COLUMNS]) {
    switch (num_rows) {
    case 1:
        dot_rows(x, 1, rows, is_half, width, sums);
        break;
    case 2:
        dot_rows(x, 2, rows, is_half, width, sums);
        break;
    case GH_DOT_ROWS:
        dot_rows(x, GH_DOT_ROWS, rows, is_half, width, sums);
        break;
    default:
        __builtin_unreachable();
    }
}
