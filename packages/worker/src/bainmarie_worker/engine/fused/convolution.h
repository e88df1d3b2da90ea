/* A layer whose memory of a sequence is its last few inputs, in the place of attention: each channel mixes them with factors
 * of its own. Layers with a larger memory prepare their inputs so.
 */
#pragma once
#include "state.h"

#define CHANNELS 64 /* that a thread takes at once, at most */

/* The rows of one sequence, in their order: those that are repeated, those that are new and certain, and guesses. */
typedef struct {
    const sequence *of;
    int64_t begin, repeated;          /* the first new row, and the first that is repeated */
    int64_t repeats, certain, count;  /* where new ones begin, where guesses begin, and all */
} course;

INLINE course course_of(const state *s, int64_t run) {
    const int64_t begin = s->begins[run], rows = s->begins[run + 1] - begin;
    const sequence *of = &s->asked->sequences[s->asked->owners[begin]];
    const int64_t count = of->repeats + rows;
    return (course){of, begin, s->repeats[run], of->repeats, count - of->guesses, count};
}

INLINE int64_t row_of(const course *c, int64_t n) {
    return n < c->repeats ? c->repeated + n : c->begin + n - c->repeats;
}

/* A layer's part of a sequence's state: the last inputs of its channels [taps - 1, channels], the oldest first; then what its
 * kind has beyond that. */
INLINE float *kept(const course *c, const recurrence *d) { return c->of->state + d->place; }

/* `count` numbers of each row from `rows` on, whose place in a layer's part of a trace is `place`: they are taken from there
 * for rows that are repeated, and kept there of guesses. */
static void trace(const state *s, const recurrence *d, const course *c, float *rows, int64_t stride, int64_t place,
                  int64_t count) {
    const int64_t whole = s->model->trace;
    place += d->trace;
    for (int64_t n = 0; n < c->repeats; n++)
        memcpy(rows + row_of(c, n) * stride, c->of->repeated + n * whole + place, 4 * count);
    for (int64_t n = c->certain; n < c->count; n++)
        memcpy(c->of->traces + (n - c->certain) * whole + place, rows + row_of(c, n) * stride, 4 * count);
}

/* What is remembered, as [lines, count] numbers that are `stride` apart; guesses change no more than a copy. */
typedef struct {
    float *at;
    int64_t stride;
} table;

static table copied(table from, int64_t lines, int64_t count, float *to) {
    for (int64_t i = 0; i < lines; i++) memcpy(to + i * count, from.at + i * from.stride, 4 * count);
    return (table){to, count};
}

/* Numbers that a thread needs for such a copy. */
static int64_t floats_of_guesses(const recurrence *d) {
    const int64_t size = d->key_size > d->value_size ? d->key_size : d->value_size, held = d->taps - 1;
    const int64_t inputs = held * (size > CHANNELS ? size : CHANNELS);
    const int64_t matrix = d->key_size * d->value_size;
    return inputs > matrix ? inputs : matrix;
}

/* Channels `first` to `last` of a row, as weighted sums of the sequence's last inputs `before`, of which the oldest goes. */
static void mix(const recurrence *d, int64_t first, int64_t last, float *row, table before) {
    const int64_t channels = d->channels, held = d->taps - 1;
    for (int64_t i = first; i < last; i += LANES) {
        const floats now = *(floats *)(row + i);
        floats sum = d->filter_bias ? *(const floats *)(d->filter_bias + i) : (floats){0};
        sum = added(sum, now, *(const floats *)(d->filter + held * channels + i));
        for (int64_t t = 0; t < held; t++) {
            float *place = before.at + t * before.stride + i - first;
            sum = added(sum, *(floats *)place, *(const floats *)(d->filter + t * channels + i));
            *(floats *)place = t + 1 < held ? *(floats *)(place + before.stride) : now;
        }
        *(floats *)(row + i) = d->kind == CONVOLUTION ? sum : activated(SILU, sum);
    }
}

/* What each row sees of its own sequence, up to itself: its last inputs, each gated, mixed and gated again. */
static void convolve(state *s, const recurrence *d, const matrix *next, float *own) {
    const int64_t channels = d->channels, parts = (channels + CHANNELS - 1) / CHANNELS;
    for (int64_t p = piece(); p < s->runs * parts; p = piece()) {
        const course c = course_of(s, p / parts);
        const int64_t first = p % parts * CHANNELS, last = first + CHANNELS < channels ? first + CHANNELS : channels;
        table before = {kept(&c, d) + first, channels};
        for (int64_t n = c.repeats; n < c.count; n++) {
            const int64_t at = row_of(&c, n) * channels;
            for (int64_t i = at + first; i < at + last; i++) s->seen[i] = s->queries[i] * s->values[i];
        }
        trace(s, d, &c, s->seen + first, channels, first, last - first);
        for (int64_t n = 0; n < c.count; n++) {
            const int64_t at = row_of(&c, n) * channels;
            if (n == c.certain) before = copied(before, d->taps - 1, last - first, own);
            mix(d, first, last, s->seen + at, before);
            for (int64_t i = at + first; i < at + last && n >= c.repeats; i++) s->seen[i] *= s->keys[i];
        }
    }
    meet(begin_of(next));
}
