/* What Python fills in. The same fields in the same order stand in layout.py. */
#pragma once
#include <stdint.h>

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };
enum { HALVES = 0, NEIGHBOURS = 1, APART = 2 }; /* which numbers of a head turn together; APART: neighbours, which come out
                                                 * as halves */
enum { SILU = 0, GELU = 1, GELU_TANH = 2, SQUARED = 3 }; /* SQUARED: what is above 0 */

typedef struct {
    const void *weight; /* [out, in] */
    const float *scale; /* [out], of INT8 */
    const float *bias;  /* [out] or null */
    int64_t in, out, kind;
    float factor; /* of all outputs; not of experts, a router or the head */
} matrix;

enum { EXPERT_GATE, EXPERT_UP, EXPERT_DOWN, EXPERT_MATRICES };

typedef struct {
    matrix router;          /* [experts, hidden] */
    const matrix *matrices; /* [experts, EXPERT_MATRICES]; without EXPERT_GATE the activation is of EXPERT_UP */
    const float *correction; /* [experts] or null: what is added to scores for the choice alone */
    const float *scales;     /* [experts] or null: factors of their weights */
    const float *routed, *before, *after, *beside; /* [hidden] norms: of the router's input, of the experts' input and of
                             * what these give, and of what the perceptron beside them gives; or all null */
    int64_t count, chosen;  /* experts, and how many of them compute a row */
    int64_t inner;          /* their outputs of gate and up */
    int64_t whole;          /* 1 where the weights of those sum to 1 */
    int64_t groups, best_groups; /* of neighbouring experts; those that are chosen from, 0 for all */
    int64_t competing;      /* with a correction: 1 where scores are a softmax, else each is a logistic function */
    int64_t alternating;    /* 1 where EXPERT_UP gives gates and what is gated by turns, and there is no EXPERT_GATE */
    float factor, rest, least; /* of all weights; with a correction: what is added to their sum before it becomes 1, and what
                                * it is at least */
    float limit, slope, lift; /* with a limit of gates x and of what is gated, y: (y + lift) * x * logistic(slope * x) */
} mixture;

enum { DELTA = 0, CONVOLUTION = 1, SCAN = 2 };

/* A layer that remembers by a state of one size, in the place of attention. */
typedef struct {
    const float *filter;      /* [taps, channels] factors of a channel's last inputs, the oldest first */
    const float *filter_bias; /* [channels] or null */
    const float *rate;        /* [value heads] how fast they forget */
    const float *time_bias;   /* [value heads] */
    const float *skip;        /* of a SCAN: [value heads] how much of a value is seen as it is */
    const float *norm;        /* of what is seen: [value size] of a head, of a SCAN [value heads * value size] or null */
    int64_t kind;
    int64_t norms;            /* of a SCAN: into how many of them the heads are divided */
    int64_t normed_first;     /* of a SCAN: 1 where the norm comes before the gates */
    int64_t channels, taps;   /* what is mixed with its last inputs, and how many of them */
    int64_t key_heads, value_heads, key_size, value_size; /* 0 of a CONVOLUTION, which has no heads */
    int64_t place;            /* where its part of a sequence's state begins */
    int64_t trace;            /* where its part of a row's trace begins */
    float epsilon;
    float least_time;         /* of a SCAN: that a token is written for */
} recurrence;

enum { QUERY, KEY, VALUE, OUT, GATE, UP, DOWN, AMOUNT, DECAY, TOKEN, TOKEN_GATE, TOKEN_OUT, LATENT_QUERY, LATENT,
       MATRICES };
/* AMOUNT gives one number, how much of what the perceptron gives is added, by a logistic function; where there is none, all.
 * Without VALUE values are what KEY gives; without both a layer looks at the keys and values of one before it.
 * Of a recurrent layer QUERY, KEY, VALUE and DECAY give, by its kind:
 *   DELTA: queries, keys and values; gates of what is seen; of each value head how much is learnt; how much is forgotten
 *   CONVOLUTION: gates of inputs; gates of what is seen; inputs
 *   SCAN: values, keys and queries; gates of what is seen; of each value head for how long a token is written
 * Else there is no DECAY.
 * Where tokens have embeddings of their own for each layer: TOKEN, which the first layer holds for all, gives what is added
 * to them; TOKEN_GATE how much of the sum counts, by the activation; and TOKEN_OUT what becomes of it.
 * Where keys and values are made of latents: LATENT gives a row's latent, and behind it the numbers of a key that turn, which all
 * heads share; KEY makes of the latent what is before these in each head's key, and behind that its value. LATENT_QUERY gives
 * what QUERY makes queries of; without it these are made of the layer's input. */

/* Attention or what is in its place, and a perceptron or a mixture of them; or one of both alone, without the matrices of the
 * other. */
typedef struct {
    matrix matrices[MATRICES];          /* without the perceptron's where there is a mixture in its place; without GATE the
                                         * activation is of UP */
    const recurrence *recurrent;        /* or null where there is attention */
    const mixture *experts;             /* or null; the perceptron beside it is of all rows */
    const float *before, *after;        /* norms of attention's and of the perceptron's input [hidden], or null */
    const float *attended, *perceived;  /* norms of what they give, before it is added; or null */
    const float *reminded;              /* norm of what TOKEN_OUT gives; null where there is none */
    const float *query_norm, *key_norm, *value_norm; /* [size] or null */
    const float *queries_norm, *keys_norm; /* of all heads together [heads * size], [key heads * size]; or null */
    const float *latent_query_norm, *latent_norm; /* of latents, or null */
    const float *sinks;                 /* [heads] a score of each for seeing nothing; or null */
    int64_t heads, key_heads, size, value_size; /* of attention; `size` of a query and a key */
    int64_t steady;                     /* numbers of a head before those that turn */
    int64_t query_size;                 /* twice `size` where a head's queries are followed by a gate of what it sees */
    int64_t window;                     /* tokens that are seen, 0 for all */
    int64_t angles, rotary;             /* which of the tables of rotary positions, and how many of its numbers */
    int64_t place;                      /* numbers of each token that lie before its keys and values */
    int64_t beside;                     /* 1 where it takes the input that the layer before it took */
    float scale;                        /* of the stream behind it, where what it gives has norms */
} layer;

typedef struct {
    const layer *layers;
    const void *embeddings; /* [vocabulary, hidden] */
    const float *norm;
    matrix head;
    const void *token_embeddings; /* [vocabulary, outputs of TOKEN] those of each layer; or null */
    const float *token_norm;      /* of a layer's part of what TOKEN gives */
    int64_t count, hidden, rotary, embeddings_kind, token_kind, cache_kind, activation;
    int64_t experts, chosen, expert_inner; /* the most of any layer; 0 without mixtures */
    int64_t alone;        /* the first layer from which on none keeps keys and values, or `count` */
    int64_t turns;        /* by rotary positions: HALVES, NEIGHBOURS or APART */
    int64_t turned_first; /* 1 where norms of queries and keys come after that */
    int64_t trace;        /* numbers of a row's trace: what all recurrent layers take in of it, as projected */
    int64_t known;        /* positions after which queries grow with the logarithm of their place; 0 where they do not */
    float epsilon, query_epsilon, token_epsilon, scaling;
    float growth;
    float embedding_scale, token_scale, branch_scale, logit_scale; /* factors of both embeddings, of what is added, and of
                             * logits */
    float score_cap, logit_cap; /* cap * tanh(x / cap) in place of x; 0 for none */
} decoder;

typedef struct {
    const float *down; /* A [rank, in]; null where this matrix is not adapted */
    const float *up;   /* B scaled [out / 16, rank, 16] */
    int64_t rank;           /* a multiple of 16 */
} change;

typedef struct {
    void *block;      /* of each layer with keys and values [key heads, capacity, size], then [.., value size] */
    int64_t capacity;
    float *state;     /* of all recurrent layers */
    const change *changes; /* [layers, MATRICES] or null */
    const float *repeated; /* [repeats, trace] of the tokens before this pass that the state does not know yet */
    float *traces;         /* [guesses, trace] which the pass fills in */
    int64_t repeats;
    int64_t guesses;       /* last rows, which the pass keeps out of the state */
} sequence;

typedef struct {
    int64_t rows, wanted, threads;
    const int32_t *tokens, *positions, *owners; /* [rows]; `owners` are places in `sequences` */
    const int32_t *places;                      /* [wanted] rows whose logits are asked for */
    const sequence *sequences;
    const float *cosines, *sines; /* [tables, angles, rotary] */
    float *logits;                /* [wanted, vocabulary] */
    int64_t most_rank;            /* of all changes; 0 where no row has any */
    int64_t angles;               /* positions in a table */
} pass;
