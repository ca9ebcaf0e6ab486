/* Kernels of one row: norm, SiLU, sum, rotation, scaling, conversion between float16 and float32. */
#include "../exp.h"
#include "../kernels.h"
#include "../lanes.h"

/* y = x * (1 / sqrt(mean(x^2) + eps)) * weight; the sum of squares in eight lanes, as in dot.c. */
void GH_KERNEL(rms_norm)(const float *x, const float *weight, float eps, size_t width, float *y) {
    lanes squares = lanes_set1(0.0f);
    size_t k = 0;
    for (; k + GH_LANES <= width; k += GH_LANES) {
        lanes values = lanes_load(x + k);
        squares = lanes_fma(values, values, squares);
    }
    if (k < width) {
        lanes values = lanes_load_first(x + k, width - k);
        squares = lanes_fma(values, values, squares);
    }
    float inverse = 1.0f / sqrtf(lanes_sum(squares) / (float)width + eps);
    for (k = 0; k < width; k++) {
        y[k] = x[k] * inverse * weight[k];
    }
}

/* silu(g) * u = g / (1 + exp(-g)) * u */
GH_INLINE lanes silu_times(lanes gate, lanes up) {
    lanes negated = lanes_sub(lanes_set1(0.0f), gate);
    lanes denominator = lanes_add(lanes_set1(1.0f), lanes_exp(negated));
    return lanes_mul(lanes_div(gate, denominator), up);
}

void GH_KERNEL(silu_mul)(const float *gate, const float *up, size_t width, float *y) {
    size_t k = 0;
    for (; k + GH_LANES <= width; k += GH_LANES) {
        lanes_store(y + k, silu_times(lanes_load(gate + k), lanes_load(up + k)));
    }
    if (k < width) {
        size_t rest = width - k;
        lanes_store_first(y + k, rest, silu_times(lanes_load_first(gate + k, rest), lanes_load_first(up + k, rest)));
    }
}

void GH_KERNEL(add)(float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i++) {
        x[i] += y[i];
    }
}

void GH_KERNEL(scale)(float *x, float factor, size_t count) {
    for (size_t i = 0; i < count; i++) {
        x[i] *= factor;
    }
}

/* Dimension i pairs with i + half_dim. */
void GH_KERNEL(rotate)(float *head, const float *cosines, const float *sines, size_t half_dim) {
    for (size_t i = 0; i < half_dim; i++) {
        float first = head[i];
        float second = head[i + half_dim];
        head[i] = first * cosines[i] - second * sines[i];
        head[i + half_dim] = second * cosines[i] + first * sines[i];
    }
}

void GH_KERNEL(halves_to_floats)(const uint16_t *halves, float *floats, size_t count) {
    size_t i = 0;
    for (; i + GH_LANES <= count; i += GH_LANES) {
        lanes_store(floats + i, lanes_load_half(halves + i));
    }
    if (i < count) {
        lanes_store_first(floats + i, count - i, lanes_load_first_half(halves + i, count - i));
    }
}

void GH_KERNEL(floats_to_halves)(const float *floats, uint16_t *halves, size_t count) {
    size_t i = 0;
    for (; i + GH_LANES <= count; i += GH_LANES) {
        lanes_store_half(halves + i, lanes_load(floats + i));
    }
    if (i < count) {
        lanes_store_first_half(halves + i, count - i, lanes_load_first(floats + i, count - i));
    }
}
