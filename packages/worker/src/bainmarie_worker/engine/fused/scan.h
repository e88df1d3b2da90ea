/* State spaces whose states are matrices (Mamba-2), in the place of attention.
 *
 * Each head has a matrix from keys to values. With each token it fades, by a time that the token chooses, and for so long
 * the token's value is written to its key; what the matrix then gives for the token's query, and a part of the value itself,
 * is what the head sees. Heads share keys and queries by groups. All is float32, and a sequence's rows come one after the
 * other: a row is the same however they are divided into passes.
 */
#pragma once
#include "convolution.h"

/* Values, keys and queries of all rows, mixed with those before. */
static void mix_rows(state *s, const recurrence *d, float *own) {
    const int64_t channels = d->channels, parts = (channels + CHANNELS - 1) / CHANNELS;
    for (int64_t p = piece(); p < s->runs * parts; p = piece()) {
        const course c = course_of(s, p / parts);
        const int64_t first = p % parts * CHANNELS, last = first + CHANNELS < channels ? first + CHANNELS : channels;
        table before = {kept(&c, d) + first, channels};
        trace(s, d, &c, s->queries + first, channels, first, last - first);
        for (int64_t n = 0; n < c.count; n++) {
            if (n == c.certain) before = copied(before, d->taps - 1, last - first, own);
            mix(d, first, last, s->queries + row_of(&c, n) * channels, before);
        }
    }
    meet((soon){0});
}

/* One token of one head, whose matrix is [values, size]. A function of its own, so that it is the same for every row. */
static __attribute__((noinline)) void write_token(float *memory, const float *key, const float *query, const float *value,
                                                  int64_t size, int64_t values, float left, float time, float skip,
                                                  float *to) {
    for (int64_t v = 0; v < values; v += OUTPUTS, memory += OUTPUTS * size) {
        floats sums[OUTPUTS], written[OUTPUTS];
        for (int o = 0; o < OUTPUTS; o++) {
            sums[o] = (floats){0};
            written[o] = everywhere(value[v + o] * time);
        }
        for (int64_t i = 0; i < size; i += LANES) {
            const floats k = *(const floats *)(key + i), q = *(const floats *)(query + i);
#pragma GCC unroll 4
            for (int o = 0; o < OUTPUTS; o++) {
                floats *place = (floats *)(memory + o * size + i);
                const floats now = added(*place * left, written[o], k);
                *place = now;
                sums[o] = added(sums[o], now, q);
            }
        }
        four_totals(sums, to + v);
        for (int o = 0; o < OUTPUTS; o++) to[v + o] += skip * value[v + o];
    }
}

/* What each row sees of its own sequence, up to itself. */
static void scan(state *s, const recurrence *d, const matrix *next, float *own) {
    const int64_t heads = d->value_heads, size = d->key_size, values = d->value_size, shared = heads / d->key_heads;
    mix_rows(s, d, own);
    for (int64_t p = piece(); p < s->runs * heads; p = piece()) {
        const course c = course_of(s, p / heads);
        const int64_t head = p % heads;
        table one = {kept(&c, d) + (d->taps - 1) * d->channels + head * values * size, size};
        trace(s, d, &c, s->values + head, heads, d->channels + head, 1);
        for (int64_t n = 0; n < c.count; n++) {
            if (n == c.certain) one = copied(one, values, size, own);
            const int64_t r = row_of(&c, n);
            const float *row = s->queries + r * d->channels, *key = row + heads * values + head / shared * size;
            const float chosen = s->values[r * heads + head] + d->time_bias[head];
            const float positive = chosen > 20 ? chosen : log1pf(expf(chosen));
            const float time = positive > d->least_time ? positive : d->least_time;
            write_token(one.at, key, key + d->key_heads * size, row + head * values, size, values,
                        expf(-d->rate[head] * time), time, d->skip[head], s->seen + (r * heads + head) * values);
        }
    }
    meet(begin_of(next));
}

/* Gates of what a row's heads saw, and its norm, over the heads of each group. */
static void gate_groups(state *s, const recurrence *d, int64_t r) {
    const int64_t all = d->value_heads * d->value_size, size = all / d->norms;
    float *x = s->seen + r * all;
    const float *gates = s->keys + r * all;
    for (int64_t n = 0; n < all; n += size) {
        if (d->norm && d->normed_first) normalized(x + n, d->norm + n, size, d->epsilon, x + n);
        for (int64_t i = n; i < n + size; i += LANES) *(floats *)(x + i) *= activated(SILU, *(const floats *)(gates + i));
        if (d->norm && !d->normed_first) normalized(x + n, d->norm + n, size, d->epsilon, x + n);
    }
}
