/* Queries and keys by their positions, and new keys and values at their places. */
#pragma once
#include "attention.h"

INLINE void rotate(float *restrict x, const float *restrict cosines, const float *restrict sines, int64_t rotary) {
    const int64_t half = rotary / 2;
#pragma GCC ivdep
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cosines[i] - b * sines[i];
        x[half + i] = b * cosines[half + i] + a * sines[half + i];
    }
}

/* The same where neighbouring numbers turn together. */
INLINE void rotate_neighbours(float *restrict x, const float *restrict cosines, const float *restrict sines,
                              int64_t rotary) {
    for (int64_t i = 0; i < rotary / 2; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosines[i] - b * sines[i];
        x[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
}

/* The same where the second ones of all come out behind the first. */
INLINE void rotate_apart(float *restrict x, const float *restrict cosines, const float *restrict sines, int64_t rotary) {
    const int64_t half = rotary / 2;
    float seconds[half + 1];
    for (int64_t i = 0; i < half; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[i] = a * cosines[i] - b * sines[i];
        seconds[i] = b * cosines[i] + a * sines[i];
    }
    memcpy(x + half, seconds, 4 * half);
}

/* The numbers of a head that turn. */
static void turn_head(const state *s, const layer *l, int64_t position, float *x) {
    const int64_t angle = (l->angles * s->asked->angles + position) * s->model->rotary;
    const float *cosines = s->asked->cosines + angle, *sines = s->asked->sines + angle;
    if (s->model->turns == NEIGHBOURS) rotate_neighbours(x, cosines, sines, l->rotary);
    else if (s->model->turns == APART) rotate_apart(x, cosines, sines, l->rotary);
    else rotate(x, cosines, sines, l->rotary);
}

static char *place_of(const state *s, int64_t r, int64_t at, int value, int64_t head) {
    const layer *l = &s->model->layers[at];
    const int64_t size = value ? l->value_size : l->size;
    return remembered(s, r, at, value, head) + s->asked->positions[r] * size * WEIGHT_BYTES(s->model->cache_kind);
}

/* A key and a value of a head that were made of a row's latent; the numbers of the key that turn are those of all heads. */
static void place_latent(const state *s, int64_t at, int64_t r, int64_t head) {
    const layer *l = &s->model->layers[at];
    const int64_t kind = s->model->cache_kind, latent = l->matrices[KEY].in, steady = l->steady;
    const float *made = s->keys + (r * l->key_heads + head) * (steady + l->value_size);
    char *key = place_of(s, r, at, 0, head);
    float turned[l->rotary + 1];
    memcpy(turned, s->latents + r * l->matrices[LATENT].out + latent, 4 * l->rotary);
    turn_head(s, l, s->asked->positions[r], turned);
    store(kind, made, key, steady);
    store(kind, turned, key + steady * WEIGHT_BYTES(kind), l->rotary);
    store(kind, made + steady, place_of(s, r, at, 1, head), l->value_size);
}

/* Norm and rotation of one head of a row's queries, or of its keys: a new key and value go to their places. */
static void place_head(state *s, int64_t at, int64_t r, int64_t u) {
    const decoder *m = s->model;
    const layer *l = &m->layers[at];
    const int64_t size = l->size, position = s->asked->positions[r];
    const int is_key = u >= l->heads;
    const int64_t head = is_key ? u - l->heads : u, place = (r * l->key_heads + head) * size;
    float *x = is_key ? s->keys + place : query_of(s, l, r, head);
    const float *norm = is_key ? l->key_norm : l->query_norm;
    if (is_key && l->value_norm)
        normalized(l->matrices[VALUE].weight ? s->values + place : x, l->value_norm, size, m->query_epsilon,
                   s->values + place);
    if (norm && !m->turned_first) normalized(x, norm, size, m->query_epsilon, x);
    turn_head(s, l, position, x + l->steady);
    if (norm && m->turned_first) normalized(x, norm, size, m->query_epsilon, x);
    if (!is_key && m->known && position >= m->known) {
        const float by = 1.0f + m->growth * logf(1.0f + (float)(position / m->known));
        for (int64_t i = 0; i < size; i++) x[i] *= by;
    }
    if (!is_key) return;
    store(m->cache_kind, x, place_of(s, r, at, 0, head), size);
    store(m->cache_kind, s->values + place, place_of(s, r, at, 1, head), size);
}

/* Norms of a row's queries, and of its keys, over all heads. */
static void norm_heads(state *s, const layer *l) {
    const decoder *m = s->model;
    const int64_t queries = l->heads * l->size, keys = l->key_heads * l->size;
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        float *q = s->queries + r * queries, *k = s->keys + r * keys;
        normalized(q, l->queries_norm, queries, m->query_epsilon, q);
        normalized(k, l->keys_norm, keys, m->query_epsilon, k);
    }
    meet((soon){0});
}

/* All heads of all rows. */
static void place_rows(state *s, int64_t at) {
    const layer *l = &s->model->layers[at];
    const int64_t units = l->heads + (l->matrices[KEY].weight ? l->key_heads : 0);
    if (l->queries_norm) norm_heads(s, l);
    for (int64_t p, some; (some = take(s->asked->rows * units, units, &p));)
        for (const int64_t end = p + some; p < end; p++) {
            const int64_t r = p / units, u = p % units;
            if (u >= l->heads && l->matrices[LATENT].weight) place_latent(s, at, r, u - l->heads);
            else place_head(s, at, r, u);
        }
    meet(begin_of(&l->matrices[OUT]));
}
