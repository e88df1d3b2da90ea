/* A layer whose memory of a sequence is its last few inputs, in the place of attention: each channel mixes them with factors
 * of its own. Layers with a larger memory prepare their inputs so.
 */
#pragma once
#include "course.h"

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
