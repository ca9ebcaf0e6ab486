/* Prepares, quantises and interleaves the rows of a W4A8 product; activations.h draws the result.
 *
 * Norm and gate run here, row by row in a thread's own scratch memory, so that what they make is still in the
 * first-level cache when it is quantised and no array of it is ever written.
 */
#include "activations.h"

#include <string.h>

size_t gh_activation_bytes(size_t num_tokens, size_t num_groups, size_t num_quads) {
    return num_tokens * num_groups * (num_quads * GH_QUAD + 2 * sizeof(float)) + GH_MAX_BLOCKS * num_groups;
}

void gh_activations_lay_out(gh_activations *activations, void *memory) {
    size_t num_tokens = activations->num_tokens;
    size_t num_blocks = gh_ceil_div(num_tokens, GH_TOKENS);
    activations->num_blocks = num_blocks;
    for (size_t block = 0; block <= num_blocks; block++) {
        activations->first_tokens[block] = num_blocks > 0 ? block * num_tokens / num_blocks : 0;
    }
    activations->scales = memory;
    activations->offsets = activations->scales + num_tokens * activations->num_groups;
    activations->codes = (int8_t *)(activations->offsets + num_tokens * activations->num_groups);
    activations->are_small =
        (bool *)(activations->codes + num_tokens * activations->num_groups * activations->num_quads * GH_QUAD);
}

static const float *prepare_row(const gh_activations *a, size_t token, float *buffer) {
    const gh_input *input = &a->input;
    size_t width = input->width;
    const float *row = input->x + token * width;
    switch (input->preparation) {
    case GH_NORMED:
        a->kernels->rms_norm(row, input->norm, input->eps, width, buffer);
        return buffer;
    case GH_GATED:
        row = input->x + token * 2 * width;
        a->kernels->silu_mul(row, row + width, width, buffer);
        return buffer;
    default:
        return row;
    }
}

/* codes [quads, 4] of one token -> target [quads, num_tokens, 4] */
static void interleave(const int8_t *codes, size_t num_quads, size_t num_tokens, int8_t *target) {
    for (size_t quad = 0; quad < num_quads; quad++) {
        memcpy(target + quad * num_tokens * GH_QUAD, codes + quad * GH_QUAD, GH_QUAD);
    }
}

void gh_quantize_block(void *argument, size_t block, void *scratch) {
    const gh_activations *a = argument;
    size_t first_token = a->first_tokens[block];
    size_t num_tokens = a->first_tokens[block + 1] - first_token;
    size_t group_size = a->input.width / a->num_groups;
    size_t bytes_per_group = a->num_quads * GH_QUAD;
    for (size_t t = 0; t < num_tokens; t++) {
        const float *row = prepare_row(a, first_token + t, scratch);
        for (size_t begin = 0; begin < a->num_groups; begin += a->groups_per_chunk) {
            size_t end = gh_min(begin + a->groups_per_chunk, a->num_groups);
            size_t first = gh_tile_offset(a, begin, end, block);
            bool *are_small = a->are_small + gh_group_offset(a, begin, end, block);
            for (size_t group = begin; group < end; group++, first += num_tokens) {
                int8_t codes[GH_MAX_GROUP];
                gh_quantized_group quantized = a->kernels->quantize_group(row + group * group_size, group_size, codes);
                a->scales[first + t] = quantized.scale;
                a->offsets[first + t] = quantized.offset;
                are_small[group - begin] = quantized.is_small && (t == 0 || are_small[group - begin]);
                interleave(codes, a->num_quads, num_tokens, a->codes + first * bytes_per_group + t * GH_QUAD);
            }
        }
    }
}
