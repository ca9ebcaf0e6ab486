/* float16 <-> float32 in plain C, bit for bit what F16C does: round to nearest even, NaN made quiet.
 *
 *   float16   s eeeee mmmmmmmmmm                       bias 15
 *   float32   s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm       bias 127
 */
#ifndef GH_HALF_H
#define GH_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t gh_bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float gh_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float gh_half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = (half >> 10) & 0x1f;
    uint32_t mantissa = half & 0x3ff;
    if (exponent == 0x1f) {
        return gh_float_of_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa != 0 ? 0x400000 : 0));
    }
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact in float32 */
        return gh_float_of_bits(sign | gh_bits_of_float((float)mantissa * 0x1p-24f));
    }
    return gh_float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t gh_float_to_half(float value) {
    uint32_t bits = gh_bits_of_float(value);
    uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) { /* NaN: quiet, upper payload bits kept */
        return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x3ff));
    }
    if (bits >= 0x477ff000) { /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    }
    if (bits < 0x38800000) { /* below 2^-14: adding 0.5 aligns the mantissa to 2^-24 and rounds it */
        float aligned = gh_float_of_bits(bits) + 0.5f;
        return (uint16_t)(sign | (gh_bits_of_float(aligned) - 0x3f000000));
    }
    uint32_t is_odd = bits >> 13 & 1;
    return (uint16_t)(sign | (bits - (112u << 23) + 0xfff + is_odd) >> 13);
}

#endif
