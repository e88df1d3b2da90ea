/* A mixture of experts: of each row some perceptrons, chosen by a router, whose outputs are summed. */
#pragma once
#include <float.h>

#include "state.h"

/* Where all choices of a pass lie, from `at` on; their end. */
static char *lay_out(choices *c, const decoder *m, int64_t rows, char *at) {
    const int64_t all = rows * m->chosen;
    c->scores = (float *)taken(&at, 4 * rows * m->experts);
    c->experts = (int32_t *)taken(&at, 4 * all);
    c->weights = (float *)taken(&at, 4 * all);
    c->places = (int32_t *)taken(&at, 4 * all);
    c->starts = (int32_t *)taken(&at, 4 * (m->experts + 1));
    c->used = (int32_t *)taken(&at, 4 * m->experts);
    c->input = taken(&at, 4 * all * m->hidden);
    c->inner = taken(&at, 4 * all * m->expert_inner);
    c->given = (float *)taken(&at, 4 * all * m->hidden);
    c->whole = (float *)taken(&at, 4 * rows * m->hidden);
    return at;
}

#define MOST_GROUPS 64

/* Takes the experts of all but the best groups out of the choice. A group is as good as its best one, or with a correction
 * as its two best together. */
static void keep_best_groups(const mixture *mix, float *scores) {
    const int64_t size = mix->count / mix->groups;
    float good[MOST_GROUPS];
    for (int64_t g = 0; g < mix->groups; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (int64_t e = g * size; e < (g + 1) * size; e++) {
            const float score = scores[e] + (mix->correction ? mix->correction[e] : 0);
            second = score > first ? first : score > second ? score : second;
            first = score > first ? score : first;
        }
        good[g] = mix->correction ? first + second : first;
    }
    for (int64_t g = 0; g < mix->groups; g++) {
        int64_t better = 0;
        for (int64_t h = 0; h < mix->groups; h++) better += good[h] > good[g] || (good[h] == good[g] && h < g);
        for (int64_t e = g * size; better >= mix->best_groups && e < (g + 1) * size; e++) scores[e] = -INFINITY;
    }
}

/* The experts of one row, no two the same, and their weights: softmax over all, of which the best are taken; where the
 * mixture is `whole`, these sum to 1. Of equal scores the first counts as better; where one is no number, no weight is
 * one. */
static void choose(const mixture *mix, float *scores, int32_t *experts, float *weights) {
    float most = -FLT_MAX, all = 0, best_ones = 0, none = 0;
    for (int64_t e = 0; e < mix->count; e++) {
        none += 0 * scores[e];
        if (!(scores[e] > -FLT_MAX)) scores[e] = -FLT_MAX;
        most = scores[e] > most ? scores[e] : most;
    }
    for (int64_t e = 0; e < mix->count; e++) all += expf(scores[e] - most);
    if (mix->best_groups < mix->groups) keep_best_groups(mix, scores);
    for (int64_t c = 0; c < mix->chosen; c++) {
        int64_t best = 0;
        for (int64_t e = 1; e < mix->count; e++)
            if (scores[e] > scores[best]) best = e;
        experts[c] = (int32_t)best;
        best_ones += weights[c] = expf(scores[best] - most);
        scores[best] = -INFINITY; /* taken */
    }
    for (int64_t c = 0; c < mix->chosen; c++) weights[c] = weights[c] / (mix->whole ? best_ones : all) * mix->factor + none;
}

/* Scores become numbers between 0 and 1: each by itself, or together those of a softmax. Gives 0, or no number where one of
 * them is none. */
static float rated(const mixture *mix, float *scores) {
    float most = -FLT_MAX, all = 0, none = 0;
    for (int64_t e = 0; e < mix->count; e++) most = scores[e] > most ? scores[e] : most;
    for (int64_t e = 0; e < mix->count; e++) {
        scores[e] = mix->competing ? expf(scores[e] - most) : 1.0f / (1.0f + expf(-scores[e]));
        none += 0 * scores[e];
        if (!(scores[e] >= 0)) scores[e] = 0;
        all += scores[e];
    }
    for (int64_t e = 0; mix->competing && e < mix->count; e++) scores[e] /= all;
    return none;
}

/* As `choose`, where those are chosen which are the largest with their correction. */
static void choose_corrected(const mixture *mix, float *scores, int32_t *experts, float *weights) {
    const float none = rated(mix, scores);
    float best_ones = mix->rest;
    if (mix->best_groups < mix->groups) keep_best_groups(mix, scores);
    for (int64_t c = 0; c < mix->chosen; c++) {
        int64_t best = 0;
        for (int64_t e = 1; e < mix->count; e++)
            if (scores[e] + mix->correction[e] > scores[best] + mix->correction[best]) best = e;
        experts[c] = (int32_t)best;
        best_ones += weights[c] = scores[best];
        scores[best] = -INFINITY; /* taken */
    }
    best_ones = best_ones > mix->least ? best_ones : mix->least;
    for (int64_t c = 0; c < mix->chosen; c++) weights[c] = weights[c] / (mix->whole ? best_ones : 1) * mix->factor + none;
}

#define ROUTED 4 /* rows that a thread takes at once where there are many */

static void route(state *s, const mixture *mix) {
    const int64_t hidden = s->model->hidden, rows = s->asked->rows, step = rows < 4 * ROUTED ? 1 : ROUTED;
    const matrix *router = &mix->router;
    choices *c = &s->mixture;
    for (int64_t p = piece(); p * step < rows; p = piece()) {
        const int64_t begin = p * step, count = rows - begin < step ? rows - begin : step;
        float *scores = c->scores + begin * mix->count;
        const char *x = s->input + begin * hidden * INPUT_BYTES(router->kind);
        product(router->kind, router->weight, hidden, 0, mix->count, x, count, scores, mix->count);
        for (int64_t i = 0; router->scale && i < count * mix->count; i++) scores[i] *= router->scale[i % mix->count];
        for (int64_t i = 0; router->bias && i < count * mix->count; i++) scores[i] += router->bias[i % mix->count];
        for (int64_t r = begin; r < begin + count; r++) {
            (mix->correction ? choose_corrected : choose)(mix, c->scores + r * mix->count, c->experts + r * mix->chosen,
                                                          c->weights + r * mix->chosen);
            for (int64_t i = r * mix->chosen; mix->scales && i < (r + 1) * mix->chosen; i++)
                c->weights[i] *= mix->scales[c->experts[i]];
        }
    }
    meet((soon){0});
}

/* Finds the places of all choices. */
static void sort(state *s, const mixture *mix) {
    choices *c = &s->mixture;
    const int64_t all = s->asked->rows * mix->chosen;
    memset(c->starts, 0, 4 * (mix->count + 1));
    for (int64_t i = 0; i < all; i++) c->starts[c->experts[i] + 1]++;
    c->count = 0;
    for (int32_t e = 0; e < mix->count; e++) {
        if (c->starts[e + 1]) c->used[c->count++] = e;
        c->starts[e + 1] += c->starts[e];
    }
    for (int64_t i = 0; i < all; i++) c->places[i] = c->starts[c->experts[i]]++;
    for (int64_t e = mix->count; e > 0; e--) c->starts[e] = c->starts[e - 1];
    c->starts[0] = 0;
}

/* What of one expert's outputs a thread has taken. */
typedef struct {
    const matrix *matrices;
    int64_t rows, place, first, last;
} portion;

/* The share of the next used expert in units `*first` to `end`; 0 when none is left. */
INLINE int portion_of(const choices *c, const mixture *mix, int64_t out, int64_t *first, int64_t end, portion *p) {
    if (*first >= end) return 0;
    const int64_t units = (out + UNIT - 1) / UNIT, which = *first / units, from = *first % units;
    const int64_t some = end - *first < units - from ? end - *first : units - from;
    const int32_t e = c->used[which];
    *first += some;
    p->matrices = mix->matrices + e * EXPERT_MATRICES;
    p->place = c->starts[e];
    p->rows = c->starts[e + 1] - c->starts[e];
    p->first = from * UNIT;
    p->last = (from + some) * UNIT < out ? (from + some) * UNIT : out;
    return 1;
}

/* What an expert makes of some of its inner outputs, where these have a limit. */
static void gated_within(const mixture *mix, const float *gate, float *up, int64_t count) {
    const floats most = everywhere(mix->limit), least = -most;
    for (int64_t o = 0; o < count; o += LANES) {
        floats x = *(const floats *)(gate + o), y = *(const floats *)(up + o);
        x = chosen(x > most, most, x);
        y = chosen(y > most, most, chosen(y < least, least, y));
        *(floats *)(up + o) = (y + mix->lift) * (x / (1.0f + exponential(x * -mix->slope)));
    }
}

INLINE void biased(const matrix *m, int64_t first, int64_t last, int64_t rows, float *to, int64_t stride) {
    for (int64_t r = 0; m->bias && r < rows; r++)
        for (int64_t o = first; o < last; o++) to[r * stride + o - first] += m->bias[o];
}

/* An expert's portion of inner outputs of its rows `x`, prepared for its last matrix, as columns of `to`. */
static void think_within(const state *s, const mixture *mix, const portion *p, const char *x, char *to, float *own) {
    const matrix *gate = &p->matrices[EXPERT_GATE], *up = &p->matrices[EXPERT_UP];
    const int64_t kind = up->kind, times = mix->alternating ? 2 : 1, first = times * p->first, last = times * p->last;
    const int64_t count = p->last - p->first, gates = gate->weight || mix->alternating;
    float *other = own + p->rows * PIECE;
    if (gate->weight) product(kind, gate->weight, gate->in, first, last, x, p->rows, other, PIECE);
    product(kind, up->weight, up->in, first, last, x, p->rows, own, PIECE);
    biased(gate, first, last, p->rows, other, PIECE);
    biased(up, first, last, p->rows, own, PIECE);
    for (int64_t r = 0; r < p->rows; r++) {
        float *u = own + r * PIECE, *g = other + r * PIECE;
        for (int64_t i = 0; mix->alternating && i < count; i++) {
            g[i] = u[2 * i];
            u[i] = u[2 * i + 1];
        }
        if (mix->limit > 0) gated_within(mix, g, u, count);
        else gated(s->model->activation, gates ? g : NULL, u, count, u);
        prepare(kind, u, to + (r * mix->inner + p->first) * INPUT_BYTES(kind), count);
    }
}

/* stream += what the experts of each row give; or that into `plain`, where it has a norm of its own; or into `whole`, where
 * it is added to what the perceptron gives */
static void mixed(state *s, const mixture *mix, const float *branch_norm, const matrix *next, float *own) {
    const int64_t hidden = s->model->hidden, rows = s->asked->rows, inner = mix->inner;
    const int64_t kind = mix->matrices[EXPERT_UP].kind, row = hidden * INPUT_BYTES(kind), inner_row = inner * INPUT_BYTES(kind);
    choices *c = &s->mixture;
    int64_t first, some;
    portion p;
    route(s, mix);
    if (!piece()) sort(s, mix);
    meet((soon){0});
    for (int64_t r = piece(); r < rows; r = piece()) {
        if (mix->before) {
            normalized(s->stream + r * hidden, mix->before, hidden, s->model->epsilon, s->plain + r * hidden);
        }
        if (mix->before || mix->router.kind != kind) prepare(kind, s->plain + r * hidden, s->input + r * row, hidden);
        for (int64_t i = r * mix->chosen; i < (r + 1) * mix->chosen; i++)
            memcpy(c->input + c->places[i] * row, s->input + r * row, row);
    }
    meet((soon){0});
    const int64_t inner_units = c->count * ((inner + UNIT - 1) / UNIT), units = c->count * ((hidden + UNIT - 1) / UNIT);
    while ((some = take(inner_units, PIECE / UNIT / (mix->alternating ? 2 : 1), &first)))
        for (const int64_t end = first + some; portion_of(c, mix, inner, &first, end, &p);)
            think_within(s, mix, &p, c->input + p.place * row, c->inner + p.place * inner_row, own);
    meet((soon){0});
    while ((some = take(units, PIECE / UNIT, &first)))
        for (const int64_t end = first + some; portion_of(c, mix, hidden, &first, end, &p);) {
            const matrix *down = &p.matrices[EXPERT_DOWN];
            float *to = c->given + p.place * hidden + p.first;
            product(kind, down->weight, inner, p.first, p.last, c->inner + p.place * inner_row, p.rows, to, hidden);
            biased(down, p.first, p.last, p.rows, to, hidden);
        }
    meet(begin_of(next));
    for (int64_t r = piece(); r < rows; r = piece()) {
        float *to = (mix->after ? c->whole : branch_norm ? s->plain : s->stream) + r * hidden;
        const float scale = branch_norm ? 1 : s->model->branch_scale;
        if (branch_norm) memset(to, 0, 4 * hidden);
        for (int64_t i = r * mix->chosen; i < (r + 1) * mix->chosen; i++) {
            const float *from = c->given + c->places[i] * hidden, weight = c->weights[i] * scale;
            for (int64_t o = 0; o < hidden; o++) to[o] += weight * from[o];
        }
        if (mix->after) normalized(to, mix->after, hidden, s->model->epsilon, to);
    }
    meet(begin_of(next));
}
