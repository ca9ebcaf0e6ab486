/* The table of kernels of the instruction set that this file is compiled for. */
#include "../kernels.h"

const gh_kernels GH_KERNEL(kernels) = {
    .quantize_group = GH_SHARED(quantize_group),
    .w4a8 = GH_KERNEL(w4a8),
    .unpack = GH_SHARED(unpack),
    .dot = GH_SHARED(dot),
    .load_keys = GH_SHARED(load_keys),
    .attend_tile = GH_SHARED(attend_tile),
    .scale = GH_SHARED(scale),
    .halves_to_floats = GH_SHARED(halves_to_floats),
    .floats_to_halves = GH_SHARED(floats_to_halves),
    .rms_norm = GH_SHARED(rms_norm),
    .silu_mul = GH_SHARED(silu_mul),
    .add = GH_SHARED(add),
    .rotate = GH_SHARED(rotate),
};
