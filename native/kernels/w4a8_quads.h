/* A run of quads of one tile: where a variant of the product stands, whatever instructions it multiplies them with. */
#pragma once

#include "../kernels.h"
#include "../lanes.h"

/* `num_tokens` and the form of the codes are constants wherever this is used. */
typedef struct {
    const uint8_t *codes;
    const int8_t *activations;
    size_t num_tokens;
    bool is_unpacked;
} quad_run;

GH_INLINE quad_run skip_quads(quad_run run, size_t count) {
    run.codes += count * (run.is_unpacked ? 2 * GH_QUAD_BYTES : GH_QUAD_BYTES);
    run.activations += count * run.num_tokens * GH_QUAD;
    return run;
}

/* The four activations of token t in the first quad. */
GH_INLINE int32_t word_of(quad_run run, size_t t) {
    int32_t word;
    memcpy(&word, run.activations + t * GH_QUAD, sizeof word);
    return word;
}
