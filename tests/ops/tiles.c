/* Multiplies tiles of every shape by TILE, one variant of the W4A8 tile, and by the portable one, and prints how many
 * there were and how many differ in any bit:
 *
 *   864 tiles, 0 differ
 *
 * test_instruction_sets.py runs it on emulated intrinsics, bare.py on an emulated processor, where there is no C
 * library: it needs main, printf and memcmp.
 */
#include "kernels.h"

#include <stdio.h>
#include <string.h>

void gh_w4a8_portable(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]);
void TILE(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]);

enum { MAX_GROUPS = 3, MAX_QUADS = GH_MAX_GROUP / GH_QUAD, REPETITIONS = 4 };

static uint8_t codes[MAX_GROUPS * MAX_QUADS * 2 * GH_QUAD_BYTES];
static uint8_t zeros[MAX_GROUPS * GH_PANEL];
static float scales[MAX_GROUPS * GH_PANEL];
static uint16_t half_scales[MAX_GROUPS * GH_PANEL];
static int8_t activations[MAX_GROUPS * MAX_QUADS * GH_TOKENS * GH_QUAD];
static float activation_scales[MAX_GROUPS * GH_TOKENS];
static float activation_offsets[MAX_GROUPS * GH_TOKENS];
static const bool are_small[MAX_GROUPS];
static float expected[GH_TOKENS][GH_PANEL];
static float found[GH_TOKENS][GH_PANEL];

static uint64_t state = 1;

static uint32_t next_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static void draw_floats(float *numbers, size_t count) { /* -4 .. 4, with all bits of a float in use */
    for (size_t i = 0; i < count; i++) {
        numbers[i] = (float)((int32_t)(next_bits() & 0xffffff) - 0x800000) / 2097152.0f;
    }
}

static void draw_halves(uint16_t *numbers, size_t count) { /* no infinity, no NaN; subnormal ones included */
    for (size_t i = 0; i < count; i++) {
        numbers[i] = (uint16_t)(next_bits() & 0xbbff);
    }
}

/* The last repetition has the largest numbers that there are, with either sign. */
static void draw_integers(bool is_unpacked, bool is_largest) {
    for (size_t i = 0; i < sizeof codes; i++) {
        codes[i] = (uint8_t)(is_largest ? 0xff : next_bits()) & (is_unpacked ? 0x0f : 0xff);
    }
    for (size_t i = 0; i < sizeof zeros; i++) {
        zeros[i] = (uint8_t)(next_bits() & 15);
    }
    int8_t largest = next_bits() & 1 ? 127 : -128;
    for (size_t i = 0; i < sizeof activations; i++) {
        activations[i] = is_largest ? largest : (int8_t)(next_bits() & 0xff);
    }
}

static bool is_equal(size_t num_tokens, size_t num_quads, size_t num_groups, bool is_unpacked, bool is_largest) {
    draw_integers(is_unpacked, is_largest);
    draw_floats(scales, MAX_GROUPS * GH_PANEL);
    draw_halves(half_scales, MAX_GROUPS * GH_PANEL);
    bool has_half_scales = next_bits() & 1;
    draw_floats(activation_scales, MAX_GROUPS * GH_TOKENS);
    draw_floats(activation_offsets, MAX_GROUPS * GH_TOKENS);
    draw_floats(&expected[0][0], GH_TOKENS * GH_PANEL);
    memcpy(found, expected, sizeof found);
    gh_w4a8_tile tile = {
        .codes = codes,
        .zeros = zeros,
        .scales = has_half_scales ? (const void *)half_scales : (const void *)scales,
        .has_half_scales = has_half_scales,
        .is_unpacked = is_unpacked,
        .num_groups = num_groups,
        .num_quads = num_quads,
        .num_tokens = num_tokens,
        .activations = activations,
        .activation_scales = activation_scales,
        .activation_offsets = activation_offsets,
        .are_small = are_small,
    };
    gh_w4a8_portable(&tile, expected);
    TILE(&tile, found);
    return memcmp(expected, found, sizeof found) == 0; /* rows beyond num_tokens stay as they were */
}

int main(void) {
    static const size_t quads[] = {1, 2, 3, 8, 11, MAX_QUADS};
    int num_tiles = 0;
    int num_different = 0;
    for (size_t q = 0; q < sizeof quads / sizeof *quads; q++) {
        for (size_t tokens = 1; tokens <= GH_TOKENS; tokens++) {
            for (size_t groups = 1; groups <= MAX_GROUPS; groups++) {
                for (int i = 0; i < 2 * REPETITIONS; i++) {
                    num_different += !is_equal(tokens, quads[q], groups, i % 2 == 0, i / 2 == REPETITIONS - 1);
                    num_tiles++;
                }
            }
        }
    }
    printf("%d tiles, %d differ\n", num_tiles, num_different);
    return num_different != 0;
}
