/* The gated delta rule, in the place of attention: a layer's memory of a sequence is of one size, however long that is.
 *
 * Each value head has a matrix from keys to values. With each token it fades, and its value for the token's key is moved
 * towards the token's own; what it then gives for the token's query is what the head sees. Before that, queries, keys and
 * values are mixed with those of the last few tokens. All is float32, and a sequence's rows come one after the other: a row
 * is the same however they are divided into passes.
 */
#pragma once
#include "convolution.h"

#define COLUMNS (2 * LANES) /* numbers of a value that are computed together */
#define KEYS 4 /* numbers of a key whose sums are apart, so that none waits for the one before */

/* A layer's part of a sequence's state: behind the last inputs, each value head's matrix as
 * [value size / COLUMNS, key size, COLUMNS]. */

/* A query or a key becomes as long as `length`. */
static void lengthened(float *x, int64_t count, float length) {
    floats squares = {0};
    for (int64_t i = 0; i < count; i += LANES) squares = added(squares, *(floats *)(x + i), *(floats *)(x + i));
    const float by = length / sqrtf(total(squares) + 1e-6f);
    for (int64_t i = 0; i < count; i += LANES) *(floats *)(x + i) *= by;
}

INLINE float logistic(float x) { return 1 / (1 + expf(-x)); }

/* Queries, keys and values of all rows as the rule takes them; and of each value head, which part of its matrix a token
 * leaves, and how far that is moved. */
static void mixed_rows(state *s, const recurrence *d, float *own) {
    const int64_t others = 2 * d->key_heads, heads = others + d->value_heads;
    for (int64_t p = piece(); p < s->runs * heads; p = piece()) {
        const course c = course_of(s, p / heads);
        const int64_t u = p % heads, head = u - others;
        const int64_t size = head < 0 ? d->key_size : d->value_size;
        const int64_t first = head < 0 ? u * size : others * d->key_size + head * size;
        table before = {kept(&c, d) + first, d->channels};
        trace(s, d, &c, s->queries + first, d->channels, first, size);
        if (head >= 0) trace(s, d, &c, s->values + head, d->value_heads, d->channels + head, 1);
        if (head >= 0) trace(s, d, &c, s->decays + head, d->value_heads, d->channels + d->value_heads + head, 1);
        for (int64_t n = 0; n < c.count; n++) {
            if (n == c.certain) before = copied(before, d->taps - 1, size, own);
            const int64_t r = row_of(&c, n);
            float *row = s->queries + r * d->channels;
            mix(d, first, first + size, row, before);
            if (head < 0) {
                lengthened(row + first, size, u < d->key_heads ? 1 / sqrtf((float)size) : 1);
                continue;
            }
            float *moved = s->values + r * d->value_heads + head, *left = s->decays + r * d->value_heads + head;
            const float time = *left + d->time_bias[head];
            *moved = logistic(*moved);
            *left = expf(-d->rate[head] * (time > 20 ? time : log1pf(expf(time))));
        }
    }
    meet((soon){0});
}

/* One token and `COLUMNS` numbers of one head's values. A function of its own, so that it is the same for every row. */
static __attribute__((noinline)) void learn(float *memory, const float *key, const float *query, const float *value,
                                            int64_t size, float left, float moved, float *to) {
    floats sums[2 * KEYS] = {{0}}, change[2];
    for (int64_t i = 0; i < size; i += KEYS)
#pragma GCC unroll 8
        for (int k = 0; k < 2 * KEYS; k++)
            sums[k] = added(sums[k], *(floats *)(memory + i * COLUMNS + k * LANES), everywhere(key[i + k / 2]));
    for (int v = 0; v < 2; v++) {
        const floats known = (sums[v] + sums[2 + v]) + (sums[4 + v] + sums[6 + v]);
        change[v] = (*(const floats *)(value + v * LANES) - known * left) * moved;
    }
#pragma GCC unroll 8
    for (int k = 0; k < 2 * KEYS; k++) sums[k] = (floats){0};
    for (int64_t i = 0; i < size; i += KEYS)
#pragma GCC unroll 8
        for (int k = 0; k < 2 * KEYS; k++) {
            floats *place = (floats *)(memory + i * COLUMNS + k * LANES);
            const floats now = added(*place * left, change[k % 2], everywhere(key[i + k / 2]));
            *place = now;
            sums[k] = added(sums[k], now, everywhere(query[i + k / 2]));
        }
    for (int v = 0; v < 2; v++) *(floats *)(to + v * LANES) = (sums[v] + sums[2 + v]) + (sums[4 + v] + sums[6 + v]);
}

/* What each row sees of its own sequence, up to itself. */
static void delta_rule(state *s, const recurrence *d, const matrix *next, float *own) {
    mixed_rows(s, d, own);
    const int64_t parts = d->value_size / COLUMNS, units = d->value_heads * parts, size = d->key_size;
    for (int64_t p = piece(); p < s->runs * units; p = piece()) {
        const course c = course_of(s, p / units);
        const int64_t u = p % units, head = u / parts;
        const int64_t shared = head / (d->value_heads / d->key_heads), keys = d->key_heads * size;
        table one = {kept(&c, d) + (d->taps - 1) * d->channels + u * size * COLUMNS, COLUMNS};
        for (int64_t n = 0; n < c.count; n++) {
            if (n == c.certain) one = copied(one, size, COLUMNS, own);
            const int64_t r = row_of(&c, n);
            const float *query = s->queries + r * d->channels + shared * size, *key = query + keys;
            const float *value = s->queries + r * d->channels + 2 * keys + u * COLUMNS;
            const int64_t at = r * d->value_heads + head;
            learn(one.at, key, query, value, size, s->decays[at], s->values[at], s->seen + (r * units + u) * COLUMNS);
        }
    }
    meet(begin_of(next));
}

/* Norm and gates of what a row's heads saw. */
static void gate_heads(state *s, const recurrence *d, int64_t r) {
    const int64_t size = d->value_size;
    for (int64_t h = r * d->value_heads; h < (r + 1) * d->value_heads; h++) {
        float *x = s->seen + h * size;
        normalized(x, d->norm, size, d->epsilon, x);
        for (int64_t i = 0; i < size; i += LANES) *(floats *)(x + i) *= activated(SILU, *(floats *)(s->keys + h * size + i));
    }
}
