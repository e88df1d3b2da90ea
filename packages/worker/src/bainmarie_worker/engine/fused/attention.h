/* Attention of a pass: what each row sees of its own sequence's keys and values. */
#pragma once
#include "products.h"
#include "team.h"

typedef struct {
    const decoder *model;
    const pass *asked;
    float *stream;     /* [rows, hidden] the residual stream */
    float *queries;    /* [rows, heads * size] */
    float *keys;       /* [rows, key heads * size] */
    float *values;     /* the same */
    float *seen;       /* [rows, heads * size] what attention gives */
    float *plain;      /* [rows, widest] what becomes input */
    char *input;       /* [rows, widest] prepared */
    char *second;      /* the perceptron's inner input, prepared */
    float *reduced;    /* [3, rows, rank] A x of the matrices of one phase */
    int32_t *starts;   /* [shares + 1] first rows of those that attention looks at together */
    int64_t shares;
    float *own;        /* of each thread */
    int64_t own_count;
} state;

#define SHARE 128 /* positions of attention that are looked at together */
#define QUERIES 24 /* the same of rows times the heads that share keys, where one row has not more */

static char *remembered(const state *s, int64_t row, int64_t at, int value, int64_t head) {
    const decoder *m = s->model;
    const sequence *owner = &s->asked->sequences[s->asked->owners[row]];
    const int64_t place = ((at * 2 + value) * m->key_heads + head) * owner->capacity;
    return (char *)owner->block + place * m->size * WEIGHT_BYTES(m->cache_kind);
}

static void store(int64_t kind, const float *from, char *to, int64_t count) {
    if (kind == FLOAT32) memcpy(to, from, 4 * count);
    else
        for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[i] = to_bf16(from[i]);
}

#if HAS_DOT
/* The words of LANES rows, turned: to[2 * w] holds word w of each. */
INLINE void turn(const char *from, int64_t row, __m512i *to) {
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
        to[2 * i] = _mm512_shuffle_i32x4(c, e, 0x88);
        to[2 * (4 + i)] = _mm512_shuffle_i32x4(d, f, 0x88);
        to[2 * (8 + i)] = _mm512_shuffle_i32x4(c, e, 0xdd);
        to[2 * (12 + i)] = _mm512_shuffle_i32x4(d, f, 0xdd);
    }
}

INLINE __m512bh two_numbers(const char *from) {
    int32_t both;
    memcpy(&both, from, 4);
    return (__m512bh)_mm512_set1_epi32(both);
}

INLINE floats dot(floats sum, __m512bh a, __m512bh b) { return (floats)_mm512_dpbf16_ps((__m512)sum, a, b); }

/* `n` queries times 2 * LANES keys; even and odd pairs of numbers are summed apart, so that few queries need not wait. */
INLINE void score_tile(const int n, const char *x, int64_t query, const __m512i *keys, int64_t pairs, float *to) {
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
                turn(keys + t * 2 * size + 2 * d, 2 * size, turned + d);
                turn(keys + (t + LANES) * 2 * size + 2 * d, 2 * size, turned + d + 1);
            }
            int64_t q = 0;
#define SCORE(n) score_tile(n, x + q * 2 * size, 2 * size, turned, size / 2, scores + q * SHARE + t)
            SOME(queries, SCORE)
        }
        return;
    }
#endif
    product(kind, keys, size, 0, count, x, queries, scores, SHARE);
}

/* to[q][vectors * LANES] += the sum over positions of weight * value, for a part of the values' rows. Where values are
 * bf16, either two positions are multiplied at once, with bf16 weights; or even and odd numbers are apart. */
INLINE void gather_tile(const int64_t kind, const int n, const int vectors, const float *weights, const char *values,
                        int64_t count, int64_t row, float *to, int64_t size) {
    floats sums[24];
#pragma GCC unroll 6
    for (int q = 0; q < n; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[q * vectors + v] = *(floats *)(to + q * size + v * LANES);
#if HAS_DOT
    if (kind == BFLOAT16) {
        const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                               37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
        const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
        for (int64_t t = 0; t < count; t += 2, values += 2 * row)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v += 2) {
                const __m512i a = _mm512_loadu_si512(values + 2 * v * LANES);
                const __m512i b = t + 1 < count ? _mm512_loadu_si512(values + row + 2 * v * LANES) : _mm512_setzero_si512();
                const __m512bh low = (__m512bh)_mm512_permutex2var_epi16(a, first, b);
                const __m512bh high = (__m512bh)_mm512_permutex2var_epi16(a, second, b);
#pragma GCC unroll 6
                for (int q = 0; q < n; q++) {
                    const __m512bh weight = two_numbers((const char *)(weights + q * SHARE) + 2 * t);
                    sums[q * vectors + v] = dot(sums[q * vectors + v], low, weight);
                    sums[q * vectors + v + 1] = dot(sums[q * vectors + v + 1], high, weight);
                }
            }
    } else
#endif
        for (int64_t t = 0; t < count; t++, values += row)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v += 2) {
                floats one, other;
                if (kind == FLOAT32) {
                    one = *(const floats *)(values + 4 * v * LANES);
                    other = *(const floats *)(values + 4 * (v + 1) * LANES);
                } else {
                    const words pairs = *(const words *)(values + 2 * v * LANES);
                    one = evens(pairs);
                    other = odds(pairs);
                }
#pragma GCC unroll 6
                for (int q = 0; q < n; q++) {
                    sums[q * vectors + v] += weights[q * SHARE + t] * one;
                    sums[q * vectors + v + 1] += weights[q * SHARE + t] * other;
                }
            }
#pragma GCC unroll 6
    for (int q = 0; q < n; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) *(floats *)(to + q * size + v * LANES) = sums[q * vectors + v];
}

static void gather(int64_t kind, float *weights, const char *values, int64_t count, int64_t size, int64_t queries,
                   float *to) {
    const int64_t bytes = WEIGHT_BYTES(kind);
#if HAS_DOT
    for (int64_t q = 0; kind == BFLOAT16 && q < queries; q++)
        for (int64_t i = 0; i < SHARE; i += LANES)
            _mm256_storeu_si256((__m256i *)((uint16_t *)(weights + q * SHARE) + i),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(weights + q * SHARE + i)));
#endif
    for (int64_t d = 0; d < size;) {
        const int vectors = size - d >= 4 * LANES ? 4 : 2;
        int64_t q = 0;
#define PART(kind, n, vectors) \
    gather_tile(kind, n, vectors, weights + q * SHARE, values + d * bytes, count, size * bytes, to + q * size + d, size)
#define GATHER(n)                               \
    if (kind == FLOAT32)                        \
        if (vectors == 4) PART(FLOAT32, n, 4);  \
        else PART(FLOAT32, n, 2);               \
    else if (vectors == 4) PART(BFLOAT16, n, 4); \
    else PART(BFLOAT16, n, 2)
        SOME(queries, GATHER)
        d += vectors * LANES;
    }
}

/* Weights of a softmax from scores of the positions that a query sees, `from` to `to` of `SHARE`; all others become 0. `most`
 * and `weight` are the largest score and the sum of weights so far; what was gathered before is scaled down when a larger
 * score turns up. */
static void soften(float *scores, int64_t from, int64_t to, float scaling, float cap, float *most, float *weight,
                   float *gathered, int64_t size) {
    for (int64_t i = 0; i < from; i++) scores[i] = -INFINITY;
    for (int64_t i = to; i % LANES; i++) scores[i] = -INFINITY;
    const int64_t begin = from / LANES * LANES;
    floats highest = (floats){0} - INFINITY;
    for (int64_t i = begin; i < to; i += LANES) {
        floats score = *(floats *)(scores + i) * scaling;
        if (cap > 0) score = chosen(score == -INFINITY, score, capped(score, cap));
        *(floats *)(scores + i) = score;
        highest = chosen(score > highest, score, highest);
    }
    float high = *most;
    for (int i = 0; i < LANES; i++) high = highest[i] > high ? highest[i] : high;
    if (high > *most) {
        const float by = expf(*most - high);
        for (int64_t i = 0; i < size; i++) gathered[i] *= by;
        *weight *= by;
        *most = high;
    }
    floats all = {0};
    for (int64_t i = begin; i < to; i += LANES) {
        const floats score = *(floats *)(scores + i);
        const floats p = chosen(score == -INFINITY, (floats){0}, exponential(score - high));
        all += p;
        *(floats *)(scores + i) = p;
    }
    for (int64_t i = 0; i < begin; i++) scores[i] = 0;
    for (int64_t i = (to + LANES - 1) / LANES * LANES; i < SHARE; i++) scores[i] = 0;
    *weight += total(all);
}

/* Neighbouring rows of one sequence, one key head and all query heads that share it, `SHARE` positions at a time. */
static void attend(state *s, int64_t at, int64_t first, int64_t last, int64_t head, float *own) {
    const decoder *m = s->model;
    const int64_t group = m->heads / m->key_heads, queries = group * (last - first), size = m->size;
    const int64_t kind = m->cache_kind, row = size * WEIGHT_BYTES(kind), window = m->layers[at].window;
    const int32_t *positions = s->asked->positions;
    const int64_t end = positions[last - 1] + 1, unseen = window ? positions[first] + 1 - window : 0;
    const int64_t begin = unseen > 0 ? unseen / SHARE * SHARE : 0;
    float *scores = own, *sums = scores + queries * SHARE, *most = sums + queries * size, *weight = most + queries;
    float *turned = weight + queries + size * queries;
    char *x = (char *)(weight + queries);
    for (int64_t q = 0; q < queries; q++) {
        const float *query = s->queries + ((first + q / group) * m->heads + head * group + q % group) * size;
        prepare(kind, query, x + q * size * INPUT_BYTES(kind), size);
        most[q] = -INFINITY;
        weight[q] = 0;
    }
    memset(sums, 0, 4 * queries * size);
    const char *keys = remembered(s, first, at, 0, head), *values = remembered(s, first, at, 1, head);
    for (int64_t t = begin; t < end; t += SHARE) {
        const int64_t count = end - t < SHARE ? end - t : SHARE;
        for (int64_t i = 0; i < count * row; i += 64) __builtin_prefetch(values + t * row + i, 0, 2);
        score(kind, keys + t * row, size, count, x, queries, scores, turned);
        for (int64_t q = 0; q < queries; q++) {
            const int64_t position = positions[first + q / group];
            const int64_t from = window && position >= window + t ? position + 1 - window - t : 0;
            const int64_t to = position + 1 - t < count ? position + 1 - t : count;
            if (from >= to) memset(scores + q * SHARE, 0, 4 * SHARE);
            else
                soften(scores + q * SHARE, from, to, m->scaling, m->score_cap, most + q, weight + q, sums + q * size, size);
        }
        gather(kind, scores, values + t * row, count, size, queries, sums);
    }
    for (int64_t q = 0; q < queries; q++) {
        float *to = s->seen + ((first + q / group) * m->heads + head * group + q % group) * size, *from = sums + q * size;
        const float by = 1.0f / weight[q];
        if (kind == FLOAT32 || HAS_DOT)
            for (int64_t i = 0; i < size; i++) to[i] = from[i] * by;
        else
            for (int64_t i = 0; i < size; i += 2 * LANES)
                for (int64_t j = 0; j < LANES; j++) {
                    to[i + 2 * j] = from[i + j] * by;
                    to[i + 2 * j + 1] = from[i + LANES + j] * by;
                }
    }
}

static void attention(state *s, int64_t at, float *own) {
    const int64_t heads = s->model->key_heads;
    for (int64_t p = piece(); p < s->shares * heads; p = piece())
        attend(s, at, s->starts[p / heads], s->starts[p / heads + 1], p % heads, own);
    meet(begin_of(&s->model->layers[at].matrices[OUT]));
}
