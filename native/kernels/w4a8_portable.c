/* The W4A8 tile in plain C: one panel of 16 outputs times up to 6 tokens. The definition that the others answer to.
 *
 * One quad of a panel, 32 bytes:      byte   0 1 2 3 | 4 5 6 7 | ... | 28 .. 31
 *                               low nibble   output 0 | output 1 | ... | output 7     each: input rows 4q .. 4q + 3
 *                              high nibble   output 8 | output 9 | ... | output 15
 *
 * Unpacked, 64 bytes:                        output 0 | output 1 | ... | output 15
 *
 * Per group g, in ascending order:
 *   sum = sum of codes * activations                                           exact in int32
 *   result = fma(activation_scale, scale * (float)sum, result)                 quantize.c defines scale and offset
 *   result = fma(activation_offset, scale * (float)zero, result)               of a token's activations
 */
#include "../half.h"
#include "../kernels.h"

#include <math.h>
#include <string.h>

void GH_KERNEL(unpack)(const uint8_t *codes, size_t num_quads, uint8_t *bytes) {
    for (size_t quad = 0; quad < num_quads; quad++, codes += GH_QUAD_BYTES, bytes += 2 * GH_QUAD_BYTES) {
        for (size_t i = 0; i < GH_QUAD_BYTES; i++) {
            bytes[i] = codes[i] & 15;
            bytes[i + GH_QUAD_BYTES] = codes[i] >> 4;
        }
    }
}

static void sum_group(const gh_w4a8_tile *tile, size_t group, size_t token, int32_t sums[GH_PANEL]) {
    memset(sums, 0, GH_PANEL * sizeof *sums);
    for (size_t quad = 0; quad < tile->num_quads; quad++) {
        size_t index = group * tile->num_quads + quad;
        const uint8_t *codes = tile->codes + index * (tile->is_unpacked ? 2 : 1) * GH_QUAD_BYTES;
        uint8_t bytes[2 * GH_QUAD_BYTES];
        if (!tile->is_unpacked) {
            GH_KERNEL(unpack)(codes, 1, bytes);
            codes = bytes;
        }
        const int8_t *activations = tile->activations + (index * tile->num_tokens + token) * GH_QUAD;
        for (int output = 0; output < GH_PANEL; output++) {
            for (int row = 0; row < GH_QUAD; row++) {
                sums[output] += codes[output * GH_QUAD + row] * activations[row];
            }
        }
    }
}

static void load_scales(const gh_w4a8_tile *tile, size_t group, float scales[GH_PANEL]) {
    for (size_t i = 0; i < GH_PANEL; i++) {
        size_t index = group * GH_PANEL + i;
        scales[i] = tile->has_half_scales ? gh_half_to_float(((const uint16_t *)tile->scales)[index])
                                          : ((const float *)tile->scales)[index];
    }
}

void GH_KERNEL(w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]) {
    for (size_t group = 0; group < tile->num_groups; group++) {
        const uint8_t *zeros = tile->zeros + group * GH_PANEL;
        float scales[GH_PANEL];
        load_scales(tile, group, scales);
        for (size_t token = 0; token < tile->num_tokens; token++) {
            int32_t sums[GH_PANEL];
            sum_group(tile, group, token, sums);
            float activation_scale = tile->activation_scales[group * tile->num_tokens + token];
            float activation_offset = tile->activation_offsets[group * tile->num_tokens + token];
            for (int output = 0; output < GH_PANEL; output++) {
                float total = fmaf(activation_scale, scales[output] * (float)sums[output], result[token][output]);
                result[token][output] = fmaf(activation_offset, scales[output] * (float)zeros[output], total);
            }
        }
    }
}
