/* lanes.h in plain C: the definition that the others answer to. */
typedef struct {
    float lane[GH_LANES];
} lanes;

#define GH_EACH_LANE(expression)                                                                                       \
    lanes result;                                                                                                      \
    for (int i = 0; i < GH_LANES; i++) {                                                                               \
        result.lane[i] = (expression);                                                                                 \
    }                                                                                                                  \
    return result

GH_INLINE lanes lanes_set1(float value) { GH_EACH_LANE(value); }
GH_INLINE lanes lanes_load(const float *p) { GH_EACH_LANE(p[i]); }
GH_INLINE void lanes_store(float *p, lanes a) { memcpy(p, a.lane, sizeof a.lane); }
GH_INLINE lanes lanes_load_half(const uint16_t *p) { GH_EACH_LANE(gh_half_to_float(p[i])); }
GH_INLINE void lanes_store_half(uint16_t *p, lanes a) {
    for (int i = 0; i < GH_LANES; i++) {
        p[i] = gh_float_to_half(a.lane[i]);
    }
}
GH_INLINE lanes lanes_add(lanes a, lanes b) { GH_EACH_LANE(a.lane[i] + b.lane[i]); }
GH_INLINE lanes lanes_sub(lanes a, lanes b) { GH_EACH_LANE(a.lane[i] - b.lane[i]); }
GH_INLINE lanes lanes_mul(lanes a, lanes b) { GH_EACH_LANE(a.lane[i] * b.lane[i]); }
GH_INLINE lanes lanes_div(lanes a, lanes b) { GH_EACH_LANE(a.lane[i] / b.lane[i]); }
GH_INLINE lanes lanes_fma(lanes a, lanes b, lanes c) { GH_EACH_LANE(fmaf(a.lane[i], b.lane[i], c.lane[i])); }
GH_INLINE lanes lanes_max(lanes a, lanes b) { GH_EACH_LANE(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
GH_INLINE lanes lanes_where_less(lanes a, lanes b, lanes chosen, lanes other) {
    GH_EACH_LANE(a.lane[i] < b.lane[i] ? chosen.lane[i] : other.lane[i]);
}
GH_INLINE lanes lanes_power_of_two(lanes shifted) {
    GH_EACH_LANE(gh_float_of_bits((gh_bits_of_float(shifted.lane[i]) + 127) << 23));
}
GH_INLINE void lanes_sum4(const lanes a[4], float sums[4]) {
    for (int v = 0; v < 4; v++) {
        const float *x = a[v].lane;
        sums[v] = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
    }
}

GH_INLINE float lanes_largest(lanes a) {
    for (int half = GH_LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
        }
    }
    return a.lane[0];
}
GH_INLINE void lanes_transpose(lanes a[GH_LANES]) {
    for (int i = 0; i < GH_LANES; i++) {
        for (int j = 0; j < i; j++) {
            float swapped = a[i].lane[j];
            a[i].lane[j] = a[j].lane[i];
            a[j].lane[i] = swapped;
        }
    }
}

#undef GH_EACH_LANE
