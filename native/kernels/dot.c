/* Dot products of up to three rows with a run of neighbouring weight rows; dense products are made of them.
 *
 *   lane l of a sum:  fma over k = l, l + 8, l + 16, ...    a short last step is filled with zeros
 *   the sum:          the lanes' fixed tree (lanes.h)
 *
 * The order depends on the width alone, so a row's result does not depend on the rows beside it.
 * Four weight rows at a time: 3 x 4 running sums, three rows of x and one of weights are the 16 registers of AVX2. The
 * next four rows are fetched meanwhile: rows are short streams, and the processor's own prefetcher stops at each end.
 */
#include "../kernels.h"
#include "../lanes.h"

enum { COLUMNS = 4, LINE = 64 };

/* Four weight rows, and the bytes from one to the next. */
typedef struct {
    const char *first;
    size_t stride;
    bool is_half;
} weight_rows;

GH_INLINE const char *weight_at(weight_rows rows, size_t row, size_t k) {
    return rows.first + row * rows.stride + k * (rows.is_half ? sizeof(uint16_t) : sizeof(float));
}

GH_INLINE lanes load_weight(weight_rows rows, size_t row, size_t k) {
    const void *p = weight_at(rows, row, k);
    return rows.is_half ? lanes_load_half(p) : lanes_load(p);
}

GH_INLINE lanes load_first_weights(weight_rows rows, size_t row, size_t k, size_t count) {
    const void *p = weight_at(rows, row, k);
    return rows.is_half ? lanes_load_first_half(p, count) : lanes_load_first(p, count);
}

/* partial[t][o] += x[t] . rows[o] for eight neighbouring k. */
GH_INLINE void add_step(lanes (*partial)[COLUMNS], const float *x, size_t num_rows, weight_rows rows, size_t width,
                        size_t k) {
#pragma GCC unroll 4
    for (size_t o = 0; o < COLUMNS; o++) {
        lanes weight = load_weight(rows, o, k);
#pragma GCC unroll 3
        for (size_t t = 0; t < num_rows; t++) {
            partial[t][o] = lanes_fma(lanes_load(x + t * width + k), weight, partial[t][o]);
        }
    }
}

GH_INLINE void add_last_step(lanes (*partial)[COLUMNS], const float *x, size_t num_rows, weight_rows rows, size_t width,
                             size_t k) {
#pragma GCC unroll 4
    for (size_t o = 0; o < COLUMNS; o++) {
        lanes weight = load_first_weights(rows, o, k, width - k);
#pragma GCC unroll 3
        for (size_t t = 0; t < num_rows; t++) {
            partial[t][o] = lanes_fma(lanes_load_first(x + t * width + k, width - k), weight, partial[t][o]);
        }
    }
}

/* sums[t][o] = x[t] . rows[o] */
GH_INLINE void dot_tile(const float *x, size_t num_rows, weight_rows rows, size_t width,
                        float sums[GH_DOT_ROWS][COLUMNS]) {
    const size_t per_line = LINE / (rows.is_half ? sizeof(uint16_t) : sizeof(float));
    lanes partial[GH_DOT_ROWS][COLUMNS];
#pragma GCC unroll 3
    for (size_t t = 0; t < num_rows; t++) {
#pragma GCC unroll 4
        for (size_t o = 0; o < COLUMNS; o++) {
            partial[t][o] = lanes_set1(0.0f);
        }
    }
    size_t k = 0;
    for (; k + per_line <= width; k += per_line) {
#pragma GCC unroll 4
        for (size_t o = 0; o < COLUMNS; o++) {
            __builtin_prefetch(weight_at(rows, COLUMNS + o, k));
        }
#pragma GCC unroll 1
        for (size_t step = 0; step < per_line; step += GH_LANES) {
            add_step(partial, x, num_rows, rows, width, k + step);
        }
    }
    for (; k + GH_LANES <= width; k += GH_LANES) {
        add_step(partial, x, num_rows, rows, width, k);
    }
    if (k < width) {
        add_last_step(partial, x, num_rows, rows, width, k);
    }
#pragma GCC unroll 3
    for (size_t t = 0; t < num_rows; t++) {
        lanes_sum4(partial[t], sums[t]);
    }
}

/* `is_half` and `num_rows` are constants wherever this is used, so that sums stay in registers. */
GH_INLINE void dot(const gh_dot_run *run, size_t num_rows, bool is_half, float *y) {
    size_t row_bytes = run->width * (is_half ? sizeof(uint16_t) : sizeof(float));
    for (size_t first = 0; first < run->num_outputs; first += COLUMNS) {
        size_t count = run->num_outputs - first < COLUMNS ? run->num_outputs - first : COLUMNS;
        float sums[GH_DOT_ROWS][COLUMNS] = {{0}};
        if (count == COLUMNS) {
            weight_rows rows = {(const char *)run->rows + first * row_bytes, row_bytes, is_half};
            dot_tile(run->x, num_rows, rows, run->width, sums);
        } else {
            for (size_t o = 0; o < count; o++) { /* one row four times: the same sums */
                float same[GH_DOT_ROWS][COLUMNS];
                weight_rows rows = {(const char *)run->rows + (first + o) * row_bytes, 0, is_half};
                dot_tile(run->x, num_rows, rows, run->width, same);
                for (size_t t = 0; t < num_rows; t++) {
                    sums[t][o] = same[t][0];
                }
            }
        }
        for (size_t t = 0; t < num_rows; t++) {
            memcpy(y + t * run->y_stride + first, sums[t], count * sizeof(float));
        }
    }
}

GH_INLINE void dot_rows(const gh_dot_run *run, size_t num_rows, float *y) {
    if (run->is_half) {
        dot(run, num_rows, true, y);
    } else {
        dot(run, num_rows, false, y);
    }
}

void GH_KERNEL(dot)(const gh_dot_run *run, float *y) {
    switch (run->num_rows) {
    case 1:
        dot_rows(run, 1, y);
        break;
    case 2:
        dot_rows(run, 2, y);
        break;
    case GH_DOT_ROWS:
        dot_rows(run, GH_DOT_ROWS, y);
        break;
    default:
        __builtin_unreachable();
    }
}
