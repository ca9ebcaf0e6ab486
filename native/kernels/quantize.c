/* Symmetric int8 quantisation of one group of one token's activations.
 *
 *   scale = max |x| / 127,   code = round to nearest even (x * (127 / max |x|)),   -127 <= code <= 127
 *
 * A group whose maximum is below 2^-100 counts as zero: scale 0. A group with NaN or infinity gets the scale NaN, so
 * that everything computed from it is NaN, never a finite answer.
 */
#include "../half.h"
#include "../kernels.h"

#include <math.h>

/* The largest |x| as the bits of a float. Compared as integers, NaN and infinity outrank every finite value. */
static uint32_t largest_magnitude_bits(const float *x, size_t count) {
    int32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t bits = (int32_t)(gh_bits_of_float(x[i]) & 0x7fffffff);
        largest = bits > largest ? bits : largest;
    }
    return (uint32_t)largest;
}

/* Whether the sums that w4a8_avx2.c keeps in 16 bits do not leave them: over the first pairs of all quads, and over the
 * second. A sum is largest where the 4-bit code is 15 at every positive activation and 0 elsewhere. */
static bool fits_16_bits(const int8_t *codes, size_t count) {
    int32_t positive[GH_QUAD] = {0}, negative[GH_QUAD] = {0};
    for (size_t i = 0; i < count; i += GH_QUAD) {
        for (size_t k = 0; k < GH_QUAD; k++) {
            int32_t code = codes[i + k];
            positive[k] += code > 0 ? code : 0;
            negative[k] += code < 0 ? code : 0;
        }
    }
    const int32_t most = INT16_MAX / 15;
    return positive[0] + positive[1] <= most && positive[2] + positive[3] <= most &&
           negative[0] + negative[1] >= -most && negative[2] + negative[3] >= -most;
}

gh_quantized_group GH_KERNEL(quantize_group)(const float *x, size_t count, int8_t *codes) {
    const float rounder = 0x1.8p23f; /* adding it rounds to an integer, left in the low mantissa bits */
    uint32_t largest_bits = largest_magnitude_bits(x, count);
    float largest = gh_float_of_bits(largest_bits);
    bool is_finite = largest_bits < 0x7f800000;

    memset(codes, 0, (count + GH_QUAD - 1) / GH_QUAD * GH_QUAD);
    if (!is_finite || largest < 0x1p-100f) {
        return (gh_quantized_group){is_finite ? 0.0f : NAN, 0.0f, true};
    }
    float inverse = 127.0f / largest;
    int32_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        int8_t code = (int8_t)(gh_bits_of_float(x[i] * inverse + rounder) & 0xff);
        codes[i] = code;
        sum += code;
    }
    float scale = largest / 127.0f;
    return (gh_quantized_group){scale, -scale * (float)sum, fits_16_bits(codes, count)};
}
