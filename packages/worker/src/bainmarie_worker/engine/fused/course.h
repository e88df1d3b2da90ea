/* How recurrent layers go through the rows of a sequence: one after the other, for each changes what is remembered.
 *
 * That cannot be taken back by a row. So guesses change a copy of it, of the part that a thread is at, and leave what the
 * layer took in of them: their traces. Those that were right are repeated by the next pass, before its own rows.
 */
#pragma once
#include "state.h"

#define CHANNELS 64 /* of a layer that a thread takes at once, at most */

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
