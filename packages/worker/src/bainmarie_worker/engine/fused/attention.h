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
#define QUERIES 12 /* the same of rows times the heads that share keys, where one row has not more */

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

/* to[vectors * LANES] += the sum over positions of weight * value, for a part of the values' rows. Even and odd numbers
 * are apart, vector by vector, where values are bf16. */
INLINE void gather_part(int64_t kind, const int vectors, const float *weights, const char *values, int64_t count,
                        int64_t row, float *to) {
    floats sums[8];
    for (int v = 0; v < vectors; v++) sums[v] = *(floats *)(to + v * LANES);
    for (int64_t t = 0; t < count; t++, values += row) {
        const floats weight = weights[t] + (floats){0};
        if (kind == FLOAT32) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sums[v] += weight * *(const floats *)(values + 4 * v * LANES);
        } else {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v += 2) {
                const words pairs = *(const words *)(values + 2 * v * LANES);
                sums[v] += weight * evens(pairs);
                sums[v + 1] += weight * odds(pairs);
            }
        }
    }
    for (int v = 0; v < vectors; v++) *(floats *)(to + v * LANES) = sums[v];
}

static void gather(int64_t kind, const float *weights, const char *values, int64_t count, int64_t size, float *to) {
    const int64_t bytes = WEIGHT_BYTES(kind);
    int64_t d = 0;
    if (kind == FLOAT32) {
        for (; d + 8 * LANES <= size; d += 8 * LANES)
            gather_part(FLOAT32, 8, weights, values + d * bytes, count, size * bytes, to + d);
        for (; d < size; d += 2 * LANES)
            gather_part(FLOAT32, 2, weights, values + d * bytes, count, size * bytes, to + d);
    } else {
        for (; d + 8 * LANES <= size; d += 8 * LANES)
            gather_part(BFLOAT16, 8, weights, values + d * bytes, count, size * bytes, to + d);
        for (; d < size; d += 2 * LANES)
            gather_part(BFLOAT16, 2, weights, values + d * bytes, count, size * bytes, to + d);
    }
}

/* Weights of a softmax from scores of the positions that a query sees, `from` to `to` of `SHARE`; the rest are 0. `most`
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
        product(kind, keys, size, t, t + count, x, queries, scores, SHARE);
        for (int64_t q = 0; q < queries; q++) {
            const int64_t position = positions[first + q / group];
            const int64_t from = window && position >= window + t ? position + 1 - window - t : 0;
            const int64_t to = position + 1 - t < count ? position + 1 - t : count;
            if (from >= to) continue;
            soften(scores + q * SHARE, from, to, m->scaling, m->score_cap, most + q, weight + q, sums + q * size, size);
            gather(kind, scores + q * SHARE, values + t * row, to, size, sums + q * size);
        }
    }
    for (int64_t q = 0; q < queries; q++) {
        float *to = s->seen + ((first + q / group) * m->heads + head * group + q % group) * size, *from = sums + q * size;
        const float by = 1.0f / weight[q];
        if (kind == FLOAT32)
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
