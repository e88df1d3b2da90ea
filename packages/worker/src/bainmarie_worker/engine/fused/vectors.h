/* Vectors of the processor's width, and the functions of numbers that they make fast. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define WIDE_ROWS 6 /* of one whose weights are floats */
#elif defined(__AVX__)
#define LANES 8
#define WIDE_ROWS 3
#else
#define LANES 4
#define WIDE_ROWS 3
#endif
#define OUTPUTS 4 /* of one block */
#define LINE 64 /* bytes that memory gives at once */
#define AHEAD 4096 /* bytes of weights that are under way at least */
#define FAR 32768 /* and at most, behind the next block */

#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && LANES == 16
#define HAS_DOT 1
#define MOST_ROWS 6 /* of one block */
#else
#define HAS_DOT 0
#define MOST_ROWS 2
#endif
/* Whether sums come as fast as memory where one output is made after the other. */
#define ALONE(kind) (LANES == 16 && (kind) != INT8)

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
#define INLINE static inline __attribute__((always_inline))

/* sum + a * b. Said outright: where GCC may choose, it makes one instruction of it in some loops and two in others, for
 * AMD's processors and some of Intel's, and a row's sums would hang on the loop that made them. */
INLINE floats added(floats sum, floats a, floats b) {
#if defined(__AVX512F__)
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    return (floats)vfmaq_f32((float32x4_t)sum, (float32x4_t)a, (float32x4_t)b);
#else
    return sum + a * b;
#endif
}

#if defined(__AVX__)
#define HOLD(v) __asm__("" : "+v"(v));
#else
#define HOLD(v)
#endif

/* The same into the register of the sum, where the compiler would rather take another and move. */
INLINE floats added_here(floats sum, floats a, floats b) {
#if defined(__FMA__)
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    return added(sum, a, b);
#endif
}

INLINE floats everywhere(float x) { return x - (floats){0}; } /* a difference, which keeps the sign of 0, is left out */

INLINE floats of_bytes(const char *from) {
#if defined(__AVX512F__)
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__) && defined(__FMA__)
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    return __builtin_convertvector(*(const bytes *)from, floats);
#endif
}

#if HAS_DOT
/* 32 numbers of one byte as bf16, exactly. */
INLINE __m512bh from_int8(const char *from) {
    const __m128i *both = (const __m128i *)from;
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(both)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(both + 1)));
    return _mm512_cvtne2ps_pbh(high, low);
}

/* The words of 16 rows, turned: to[step * w] holds word w of each. */
INLINE void turn(const char *from, int64_t row, __m512i *to, const int step) {
    __m512i a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i += 2) {
        const __m512i even = _mm512_loadu_si512(from + i * row), odd = _mm512_loadu_si512(from + (i + 1) * row);
        a[i] = _mm512_unpacklo_epi32(even, odd);
        a[i + 1] = _mm512_unpackhi_epi32(even, odd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarters of vectors: 0 and 2 of both, or 1 and 3 */
        const __m512i c = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88), d = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
        const __m512i e = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
        const __m512i f = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
        to[step * i] = _mm512_shuffle_i32x4(c, e, 0x88);
        to[step * (4 + i)] = _mm512_shuffle_i32x4(d, f, 0x88);
        to[step * (8 + i)] = _mm512_shuffle_i32x4(c, e, 0xdd);
        to[step * (12 + i)] = _mm512_shuffle_i32x4(d, f, 0xdd);
    }
}
#endif

#if LANES == 8 && defined(__AVX2__) && defined(__FMA__)
#define HAS_TURN 1
/* The words of 8 rows, turned: to[w] holds word w of each. */
INLINE void turn(const char *from, int64_t row, words *to) {
    __m256 a[LANES], b[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        const __m256 even = _mm256_loadu_ps((const float *)(from + i * row));
        const __m256 odd = _mm256_loadu_ps((const float *)(from + (i + 1) * row));
        a[i] = _mm256_unpacklo_ps(even, odd);
        a[i + 1] = _mm256_unpackhi_ps(even, odd);
    }
#pragma GCC unroll 2
    for (int i = 0; i < LANES; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        to[i] = (words)_mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        to[i + 4] = (words)_mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}
#else
#define HAS_TURN 0
#endif

INLINE uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to the nearest, ties to even */
}

INLINE float from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE floats evens(words pairs) { return (floats)(pairs << 16); }
INLINE floats odds(words pairs) { return (floats)(pairs & 0xffff0000u); }

/* [pairs of a, pairs of b], each summed. */
INLINE floats folded(floats a, floats b) {
#if LANES == 16
#define EACH_SECOND(n) n, n + 2, n + 4, n + 6, n + 8, n + 10, n + 12, n + 14, n + 16, n + 18, n + 20, n + 22, n + 24, n + 26, n + 28, n + 30
#elif LANES == 8
#define EACH_SECOND(n) n, n + 2, n + 4, n + 6, n + 8, n + 10, n + 12, n + 14
#else
#define EACH_SECOND(n) n, n + 2, n + 4, n + 6
#endif
    return __builtin_shufflevector(a, b, EACH_SECOND(0)) + __builtin_shufflevector(a, b, EACH_SECOND(1));
}

/* In the order of `four_totals`. */
INLINE float total(floats v) {
    for (int width = LANES; width > 1; width /= 2) v = folded(v, v);
    return v[0];
}

/* The totals of four vectors. */
INLINE void four_totals(const floats *sums, float *to) {
    floats all = folded(folded(sums[0], sums[1]), folded(sums[2], sums[3]));
    for (int width = LANES / 4; width > 1; width /= 2) all = folded(all, all);
    for (int i = 0; i < 4; i++) to[i] = all[i];
}

INLINE floats chosen(ints where, floats yes, floats no) { return (floats)((where & (ints)yes) | (~where & (ints)no)); }

INLINE float largest(floats v) {
#if HAS_DOT
    return _mm512_reduce_max_ps((__m512)v);
#endif
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

INLINE floats larger(floats a, floats b) {
#if HAS_DOT
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return chosen(a > b, a, b);
#endif
}

/* e^x by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf coefficients); about 1 ulp. */
INLINE floats exponential(floats x) {
#if HAS_DOT
    const floats low = (floats)_mm512_max_ps(_mm512_set1_ps(-104.0f), (__m512)x); /* whose power is 0 */
    const floats whole = (floats)_mm512_roundscale_ps((__m512)(low * 1.44269504088896341f), 0);
    floats f = low - whole * 0.693359375f;
#else
    x = chosen(x < -87.3f, (floats){0} - 87.3f, chosen(x > 88.3f, (floats){0} + 88.3f, x));
    const floats scaled = x * 1.44269504088896341f;
    const floats magic = (floats){0} + 12582912.0f; /* adding it rounds to a whole number */
    const floats whole = (scaled + magic) - magic;
    floats f = x - whole * 0.693359375f;
#endif
    f = f - whole * -2.12194440e-4f;
    floats y = (floats){0} + 1.9875691500e-4f;
    y = y * f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1.0f;
#if HAS_DOT
    return (floats)_mm512_scalef_ps((__m512)y, (__m512)whole);
#else
    const ints power = (__builtin_convertvector(whole, ints) + 127) << 23;
    return y * (floats)power;
#endif
}

/* cap * tanh(x / cap) */
INLINE floats capped(floats x, float cap) { return cap - 2.0f * cap / (1.0f + exponential(x * (2.0f / cap))); }

INLINE floats activated(int64_t activation, floats x) {
    if (activation == SILU) return x / (1.0f + exponential(-x));
    if (activation == SQUARED) return larger(x, (floats){0}) * larger(x, (floats){0});
    if (activation == GELU_TANH) { /* x times the logistic function of 2 sqrt(2 / pi) (x + 0.044715 x^3) */
        const floats inner = 1.5957691216057308f * (x + 0.044715f * x * x * x);
        return x / (1.0f + exponential(-inner));
    }
    floats y;
    for (int i = 0; i < LANES; i++) y[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
    return y;
}

static void normalized(const float *x, const float *weight, int64_t count, float epsilon, float *to) {
    floats squares = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        const floats v = *(const floats *)(x + i);
        squares += v * v;
    }
    const float by = 1.0f / sqrtf(total(squares) / (float)count + epsilon);
    for (int64_t i = 0; i < count; i += LANES)
        *(floats *)(to + i) = *(const floats *)(x + i) * by * *(const floats *)(weight + i);
}
