/* Runs every operation of native/guardhouse.h on numbers that are the same on every machine, with each instruction set
 * that this one has, and prints a digest of all result bits:
 *
 *   portable 0123456789abcdef
 *   neon     0123456789abcdef
 *
 * test_instruction_sets.py compiles it for several processors and compares.
 */
#include "guardhouse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOKENS = 200,
    HEADS = 6,
    KV_HEADS = 2,
    HEAD_DIM = 40,
    BLOCKS = 24,
    BLOCK_SIZE = 16,
    QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM
};

static uint64_t digest;
static uint64_t state;

static void add_bytes(const void *bytes, size_t count) { /* FNV-1a */
    for (size_t i = 0; i < count; i++) {
        digest = (digest ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
    }
}

static uint32_t next_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float next_float(void) { return (float)((int32_t)(next_bits() & 0xffff) - 0x8000) / 8192.0f; } /* -4 .. 4 */

static float *floats(size_t count) {
    float *numbers = malloc((count + 1) * sizeof *numbers);
    for (size_t i = 0; i < count; i++) {
        numbers[i] = next_float();
    }
    return numbers;
}

static uint16_t *some_halves(size_t count) { /* no infinity, no NaN; small ones included */
    uint16_t *numbers = malloc((count + 1) * sizeof *numbers);
    for (size_t i = 0; i < count; i++) {
        numbers[i] = (uint16_t)(next_bits() & 0xbbff);
    }
    return numbers;
}

static uint8_t *codes(size_t count) {
    uint8_t *numbers = malloc(count + 1);
    for (size_t i = 0; i < count; i++) {
        numbers[i] = next_bits() & 15;
    }
    return numbers;
}

static void check(int status) {
    if (status != GH_OK) {
        fprintf(stderr, "status %d\n", status);
        exit(1);
    }
}

static void multiply_int4(gh_runtime *runtime, int64_t group_size, int64_t num_groups, int64_t num_outputs,
                          int64_t num_tokens, int has_half_scales) {
    int64_t width = group_size * num_groups;
    int64_t panels = (num_outputs + 15) / 16;
    uint8_t *unpacked = codes((size_t)(width * num_outputs));
    uint8_t *packed = calloc((size_t)(panels * num_groups), (size_t)((group_size + 3) / 4 * 32));
    uint8_t *zeros = codes((size_t)(panels * num_groups * 16));
    size_t num_scales = (size_t)(panels * num_groups * 16);
    void *scales = has_half_scales ? (void *)some_halves(num_scales) : (void *)floats(num_scales);
    float *bias = floats((size_t)num_outputs);
    gh_int4_weight weight = {width, num_outputs, group_size, packed, zeros, scales, bias, has_half_scales};
    check(gh_pack_int4(runtime, unpacked, &weight, packed));
    float *x = floats((size_t)(num_tokens * width * 2));
    float *norm = floats((size_t)width);
    float *y = floats((size_t)(num_tokens * num_outputs));
    size_t num_bytes = (size_t)(num_tokens * num_outputs) * sizeof *y;
    check(gh_linear_int4(runtime, x, num_tokens, &weight, y));
    add_bytes(y, num_bytes);
    check(gh_norm_linear_int4(runtime, x, norm, 1e-5f, num_tokens, &weight, y));
    add_bytes(y, num_bytes);
    check(gh_add_linear_int4(runtime, x, num_tokens, &weight, y));
    add_bytes(y, num_bytes);
    check(gh_add_gated_linear_int4(runtime, x, num_tokens, &weight, y));
    add_bytes(y, num_bytes);
    void *all[] = {unpacked, packed, zeros, scales, bias, x, norm, y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
}

static void multiply_dense(gh_runtime *runtime, int64_t width, int64_t num_outputs, int64_t num_tokens, int is_half) {
    float *rows = floats((size_t)(width * num_outputs));
    uint16_t *halves = some_halves((size_t)(width * num_outputs));
    const void *stored = is_half ? (const void *)halves : (const void *)rows;
    gh_dense_weight weight = {width, num_outputs, stored, NULL, is_half};
    float *x = floats((size_t)(num_tokens * width));
    float *y = floats((size_t)(num_tokens * num_outputs));
    check(gh_linear_dense(runtime, x, num_tokens, &weight, y));
    add_bytes(y, (size_t)(num_tokens * num_outputs) * sizeof *y);
    const int32_t ids[] = {(int32_t)num_outputs - 1, 0};
    float *embedded = floats((size_t)(2 * width));
    check(gh_embed(runtime, &weight, ids, 2, embedded));
    add_bytes(embedded, (size_t)(2 * width) * sizeof *embedded);
    void *all[] = {rows, halves, x, y, embedded};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
}

static void run_rows(gh_runtime *runtime, int64_t width) {
    float *x = floats((size_t)(9 * 2 * width));
    float *norm = floats((size_t)width);
    float *y = floats((size_t)(9 * width));
    size_t num_bytes = (size_t)(9 * width) * sizeof *y;
    check(gh_rms_norm(runtime, x, norm, 1e-5f, 9, width, y));
    add_bytes(y, num_bytes);
    check(gh_add(runtime, y, x, 9 * width));
    add_bytes(y, num_bytes);
    for (int64_t i = 0; i < 18 * width; i++) {
        x[i] *= 30.0f; /* beyond what exp can scale */
    }
    check(gh_silu_mul(runtime, x, 9, width, y));
    add_bytes(y, num_bytes);
    free(x);
    free(norm);
    free(y);
}

/* Two sequences that share four blocks: 120 new tokens of one after 70 others, 10 of the other. */
static void attend(gh_runtime *runtime) {
    static uint16_t keys[BLOCKS * KV_HEADS * BLOCK_SIZE * HEAD_DIM];
    static uint16_t values[BLOCKS * KV_HEADS * BLOCK_SIZE * HEAD_DIM];
    static int32_t tables[2][12] = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
                                    {0, 1, 2, 3, 12, -1, -1, -1, -1, -1, -1, -1}};
    int32_t positions[TOKENS];
    int32_t slots[TOKENS];
    int32_t starts[3] = {0, 120, 130};
    int32_t lens[2] = {190, 75};
    memset(keys, 0, sizeof keys);
    memset(values, 0, sizeof values);
    for (int32_t t = 0; t < 130; t++) {
        int sequence = t >= 120;
        positions[t] = sequence ? t - 120 + 65 : t + 70;
        slots[t] = tables[sequence][positions[t] / BLOCK_SIZE] * BLOCK_SIZE + positions[t] % BLOCK_SIZE;
    }
    gh_heads heads = {HEADS, KV_HEADS, HEAD_DIM};
    gh_cache cache = {keys, values, BLOCKS, BLOCK_SIZE};
    gh_batch batch = {positions, slots, starts, lens, &tables[0][0], 130, 2, 12};
    float *cosines = floats(200 * HEAD_DIM / 2);
    float *sines = floats(200 * HEAD_DIM / 2);
    gh_rope rope = {cosines, sines, 200};
    float *qkv = floats(130 * QKV);
    float *out = floats(130 * HEADS * HEAD_DIM);
    check(gh_rope_and_store(runtime, qkv, &heads, &rope, &cache, &batch));
    add_bytes(qkv, 130 * QKV * sizeof *qkv);
    add_bytes(keys, sizeof keys);
    check(gh_attention(runtime, qkv, &heads, &cache, &batch, out));
    add_bytes(out, 130 * HEADS * HEAD_DIM * sizeof *out);
    free(cosines);
    free(sines);
    free(qkv);
    free(out);
}

static void run_all(int isa, const char *name) {
    gh_runtime *runtime = gh_runtime_create(2, isa);
    if (runtime == NULL) {
        return;
    }
    digest = 0xcbf29ce484222325;
    state = 1;
    const int64_t groups[] = {6, 32, 40, 64, 96, 128};
    const int64_t tokens[] = {1, 2, 3, 4, 5, 6, 25, 199};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++) {
            multiply_int4(runtime, groups[g], 3, 37, tokens[t], 0);
            multiply_int4(runtime, groups[g], 3, 37, tokens[t], 1);
        }
    }
    for (int64_t width = 5; width < 150; width += 29) {
        multiply_dense(runtime, width, 23, width % 7 + 1, 0);
        multiply_dense(runtime, width, 23, width % 7 + 1, 1);
        run_rows(runtime, width);
    }
    attend(runtime);
    printf("%s %016llx\n", name, (unsigned long long)digest);
    gh_runtime_destroy(runtime);
}

int main(void) {
    run_all(GH_ISA_PORTABLE, "portable");
    run_all(GH_ISA_AVX2, "avx2");
    run_all(GH_ISA_AVXVNNI, "avxvnni");
    run_all(GH_ISA_AVX512, "avx512");
    run_all(GH_ISA_NEON, "neon");
    return 0;
}
