/* One tile of streaming attention: GH_KEY_TILE keys and values against any number of rows (queries of one key head).
 *
 *   keys    [head_dim, 32]     transposed, so that eight scores grow in the lanes of a vector without a sum across it
 *   values  [32, padded_dim]
 *
 *   scores  [rows, 32]   = queries . keys         fma over the head's dimensions, ascending
 *   weights [rows, 32]   = exp(score - maximum)   the maximum so far; what was summed under an older one is rescaled
 *   totals  [rows, 8]   += weights                lane = position modulo 8
 *   sums    [rows, dim] += weights . values       fma over the keys, ascending
 *
 * Six rows at a time: 6 x 2 running sums, two vectors of keys or values, one broadcast number fill AVX2's registers.
 * Every number depends on its own row alone. A row sees the keys before its end; a hidden value is never read, since it
 * might be NaN.
 */
#include "../exp.h"
#include "../kernels.h"
#include "../lanes.h"

enum { ROWS = 6, WIDE = 4, NARROW = 2 };

void GH_KERNEL(load_keys)(const uint16_t *const rows[GH_LANES], size_t head_dim, float *keys) {
    size_t d = 0;
    for (; d + GH_LANES <= head_dim; d += GH_LANES) {
        lanes block[GH_LANES];
#pragma GCC unroll 8
        for (size_t i = 0; i < GH_LANES; i++) {
            block[i] = lanes_load_half(rows[i] + d);
        }
        lanes_transpose(block);
#pragma GCC unroll 8
        for (size_t i = 0; i < GH_LANES; i++) {
            lanes_store(keys + (d + i) * GH_KEY_TILE, block[i]);
        }
    }
    for (; d < head_dim; d++) {
        for (size_t i = 0; i < GH_LANES; i++) {
            keys[d * GH_KEY_TILE + i] = gh_half_to_float(rows[i][d]);
        }
    }
}

/* y [rows, columns] = x [rows, depth] . m [depth, columns]: fma over the depth, ascending. Strides between rows. */
typedef struct {
    float *y;
    const float *x;
    const float *m;
    size_t y_stride;
    size_t x_stride;
    size_t m_stride;
    size_t depth;
} product;

/* num_vectors * 8 columns of a product, added to what stands in y if `is_added`. The last three are constants wherever
 * this is used, so that sums stay in registers. */
GH_INLINE void multiply(product p, size_t num_rows, size_t num_vectors, bool is_added) {
    lanes sums[ROWS][WIDE];
#pragma GCC unroll 6
    for (size_t t = 0; t < num_rows; t++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < num_vectors; v++) {
            sums[t][v] = is_added ? lanes_load(p.y + t * p.y_stride + v * GH_LANES) : lanes_set1(0.0f);
        }
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < p.depth; i++) {
        lanes row[WIDE];
#pragma GCC unroll 4
        for (size_t v = 0; v < num_vectors; v++) {
            row[v] = lanes_load(p.m + i * p.m_stride + v * GH_LANES);
        }
#pragma GCC unroll 6
        for (size_t t = 0; t < num_rows; t++) {
            lanes factor = lanes_set1(p.x[t * p.x_stride + i]);
#pragma GCC unroll 4
            for (size_t v = 0; v < num_vectors; v++) {
                sums[t][v] = lanes_fma(factor, row[v], sums[t][v]);
            }
        }
    }
#pragma GCC unroll 6
    for (size_t t = 0; t < num_rows; t++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < num_vectors; v++) {
            lanes_store(p.y + t * p.y_stride + v * GH_LANES, sums[t][v]);
        }
    }
}

GH_INLINE product skip_columns(product p, size_t count) {
    p.y += count;
    p.m += count;
    return p;
}

/* Vectors of columns that are computed together: enough independent sums to hide a fma's latency. */
GH_INLINE size_t vectors_for(size_t num_rows) { return num_rows <= 2 ? WIDE : NARROW; }

GH_INLINE void score_rows(const gh_attention_rows *rows, size_t first_row, size_t num_rows, const float *keys) {
    product scores = {
        .y = rows->weights + first_row * GH_KEY_TILE,
        .x = rows->queries + first_row * rows->head_dim,
        .m = keys,
        .y_stride = GH_KEY_TILE,
        .x_stride = rows->head_dim,
        .m_stride = GH_KEY_TILE,
        .depth = rows->head_dim,
    };
    size_t num_vectors = vectors_for(num_rows);
    for (size_t column = 0; column < GH_KEY_TILE; column += num_vectors * GH_LANES) {
        multiply(skip_columns(scores, column), num_rows, num_vectors, false);
    }
}

/* Scores of the first `count` keys -> weights, 0 behind them. */
static void weigh_row(const gh_attention_rows *rows, size_t row, size_t count) {
    float *weights = rows->weights + row * GH_KEY_TILE;
    size_t padded = (count + GH_LANES - 1) / GH_LANES * GH_LANES;
    for (size_t j = count; j < padded; j++) {
        weights[j] = -INFINITY;
    }
    lanes largest = lanes_load(weights);
    for (size_t j = GH_LANES; j < padded; j += GH_LANES) {
        largest = lanes_max(lanes_load(weights + j), largest);
    }
    float former = rows->maxima[row];
    float maximum = lanes_largest(largest);
    maximum = maximum > former ? maximum : former;
    lanes total = lanes_load(rows->totals + row * GH_LANES);
    if (maximum != former) {
        lanes rescale = lanes_exp(lanes_set1(former - maximum));
        float *sums = rows->sums + row * rows->padded_dim;
        for (size_t d = 0; d < rows->padded_dim; d += GH_LANES) {
            lanes_store(sums + d, lanes_mul(lanes_load(sums + d), rescale));
        }
        total = lanes_mul(total, rescale);
        rows->maxima[row] = maximum;
    }
    for (size_t j = 0; j < padded; j += GH_LANES) {
        lanes weight = lanes_exp(lanes_sub(lanes_load(weights + j), lanes_set1(maximum)));
        lanes_store(weights + j, weight);
        total = lanes_add(total, weight);
    }
    lanes_store(rows->totals + row * GH_LANES, total);
}

/* sums += the weighted values of keys begin .. end. */
GH_INLINE void sum_rows(const gh_attention_rows *rows, size_t first_row, size_t num_rows, const float *values,
                        size_t begin, size_t end) {
    size_t width = rows->padded_dim;
    product weighted = {
        .y = rows->sums + first_row * width,
        .x = rows->weights + first_row * GH_KEY_TILE + begin,
        .m = values + begin * width,
        .y_stride = width,
        .x_stride = GH_KEY_TILE,
        .m_stride = width,
        .depth = end - begin,
    };
    size_t num_vectors = vectors_for(num_rows);
    size_t column = 0;
    for (; column + num_vectors * GH_LANES <= width; column += num_vectors * GH_LANES) {
        multiply(skip_columns(weighted, column), num_rows, num_vectors, true);
    }
    for (; column < width; column += GH_LANES) {
        multiply(skip_columns(weighted, column), num_rows, 1, true);
    }
}

/* Keys of the tile at position `begin` that a row may see. */
static size_t visible_keys(const gh_attention_rows *rows, size_t row, size_t begin) {
    size_t end = rows->ends[row];
    size_t count = end > begin ? end - begin : 0;
    return count < GH_KEY_TILE ? count : GH_KEY_TILE;
}

/* Together over the keys that all of these rows see, then each alone over the rest. The first row sees the fewest. */
GH_INLINE void attend_rows(const gh_attention_rows *rows, size_t first_row, size_t num_rows, const float *keys,
                           const float *values, size_t begin) {
    score_rows(rows, first_row, num_rows, keys);
    for (size_t row = first_row; row < first_row + num_rows; row++) {
        weigh_row(rows, row, visible_keys(rows, row, begin));
    }
    size_t common = visible_keys(rows, first_row, begin);
    sum_rows(rows, first_row, num_rows, values, 0, common);
    for (size_t row = first_row + 1; row < first_row + num_rows; row++) {
        size_t end = visible_keys(rows, row, begin);
        if (end > common) {
            sum_rows(rows, row, 1, values, common, end);
        }
    }
}

/* The number of rows is a constant in each branch, so that sums stay in registers. */
void GH_KERNEL(attend_tile)(const gh_attention_rows *rows, const float *keys, const float *values, size_t begin) {
    size_t row = 0;
    while (row < rows->num_rows && visible_keys(rows, row, begin) == 0) {
        row++;
    }
    for (; row + ROWS <= rows->num_rows; row += ROWS) {
        attend_rows(rows, row, ROWS, keys, values, begin);
    }
    switch (rows->num_rows - row) {
    case 1:
        attend_rows(rows, row, 1, keys, values, begin);
        break;
    case 2:
        attend_rows(rows, row, 2, keys, values, begin);
        break;
    case 3:
        attend_rows(rows, row, 3, keys, values, begin);
        break;
    case 4:
        attend_rows(rows, row, 4, keys, values, begin);
        break;
    case 5:
        attend_rows(rows, row, 5, keys, values, begin);
        break;
    default:
        break;
    }
}
