/* Attention of a pass: what each row sees of its own sequence's keys and values. */
#pragma once
#include "scores.h"
#include "state.h"

/* Rows times the heads that share keys, which look at `SHARE` positions together; more where one row has more. */
#define QUERIES (with_tiles ? 128 : 24)

static char *remembered(const state *s, int64_t row, int64_t at, int value, int64_t head) {
    const decoder *m = s->model;
    const sequence *owner = &s->asked->sequences[s->asked->owners[row]];
    const layer *l = &m->layers[at];
    const int64_t place = l->place + (value ? l->key_heads * l->size + head * l->value_size : head * l->size);
    return (char *)owner->block + place * owner->capacity * WEIGHT_BYTES(m->cache_kind);
}

INLINE float *query_of(const state *s, const layer *l, int64_t row, int64_t head) {
    return s->queries + (row * l->heads + head) * l->query_size;
}

static void store(int64_t kind, const float *from, char *to, int64_t count) {
    if (kind == FLOAT32) memcpy(to, from, 4 * count);
    else
        for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[i] = to_bf16(from[i]);
}

/* to[q][vectors * LANES] += the sum over positions of weight * value, for a part of the values' rows. Where values are
 * bf16, either two positions are multiplied at once, with bf16 weights; or even and odd numbers are apart. */
INLINE void gather_block(const int64_t kind, const int n, const int vectors, const float *weights, const char *values,
                        int64_t count, int64_t row, float *to, int64_t size) {
    floats sums[24];
#pragma GCC unroll 6
    for (int q = 0; q < n; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[q * vectors + v] = *(floats *)(to + q * size + v * LANES);
#if HAS_DOT
    if (kind == BFLOAT16) {
        for (int64_t t = 0; t < count; t += 2, values += 2 * row)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v += 2) {
                const __m512i a = _mm512_loadu_si512(values + 2 * v * LANES);
                const __m512i b = t + 1 < count ? _mm512_loadu_si512(values + row + 2 * v * LANES) : _mm512_setzero_si512();
                const __m512bh low = (__m512bh)paired(a, 0, b), high = (__m512bh)paired(a, 1, b);
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
                    const floats weight = everywhere(weights[q * SHARE + t]);
                    sums[q * vectors + v] = added(sums[q * vectors + v], weight, one);
                    sums[q * vectors + v + 1] = added(sums[q * vectors + v + 1], weight, other);
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
    for (int64_t d = 0; d < size;) {
        const int vectors = size - d >= 4 * LANES ? 4 : 2;
        int64_t q = 0;
#define PART(kind, n, vectors) \
    gather_block(kind, n, vectors, weights + q * SHARE, values + d * bytes, count, size * bytes, to + q * size + d, size)
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

#if HAS_TILES
#define GROUPS 4 /* of 16 queries, that a tile of keys is multiplied with at once */

/* As `score`, where queries are packed: keys go in as they are, and what comes out is turned. */
static void score_by_tiles(const char *keys, int64_t size, int64_t count, const char *x, int64_t queries, float *scores) {
    float sums[GROUPS * SUMS] __attribute__((aligned(64)));
    FINISH_STORES
    for (int64_t t = 0; t < count; t += TILE)
        for (int64_t q = 0; q < queries; q += GROUPS * TILE) {
            const int64_t groups = (queries - q + TILE - 1) / TILE;
            const char *key = keys + 2 * t * size, *y = x + 2 * q * size;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t i = 0; i < size; i += DEPTH, key += 2 * DEPTH, y += WEIGHTS) {
                _tile_loadd(4, key, 2 * size);
                _tile_loadd(5, y, 64);
                _tile_dpbf16ps(0, 4, 5);
                if (groups < 2) continue;
                _tile_loadd(6, y + 2 * TILE * size, 64);
                _tile_dpbf16ps(1, 4, 6);
                if (groups < 3) continue;
                _tile_loadd(7, y + 4 * TILE * size, 64);
                _tile_dpbf16ps(2, 4, 7);
                if (groups < 4) continue;
                _tile_loadd(5, y + 6 * TILE * size, 64);
                _tile_dpbf16ps(3, 4, 5);
            }
            _tile_stored(0, sums, 64);
            _tile_stored(1, sums + SUMS, 64);
            _tile_stored(2, sums + 2 * SUMS, 64);
            _tile_stored(3, sums + 3 * SUMS, 64);
            for (int64_t g = 0; g < groups && g < GROUPS; g++)
                place_sums(sums + g * SUMS, 0, queries - q - g * TILE, scores + (q + g * TILE) * SHARE + t, SHARE);
        }
}

/* to[16 or 32 queries][32 numbers] += weights times values, whose pairs of positions are side by side. */
INLINE void gather_tiles(const int groups, const char *weight, const char *value, int64_t count, int64_t size, float *to) {
    const int64_t columns = 2 * TILE * SHARE, row = 4 * size;
    _tile_loadd(0, to, row);
    _tile_loadd(1, to + TILE, row);
    if (groups == 2) _tile_loadd(2, to + TILE * size, row);
    if (groups == 2) _tile_loadd(3, to + TILE * size + TILE, row);
    for (int64_t t = 0; t < count; t += DEPTH, weight += 2 * DEPTH, value += WEIGHTS) {
        _tile_loadd(4, weight, 4 * SHARE);
        _tile_loadd(6, value, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, value + columns, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (groups == 1) continue;
        _tile_loadd(5, weight + 4 * TILE * SHARE, 4 * SHARE);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, to, row);
    _tile_stored(1, to + TILE, row);
    if (groups == 2) _tile_stored(2, to + TILE * size, row);
    if (groups == 2) _tile_stored(3, to + TILE * size + TILE, row);
}

/* As `gather`. `turned` is for pairs of positions side by side: [size / 16][SHARE / 2][16][2]. */
static void gather_by_tiles(const float *weights, const char *values, int64_t count, int64_t size, int64_t queries,
                            float *to, char *turned) {
    const int64_t row = 2 * size, columns = 2 * TILE * SHARE; /* bytes of one and of 16 numbers of all positions */
    for (int64_t t = 0; t < count || t % DEPTH; t += 2)
        for (int64_t i = 0; i < size; i += 2 * TILE) {
            const char *from = values + t * row + 2 * i;
            const __m512i a = t < count ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
            const __m512i b = t + 1 < count ? _mm512_loadu_si512(from + row) : _mm512_setzero_si512();
            char *place = turned + i / TILE * columns + 32 * t;
            _mm512_store_si512(place, paired(a, 0, b));
            _mm512_store_si512(place + columns, paired(a, 1, b));
        }
    FINISH_STORES
    for (int64_t q = 0; q < queries; q += 2 * TILE)
        for (int64_t i = 0; i < size; i += 2 * TILE) {
            const char *weight = (const char *)(weights + q * SHARE), *value = turned + i / TILE * columns;
            float *sums = to + q * size + i;
            if (q + TILE < queries) gather_tiles(2, weight, value, count, size, sums);
            else gather_tiles(1, weight, value, count, size, sums);
        }
}
#endif

/* Weights of a softmax from scores of the positions that a query sees, `from` to `to` of `SHARE`; all others become 0. They
 * stand where the scores stood, in bf16 where values are bf16 and the processor multiplies them. `most` and `weight` are the
 * largest score and the sum of weights so far; what was gathered before is scaled down when a larger score turns up. */
static void soften(int64_t kind, float *scores, int64_t from, int64_t to, float scaling, float cap, float *most,
                   float *weight, float *gathered, int64_t size) {
    for (int64_t i = 0; i < from; i++) scores[i] = -INFINITY;
    for (int64_t i = to; i % LANES; i++) scores[i] = -INFINITY;
    const int64_t begin = from / LANES * LANES, end = (to + LANES - 1) / LANES * LANES;
    floats highest = (floats){0} - INFINITY;
    for (int64_t i = begin; i < end; i += LANES) {
        floats score = *(floats *)(scores + i);
        if (cap > 0) *(floats *)(scores + i) = score = chosen(score == -INFINITY, score, capped(score * scaling, cap));
        highest = larger(highest, score);
    }
    if (cap > 0) scaling = 1;
    float high = largest(highest) * scaling;
    if (high > *most) {
        const float by = expf(*most - high);
        for (int64_t i = 0; i < size; i++) gathered[i] *= by;
        *weight *= by;
        *most = high;
    }
    high = *most;
    if (high == -INFINITY) { /* nothing to be seen yet but scores below all numbers */
        memset(scores, 0, 4 * SHARE);
        return;
    }
    floats all = {0};
    for (int64_t i = 0; i < SHARE; i += LANES) {
        floats p = {0};
        if (i >= begin && i < end) {
            const floats score = *(floats *)(scores + i);
            p = exponential(score * scaling - high);
            if (!HAS_DOT) p = chosen(score == -INFINITY, (floats){0}, p);
            all += p;
        }
#if HAS_DOT
        if (kind == BFLOAT16) {
            _mm256_storeu_si256((__m256i *)((uint16_t *)scores + i), (__m256i)_mm512_cvtneps_pbh((__m512)p));
            continue;
        }
#endif
        *(floats *)(scores + i) = p;
    }
    (void)kind;
    *weight += total(all);
}

/* What a thread needs to attend with so many queries. */
INLINE int64_t floats_of_attention(int64_t queries, int64_t size, int64_t value_size) {
    const int64_t padded = (queries + TILE - 1) / TILE * TILE, wider = size > value_size ? size : value_size;
    return padded * (SHARE + 2 * size + value_size + 2) + SHARE * wider / 2 + 64;
}

/* Neighbouring rows of one sequence, one key head and all query heads that share it, `SHARE` positions at a time. */
static void attend(state *s, int64_t at, int64_t first, int64_t last, int64_t head, float *own) {
    const decoder *m = s->model;
    const layer *l = &m->layers[at];
    const int64_t group = l->heads / l->key_heads, queries = group * (last - first), size = l->size;
    const int64_t width = l->value_size;
    const int64_t padded = (queries + TILE - 1) / TILE * TILE; /* tiles of queries are whole; the rest is of no meaning */
    const int64_t kind = m->cache_kind, row = size * WEIGHT_BYTES(kind), value_row = width * WEIGHT_BYTES(kind);
    const int64_t window = l->window;
    const int32_t *positions = s->asked->positions;
    const int64_t end = positions[last - 1] + 1, unseen = window ? positions[first] + 1 - window : 0;
    const int64_t begin = unseen > 0 ? unseen / SHARE * SHARE : 0;
    float *scores = own, *sums = scores + padded * SHARE, *most = sums + padded * width, *weight = most + padded;
    char *x = (char *)(weight + padded), *packed = x + 4 * padded * size;
    float *turned = (float *)(((uintptr_t)(packed + 4 * padded * size) + 63) / 64 * 64);
    for (int64_t q = 0; q < queries; q++) {
        const float *query = query_of(s, l, first + q / group, head * group + q % group);
        prepare(kind, query, x + q * size * INPUT_BYTES(kind), size);
        most[q] = l->sinks ? l->sinks[head * group + q % group] : -INFINITY;
        weight[q] = l->sinks ? 1 : 0;
    }
    memset(sums, 0, 4 * queries * width);
#if HAS_TILES
    const int tiled = with_tiles && kind == BFLOAT16;
    for (int64_t q = 0; tiled && q < padded; q += TILE) pack(x, size, q / TILE, 0, size, packed);
#endif
    const char *keys = remembered(s, first, at, 0, head), *values = remembered(s, first, at, 1, head);
    for (int64_t t = begin; t < end; t += SHARE) {
        const int64_t count = end - t < SHARE ? end - t : SHARE;
        for (int64_t i = 0; i < count * value_row; i += 64) __builtin_prefetch(values + t * value_row + i, 0, 2);
#if HAS_TILES
        if (tiled) score_by_tiles(keys + t * row, size, count, packed, queries, scores);
        else
#endif
            score(kind, keys + t * row, size, count, x, queries, scores, turned);
        for (int64_t q = 0; q < queries; q++) {
            const int64_t position = positions[first + q / group];
            const int64_t from = window && position >= window + t ? position + 1 - window - t : 0;
            const int64_t to = position + 1 - t < count ? position + 1 - t : count;
            if (from >= to) memset(scores + q * SHARE, 0, 4 * SHARE);
            else
                soften(kind, scores + q * SHARE, from, to, m->scaling, m->score_cap, most + q, weight + q,
                       sums + q * width, width);
        }
#if HAS_TILES
        if (tiled) gather_by_tiles(scores, values + t * value_row, count, width, queries, sums, (char *)turned);
        else
#endif
            gather(kind, scores, values + t * value_row, count, width, queries, sums);
    }
    for (int64_t q = 0; q < queries; q++) {
        float *to = s->seen + ((first + q / group) * l->heads + head * group + q % group) * width;
        const float *from = sums + q * width;
        const float by = 1.0f / weight[q];
        if (kind == FLOAT32 || HAS_DOT)
            for (int64_t i = 0; i < width; i++) to[i] = from[i] * by;
        else
            for (int64_t i = 0; i < width; i += 2 * LANES)
                for (int64_t j = 0; j < LANES; j++) {
                    to[i + 2 * j] = from[i + j] * by;
                    to[i + 2 * j + 1] = from[i + LANES + j] * by;
                }
    }
}

/* Rows of one sequence that a layer looks at together, at most. */
INLINE int64_t rows_together(const layer *l) {
    const int64_t group = l->heads / l->key_heads;
    return group < QUERIES ? QUERIES / group : 1;
}

static void attention(state *s, int64_t at, float *own) {
    const layer *l = &s->model->layers[at];
    const int64_t most = rows_together(l);
    int64_t before = 0, these = 0; /* pieces of the runs before this one, and of this one */
    int64_t p = piece();
    for (int64_t run = 0; run < s->runs; run++, before += these) {
        const int64_t begin = s->begins[run], end = s->begins[run + 1];
        these = (end - begin + most - 1) / most * l->key_heads;
        for (; p < before + these; p = piece()) {
            const int64_t first = begin + (p - before) / l->key_heads * most;
            attend(s, at, first, first + most < end ? first + most : end, (p - before) % l->key_heads, own);
        }
    }
    meet(begin_of(&l->matrices[OUT]));
}

/* The gates that stand behind a row's queries, on what its heads saw. */
static void gate_queries(state *s, const layer *l, int64_t r) {
    const int64_t size = l->size;
    for (int64_t h = 0; h < l->heads; h++) {
        const float *gate = query_of(s, l, r, h) + size;
        float *x = s->seen + (r * l->heads + h) * size;
        for (int64_t i = 0; i < size; i += LANES) *(floats *)(x + i) /= 1.0f + exponential(-*(floats *)(gate + i));
    }
}
