/* What this processor can do at most, for machine.py: products of u8 x s8, and reading memory. AVX2. */
#include <immintrin.h>
#include <stddef.h>

/* Twelve independent running sums, as a matrix kernel has them: per round, 12 maddubs (32 products each) and 12 paddw.
 */
void probe_product(long rounds) {
    __m256i sums[12];
    __m256i codes = _mm256_set1_epi8(3);
    __m256i activations = _mm256_set1_epi8(-2);
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
        sums[i] = _mm256_setzero_si256();
    }
    for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            __m256i product; /* in assembly, or the compiler would compute the same product once */
            __asm__ volatile("vpmaddubsw %1, %2, %0" : "=x"(product) : "x"(activations), "x"(codes));
            sums[i] = _mm256_add_epi16(sums[i], product);
            __asm__ volatile("" : "+x"(sums[i]));
        }
    }
}

/* `count` is a multiple of 128. */
void probe_read(const char *bytes, size_t count) {
    __m256i seen = _mm256_setzero_si256();
    for (size_t i = 0; i < count; i += 128) {
        _mm_prefetch(bytes + i + 2048, _MM_HINT_T0);
        _mm_prefetch(bytes + i + 2112, _MM_HINT_T0);
#pragma GCC unroll 4
        for (size_t part = 0; part < 128; part += 32) {
            seen = _mm256_xor_si256(seen, _mm256_loadu_si256((const __m256i *)(bytes + i + part)));
        }
    }
    __asm__ volatile("" : : "x"(seen));
}
