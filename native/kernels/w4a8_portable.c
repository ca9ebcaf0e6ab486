/* The W4A8 tile in plain C: one panel of 16 outputs times up to 6 tokens. The definition that w4a8_avx2.c answers to.
 *
 * One quad of a panel, 32 bytes:      byte   0 1 2 3 | 4 5 6 7 | ... | 28 .. 31
 *                               low nibble   output 0 | output 1 | ... | output 7     each: input rows 4q .. 4q + 3
 *                              high nibble   output 8 | output 9 | ... | output 15
 *
 * Per group g, in ascending order:
 *   total = sum of codes * activations - zero * activation_sum          exact in int32
 *   result = result + (activation_scale * scale) * (float)total         two products and a sum, each rounded
 */
#include "../kernels.h"

#include <string.h>

static void sum_group(const gh_w4a8_tile *tile, size_t group, size_t token, int32_t sums[GH_PANEL]) {
    memset(sums, 0, GH_PANEL * sizeof *sums);
    for (size_t quad = 0; quad < tile->num_quads; quad++) {
        size_t index = group * tile->num_quads + quad;
        const uint8_t *codes = tile->codes + index * 2 * GH_PANEL;
        const int8_t *activations = tile->activations + (index * tile->num_tokens + token) * GH_QUAD;
        for (int output = 0; output < GH_PANEL / 2; output++) {
            for (int row = 0; row < GH_QUAD; row++) {
                uint8_t pair = codes[output * GH_QUAD + row];
                sums[output] += (pair & 15) * activations[row];
                sums[output + GH_PANEL / 2] += (pair >> 4) * activations[row];
            }
        }
    }
}

void GH_KERNEL(w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]) {
    memset(result, 0, tile->num_tokens * sizeof *result);
    for (size_t group = 0; group < tile->num_groups; group++) {
        const uint8_t *zeros = tile->zeros + group * GH_PANEL;
        const float *scales = tile->scales + group * GH_PANEL;
        for (size_t token = 0; token < tile->num_tokens; token++) {
            int32_t sums[GH_PANEL];
            sum_group(tile, group, token, sums);
            float activation_scale = tile->activation_scales[group * tile->num_tokens + token];
            int32_t activation_sum = tile->activation_sums[group * tile->num_tokens + token];
            for (int output = 0; output < GH_PANEL; output++) {
                float total = (float)(sums[output] - zeros[output] * activation_sum);
                float scale = activation_scale * scales[output];
                result[token][output] += scale * total;
            }
        }
    }
}
