/* Queries times keys of one head, up to `SHARE` positions at a time. */
#pragma once
#include "products.h"

#define SHARE 128

#if HAS_DOT
INLINE __m512bh two_numbers(const char *from) {
    int32_t both;
    memcpy(&both, from, 4);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* Numbers of a and b side by side, of one half of both. */
INLINE __m512i paired(__m512i a, const int half, __m512i b) {
    const __m512i places = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                            37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    return _mm512_permutex2var_epi16(a, _mm512_add_epi16(places, _mm512_set1_epi16(16 * half)), b);
}

INLINE floats dot(floats sum, __m512bh a, __m512bh b) { return (floats)_mm512_dpbf16_ps((__m512)sum, a, b); }

/* `n` queries times 2 * LANES keys; even and odd pairs of numbers are summed apart, so that few queries need not wait. */
INLINE void score_block(const int n, const char *x, int64_t query, const __m512i *keys, int64_t pairs, float *to) {
    floats sums[24] = {{0}};
    for (int64_t p = 0; p < pairs; p += 2, keys += 4)
#pragma GCC unroll 6
        for (int q = 0; q < n; q++) {
            const __m512bh even = two_numbers(x + q * query + 4 * p), odd = two_numbers(x + q * query + 4 * p + 4);
            sums[4 * q] = dot(sums[4 * q], (__m512bh)keys[0], even);
            sums[4 * q + 1] = dot(sums[4 * q + 1], (__m512bh)keys[1], even);
            sums[4 * q + 2] = dot(sums[4 * q + 2], (__m512bh)keys[2], odd);
            sums[4 * q + 3] = dot(sums[4 * q + 3], (__m512bh)keys[3], odd);
        }
#pragma GCC unroll 6
    for (int q = 0; q < n; q++) {
        *(floats *)(to + q * SHARE) = sums[4 * q] + sums[4 * q + 2];
        *(floats *)(to + q * SHARE + LANES) = sums[4 * q + 1] + sums[4 * q + 3];
    }
}
#endif

/* `made` for as many of `n` queries at a time as their sums find registers. */
#if LANES == 16
#define SOME(n, made)                         \
    for (; q + 6 <= (n); q += 6) { made(6); } \
    for (; q + 3 <= (n); q += 3) { made(3); } \
    for (; q < (n); q++) { made(1); }
#else
#define SOME(n, made)                         \
    for (; q + 2 <= (n); q += 2) { made(2); } \
    for (; q < (n); q++) { made(1); }
#endif

#if HAS_TURN
/* `n` queries times 4 * LANES keys, one in each lane: keys[4 * i] to keys[4 * i + 3] hold number i of them. */
INLINE void score_lanes(const int n, const float *x, const floats *keys, int64_t size, float *to) {
    floats sums[12] = {{0}};
    for (int64_t i = 0; i < size; i++, keys += 4) {
        floats numbers[3];
#pragma GCC unroll 3
        for (int q = 0; q < n; q++) {
            floats one = everywhere(x[q * size + i]);
            HOLD(one)
            numbers[q] = one;
        }
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            floats key = keys[v];
            HOLD(key)
#pragma GCC unroll 3
            for (int q = 0; q < n; q++) sums[4 * q + v] = added_here(sums[4 * q + v], key, numbers[q]);
        }
    }
#pragma GCC unroll 3
    for (int q = 0; q < n; q++)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) *(floats *)(to + q * SHARE + v * LANES) = sums[4 * q + v];
}

/* As `score`: keys are turned, as floats and in the order of prepared queries. */
static void score_turned(int64_t kind, const char *keys, int64_t size, int64_t count, const char *x, int64_t queries,
                         float *scores, floats *turned) {
    const int64_t row = size * WEIGHT_BYTES(kind), step = kind == FLOAT32 ? LANES : 2 * LANES;
    for (int64_t t = 0; t < count; t += 4 * LANES) {
        for (int64_t i = 0; i < size; i += step)
            for (int64_t v = 0; v < 4; v++) {
                words w[LANES];
                floats *to = turned + 4 * i + v;
                turn(keys + (t + v * LANES) * row + i * WEIGHT_BYTES(kind), row, w);
                for (int64_t j = 0; j < LANES; j++) {
                    to[4 * j] = kind == FLOAT32 ? (floats)w[j] : evens(w[j]);
                    if (kind != FLOAT32) to[4 * (LANES + j)] = odds(w[j]);
                }
            }
        int64_t q = 0;
#define SCORE_LANES(n) score_lanes(n, (const float *)x + q * size, turned, size, scores + q * SHARE + t)
        for (; q + 3 <= queries; q += 3) SCORE_LANES(3);
        for (; q < queries; q++) SCORE_LANES(1);
    }
}
#endif

/* scores[q * SHARE + t] = query q times key t. What stands behind the last key is of no meaning. */
static void score(int64_t kind, const char *keys, int64_t size, int64_t count, const char *x, int64_t queries,
                  float *scores, float *own) {
#if HAS_DOT
    if (kind == BFLOAT16) { /* a key in each lane, so that nothing is summed across a vector */
        __m512i *turned = (__m512i *)(((uintptr_t)own + 63) / 64 * 64);
        for (int64_t t = 0; t < count; t += 2 * LANES) {
            for (int64_t i = 0; i < 4 * LANES * size; i += 64) /* those after next */
                __builtin_prefetch(keys + 2 * (t + 2 * LANES) * size + i, 0, 2);
            for (int64_t d = 0; d < size; d += 2 * LANES) {
                turn(keys + t * 2 * size + 2 * d, 2 * size, turned + d, 2);
                turn(keys + (t + LANES) * 2 * size + 2 * d, 2 * size, turned + d + 1, 2);
            }
            int64_t q = 0;
#define SCORE(n) score_block(n, x + q * 2 * size, 2 * size, turned, size / 2, scores + q * SHARE + t)
            SOME(queries, SCORE)
        }
        return;
    }
#elif HAS_TURN
    score_turned(kind, keys, size, count, x, queries, scores, (floats *)(((uintptr_t)own + 63) / 64 * 64));
    return;
#endif
    (void)own;
    product(kind, keys, size, 0, count, x, queries, scores, SHARE);
}
