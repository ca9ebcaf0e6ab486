/* The W4A8 tile for AArch64 with the dot product instructions. w4a8_portable.c draws the layout and defines the result;
 * this gives the same bits.
 *
 * A quad's 32 bytes hold 16 outputs x 4 input rows in nibbles; a token's four activations are broadcast to all lanes:
 *
 *   codes         s8  o0k0 o0k1 o0k2 o0k3 | o1k0 ... | o2k0 ... | o3k0 ...        sdot        s32  o0 | o1 | o2 | o3
 *   activations   s8  a0   a1   a2   a3   | a0   ... | a0   ... | a0   ...       ─────►            of four input rows
 *
 * 6 tokens x 4 vectors of sums, four of codes and one broadcast are 29 of 32 registers.
 */
#include "w4a8_quads.h"

enum { QUARTERS = 4, QUARTER = 4, BYTES = 16 };

GH_INLINE void load_codes(quad_run run, int8x16_t codes[QUARTERS]) {
    if (run.is_unpacked) {
#pragma GCC unroll 4
        for (size_t i = 0; i < QUARTERS; i++) {
            codes[i] = vreinterpretq_s8_u8(vld1q_u8(run.codes + i * BYTES));
        }
    } else {
        const uint8x16_t nibble = vdupq_n_u8(15);
#pragma GCC unroll 2
        for (size_t i = 0; i < 2; i++) {
            uint8x16_t pair = vld1q_u8(run.codes + i * BYTES);
            codes[i] = vreinterpretq_s8_u8(vandq_u8(pair, nibble));
            codes[i + 2] = vreinterpretq_s8_u8(vshrq_n_u8(pair, 4));
        }
    }
}

GH_INLINE void add_quad(int32x4_t (*sums)[QUARTERS], quad_run run) {
    int8x16_t codes[QUARTERS];
    load_codes(run, codes);
    GH_EACH_TOKEN(t, run.num_tokens) {
        int8x16_t word = vreinterpretq_s8_s32(vdupq_n_s32(word_of(run, t)));
#pragma GCC unroll 4
        for (size_t i = 0; i < QUARTERS; i++) {
            sums[t][i] = vdotq_s32(sums[t][i], codes[i], word);
        }
    }
}

GH_INLINE float32x4_t load_scales(const gh_w4a8_tile *tile, size_t first) {
    return tile->has_half_scales ? vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)tile->scales + first)))
                                 : vld1q_f32((const float *)tile->scales + first);
}

/* target [4] += activation_scale * (scale * total) + activation_offset * (scale * zero) */
GH_INLINE void apply_scales(const gh_w4a8_tile *tile, size_t group, size_t quarter, int32x4_t total, size_t token,
                            float *target) {
    size_t first = group * GH_PANEL + quarter * QUARTER;
    size_t index = group * tile->num_tokens + token;
    float32x4_t scales = load_scales(tile, first);
    const uint8_t *bytes = tile->zeros + first;
    const float zeros[QUARTER] = {bytes[0], bytes[1], bytes[2], bytes[3]};
    float32x4_t scaled = vmulq_f32(scales, vcvtq_f32_s32(total));
    float32x4_t updated = vfmaq_n_f32(vld1q_f32(target), scaled, tile->activation_scales[index]);
    float32x4_t scaled_zeros = vmulq_f32(scales, vld1q_f32(zeros));
    vst1q_f32(target, vfmaq_n_f32(updated, scaled_zeros, tile->activation_offsets[index]));
}

/* `is_unpacked` and `num_tokens` are constants wherever this is used, so that sums stay in registers. */
GH_INLINE void multiply_groups(const gh_w4a8_tile *tile, bool is_unpacked, size_t num_tokens,
                               float (*result)[GH_PANEL]) {
    quad_run run = {tile->codes, tile->activations, num_tokens, is_unpacked};
    for (size_t group = 0; group < tile->num_groups; group++) {
        int32x4_t sums[GH_TOKENS][QUARTERS];
        GH_EACH_TOKEN(t, num_tokens) {
#pragma GCC unroll 4
            for (size_t i = 0; i < QUARTERS; i++) {
                sums[t][i] = vdupq_n_s32(0);
            }
        }
        for (size_t quad = 0; quad < tile->num_quads; quad++) {
            add_quad(sums, run);
            run = skip_quads(run, 1);
        }
        GH_EACH_TOKEN(t, num_tokens) {
#pragma GCC unroll 4
            for (size_t i = 0; i < QUARTERS; i++) {
                apply_scales(tile, group, i, sums[t][i], t, result[t] + i * QUARTER);
            }
        }
    }
}

#include "w4a8_dispatch.h"

void GH_KERNEL(w4a8)(const gh_w4a8_tile *tile, float (*result)[GH_PANEL]) {
    if (tile->is_unpacked) {
        multiply_tokens(tile, true, result);
    } else {
        multiply_tokens(tile, false, result);
    }
}

void GH_KERNEL(unpack)(const uint8_t *codes, size_t num_quads, uint8_t *bytes) {
    for (size_t quad = 0; quad < num_quads; quad++) {
        int8x16_t wide[QUARTERS];
        load_codes((quad_run){.codes = codes + quad * GH_QUAD_BYTES}, wide);
#pragma GCC unroll 4
        for (size_t i = 0; i < QUARTERS; i++) {
            vst1q_u8(bytes + quad * 2 * GH_QUAD_BYTES + i * BYTES, vreinterpretq_u8_s8(wide[i]));
        }
    }
}
