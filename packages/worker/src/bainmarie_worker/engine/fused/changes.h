/* What adapters add to the outputs of matrices, and what else completes these. */
#pragma once
#include "state.h"

INLINE const change *changed(const state *s, int64_t row, int64_t at, int which) {
    const sequence *owner = &s->asked->sequences[s->asked->owners[row]];
    if (!owner->changes) return NULL;
    const change *found = &owner->changes[at * MATRICES + which];
    return found->down ? found : NULL;
}

#define ALIKE 6 /* rows that are changed together, at most */

/* How many rows from `r` on, and before `end`, have the same change. */
INLINE int64_t alike(const state *s, int64_t r, int64_t end, int64_t at, int which, const change **found) {
    int64_t count = 1;
    *found = changed(s, r, at, which);
    while (count < ALIKE && r + count < end && changed(s, r + count, at, which) == *found) count++;
    return count;
}

/* A x of adapters, for matrices with one input: a phase of its own, and only where a row has one. Few rows are shared by
 * ranks. */
static void reduce(state *s, int64_t at, const int *which, int count, const float *x) {
    const int64_t rows = s->asked->rows, most = s->asked->most_rank, some = rows < 4 * ALIKE ? 1 : ALIKE;
    if (!most) return;
    const int64_t runs = (rows + some - 1) / some, parts = count * runs < 2 * here.threads ? here.threads : 1;
    const int64_t ranks = ((most + parts - 1) / parts + OUTPUTS - 1) / OUTPUTS * OUTPUTS;
    for (int64_t p = piece(); p < count * runs * parts; p = piece()) {
        const int64_t m = p / parts / runs, begin = p / parts % runs * some, first = p % parts * ranks;
        const int64_t in = s->model->layers[at].matrices[which[m]].in, end = begin + some < rows ? begin + some : rows;
        const change *c;
        for (int64_t r = begin, n; r < end; r += n) {
            n = alike(s, r, end, at, which[m], &c);
            if (!c || first >= c->rank) continue;
            const int64_t last = first + ranks < c->rank ? first + ranks : c->rank;
            product(FLOAT32, c->down, in, first, last, x + r * in, n, s->reduced + (m * rows + r) * most + first, most);
        }
    }
    meet((soon){0});
}

/* to += B x of an adapter, outputs `first` to `last`; `first` is a multiple of `TILE`. */
static void lift(const change *c, const float *x, int64_t first, int64_t last, float *to) {
    for (int64_t o = first; o < last; o += TILE, to += TILE) {
        const float *weight = c->up + o * c->rank;
        floats sums[TILE / LANES] = {{0}};
        for (int64_t k = 0; k < c->rank; k++)
            for (int v = 0; v < TILE / LANES; v++)
                sums[v] = added(sums[v], *(const floats *)(weight + k * TILE + v * LANES), everywhere(x[k]));
        for (int64_t i = 0; i < TILE && o + i < last; i++) to[i] += sums[i / LANES][i % LANES];
    }
}

/* Bias, scale, adapters and factor on outputs `first` to `last`, in to[row * stride + output - first]. */
static void completed(const state *s, int64_t at, int which, int place, const matrix *m, int64_t first, int64_t last,
                      float *to, int64_t stride) {
    const int64_t rows = s->asked->rows, rank = s->asked->most_rank;
    for (int64_t r = 0; r < rows; r++) {
        float *y = to + r * stride;
        if (m->kind == INT8)
            for (int64_t o = first; o < last; o++) y[o - first] *= m->scale[o];
        if (m->bias)
            for (int64_t o = first; o < last; o++) y[o - first] += m->bias[o];
    }
    const change *c;
    for (int64_t r = 0, n; rank && r < rows; r += n) {
        n = alike(s, r, rows, at, which, &c);
        if (!c) continue;
        for (int64_t i = r; i < r + n; i++) lift(c, s->reduced + (place * rows + i) * rank, first, last, to + i * stride);
    }
    for (int64_t r = 0; m->factor != 1 && r < rows; r++)
        for (int64_t o = 0; o < last - first; o++) to[r * stride + o] *= m->factor;
}
