/* exp for eight lanes, within 2 units in the last place; exp(0) is exactly 1 and NaN stays NaN.
 *
 *   x = n ln 2 + r,  |r| <= ln 2 / 2,  exp(x) = 2^n * exp(r)
 *
 * n comes from adding 1.5 * 2^23, which rounds to the nearest integer and leaves it in the low mantissa bits.
 * exp(r) is its Taylor polynomial of degree 7 (remainder below 6e-9 relative).
 * Beyond what a normal 2^n can scale, the answer is 0 (x < -87) or infinity (x > 88): float32's own limits, drawn in a
 * little.
 */
#ifndef GH_EXP_H
#define GH_EXP_H

#include "lanes.h"

GH_INLINE lanes lanes_exp(lanes x) {
    const lanes shift = lanes_set1(0x1.8p23f);
    lanes shifted = lanes_fma(x, lanes_set1(0x1.715476p+0f), shift); /* log2(e) */
    lanes n = lanes_sub(shifted, shift);
    lanes r = lanes_fma(n, lanes_set1(-0x1.62e4p-1f), x); /* ln 2 in two parts: the first has 15 bits, */
    r = lanes_fma(n, lanes_set1(-0x1.7f7d1cp-20f), r);    /* so n times it is exact */
    lanes p = lanes_set1(1.0f / 5040);
    p = lanes_fma(p, r, lanes_set1(1.0f / 720));
    p = lanes_fma(p, r, lanes_set1(1.0f / 120));
    p = lanes_fma(p, r, lanes_set1(1.0f / 24));
    p = lanes_fma(p, r, lanes_set1(1.0f / 6));
    p = lanes_fma(p, r, lanes_set1(0.5f));
    p = lanes_fma(p, r, lanes_set1(1.0f));
    p = lanes_fma(p, r, lanes_set1(1.0f));
    lanes y = lanes_mul(p, lanes_power_of_two(shifted));
    y = lanes_where_less(x, lanes_set1(-87.0f), lanes_set1(0.0f), y);
    return lanes_where_less(lanes_set1(88.0f), x, lanes_set1(INFINITY), y);
}

#endif
