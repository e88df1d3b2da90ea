/* A layer whose memory of a sequence is its last few inputs, in the place of attention: each channel mixes them with factors
 * of its own. Layers with a larger memory prepare their inputs so.
 */
#pragma once
#include "state.h"

#define CHANNELS 64 /* that a thread takes at once, at most */

/* A layer's part of a row's sequence: the last inputs of its channels [taps - 1, channels], the oldest first; then what its
 * kind has beyond that. */
INLINE float *kept(const state *s, int64_t row, const recurrence *d) {
    return s->asked->sequences[s->asked->owners[row]].state + d->place;
}

/* Channels `first` to `last` of a row, as weighted sums of the sequence's last inputs, of which the oldest goes. */
static void mix(const recurrence *d, int64_t first, int64_t last, float *row, float *before) {
    const int64_t channels = d->channels, held = d->taps - 1;
    for (int64_t i = first; i < last; i += LANES) {
        const floats now = *(floats *)(row + i);
        floats sum = d->filter_bias ? *(const floats *)(d->filter_bias + i) : (floats){0};
        sum = added(sum, now, *(const floats *)(d->filter + held * channels + i));
        for (int64_t t = 0; t < held; t++) {
            float *place = before + t * channels + i;
            sum = added(sum, *(floats *)place, *(const floats *)(d->filter + t * channels + i));
            *(floats *)place = t + 1 < held ? *(floats *)(place + channels) : now;
        }
        *(floats *)(row + i) = d->kind == CONVOLUTION ? sum : activated(SILU, sum);
    }
}

/* What each row sees of its own sequence, up to itself: its last inputs, each gated, mixed and gated again. */
static void convolve(state *s, const recurrence *d, const matrix *next) {
    const int64_t channels = d->channels, parts = (channels + CHANNELS - 1) / CHANNELS;
    for (int64_t p = piece(); p < s->runs * parts; p = piece()) {
        const int64_t begin = s->begins[p / parts], end = s->begins[p / parts + 1], first = p % parts * CHANNELS;
        const int64_t last = first + CHANNELS < channels ? first + CHANNELS : channels;
        for (int64_t r = begin; r < end; r++) {
            const int64_t at = r * channels;
            for (int64_t i = at + first; i < at + last; i++) s->seen[i] = s->queries[i] * s->values[i];
            mix(d, first, last, s->seen + at, kept(s, r, d));
            for (int64_t i = at + first; i < at + last; i++) s->seen[i] *= s->keys[i];
        }
    }
    meet(begin_of(next));
}
