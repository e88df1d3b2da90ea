/* What one pass works with, and how its threads share it. */
#pragma once
#include "products.h"
#include "team.h"

/* A choice is one row for one of its experts. Those of one expert lie side by side, in the order of their rows. */
typedef struct {
    float *scores;     /* [rows, experts] */
    int32_t *experts;  /* [rows, chosen] the best first */
    float *weights;    /* [rows, chosen] */
    int32_t *places;   /* [rows, chosen] where a choice lies */
    int32_t *starts;   /* [experts + 1] the first place of each expert */
    int32_t *used;     /* [experts] those that were chosen */
    int32_t count;     /* of them */
    char *input;       /* [places, hidden] prepared */
    char *inner;       /* [places, inner] prepared */
    float *given;      /* [places, hidden] */
    float *whole;      /* [rows, hidden] what experts with norms of their own give together */
} choices;

typedef struct {
    const decoder *model;
    const pass *asked; /* what is asked, or `fewer` */
    pass fewer;        /* the same of those rows alone whose logits are wanted */
    int32_t *kept;     /* [4, wanted] of `fewer` what is told of rows */
    float *stream;     /* [rows, hidden] the residual stream */
    float *queries;    /* [rows and those that are repeated, outputs of QUERY]; so are values, decays and seen */
    float *keys;       /* [rows, outputs of KEY] */
    float *values;     /* [rows, outputs of VALUE] */
    float *decays;     /* [rows, outputs of DECAY] */
    float *tokens;     /* [rows, outputs of TOKEN] */
    float *latents;    /* [rows, outputs of LATENT] */
    float *query_latents; /* [rows, outputs of LATENT_QUERY] */
    float *seen;       /* [rows, heads * size] what attention or a recurrent layer gives */
    float *plain;      /* [rows, widest] what becomes input */
    char *input;       /* [rows, widest] prepared */
    char *second;      /* the perceptron's inner input, prepared */
    float *amounts;    /* [rows] how much of what the perceptron gives is added, before the logistic function */
    char *packed;      /* [rows, widest] prepared rows as tiles read them */
    float *reduced;    /* [TOGETHER, rows, rank] A x of the matrices of one phase */
    int32_t *begins;   /* [runs + 1] first rows of each sequence */
    int32_t *repeats;  /* [runs] of each sequence, behind `rows`, the first of those that are repeated */
    int64_t runs;
    choices mixture;   /* of layers with experts */
    float *own;        /* of each thread */
    int64_t own_count;
    char *room;        /* of each thread, for products by tiles */
    int64_t room_bytes;
} state;

#define TOGETHER 4 /* matrices of one phase, at most */
#define PIECE 256 /* outputs that a thread takes at once, at most */
#define UNIT (2 * TILE) /* of which it takes a multiple */

/* The next outputs of a matrix, from `*first` to `*last`; 0 when none is left. */
INLINE int take_outputs(int64_t out, int64_t *first, int64_t *last) {
    const int64_t some = take((out + UNIT - 1) / UNIT, PIECE / UNIT, first);
    if (!some) return 0;
    *first *= UNIT;
    *last = *first + some * UNIT < out ? *first + some * UNIT : out;
    return 1;
}

static char *taken(char **from, int64_t bytes) {
    char *start = *from;
    *from = (char *)((uintptr_t)start + (uintptr_t)(bytes + 63) / 64 * 64);
    return start;
}

/* What a perceptron makes of some of its inner outputs: activated gates times them, or they activated where it has no gates. */
INLINE void gated(int64_t activation, const float *gate, const float *up, int64_t count, float *to) {
    for (int64_t o = 0; o < count; o += LANES) {
        const floats u = *(const floats *)(up + o);
        if (gate) *(floats *)(to + o) = activated(activation, *(const floats *)(gate + o)) * u;
        else *(floats *)(to + o) = activated(activation, u);
    }
}
