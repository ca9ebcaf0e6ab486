/* The table of kernels of the instruction set that this file is compiled for. */
#include "../kernels.h"

const gh_kernels GH_KERNEL(kernels) = {
    .quantize_group = GH_KERNEL(quantize_group),
    .w4a8 = GH_KERNEL(w4a8),
    .unpack = GH_KERNEL(unpack),
    .dot = GH_KERNEL(dot),
    .load_keys = GH_KERNEL(load_keys),
    .attend_tile = GH_KERNEL(attend_tile),
    .scale = GH_KERNEL(scale),
    .halves_to_floats = GH_KERNEL(halves_to_floats),
    .floats_to_halves = GH_KERNEL(floats_to_halves),
    .rms_norm = GH_KERNEL(rms_norm),
    .silu_mul = GH_KERNEL(silu_mul),
    .add = GH_KERNEL(add),
    .rotate = GH_KERNEL(rotate),
};
