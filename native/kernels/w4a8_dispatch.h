// From a tile's number of tokens to a loop unrolled for it. Included by a variant of the product, behind its own
//
//     multiply_groups(tile, is_unpacked, num_tokens, result)     inlined with num_tokens constant
#pragma once

GH_INLINE void multiply_tokens(const gh_w4a8_tile *tile, bool is_unpacked, float (*result)[GH_PANEL]) {
    switch (tile->num_tokens) {
    case 1:
        multiply_groups(tile, is_unpacked, 1, result);
        break;
    case 2:
        multiply_groups(tile, is_unpacked, 2, result);
        break;
    case 3:
        multiply_groups(tile, is_unpacked, 3, result);
        break;
    case 4:
        multiply_groups(tile, is_unpacked, 4, result);
        break;
    case 5:
        multiply_groups(tile, is_unpacked, 5, result);
        break;
    case GH_TOKENS:
        multiply_groups(tile, is_unpacked, GH_TOKENS, result);
        break;
    default:
        __builtin_unreachable();
    }
}
