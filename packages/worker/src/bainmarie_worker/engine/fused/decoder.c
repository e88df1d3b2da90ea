/* A decoder's forward pass, as one call: each weight is read once, in the layout of the checkpoint.
 *
 * A row is one token of one sequence. The pass is a list of phases; in each, the threads of a team take pieces of work
 * until none is left, and wait for each other at its end. Sums are made in float32 in an order that depends on
 * neither the number of rows nor the number of threads, so a row's result is the same in any company.
 *
 * Vectors are those of the compiler (GCC and Clang), as wide as the processor's; what they cannot say, the bf16 dot
 * product and the matrix unit, is used where it is there.
 */
#include <stdlib.h>

#include "changes.h"
#include "delta.h"
#include "experts.h"
#include "heads.h"
#include "scan.h"

/* The most inputs of any matrix. */
static int64_t widest(const decoder *m) {
    int64_t most = m->hidden;
    for (int64_t i = 0; i < m->count * MATRICES; i++) {
        const int64_t in = m->layers[i / MATRICES].matrices[i % MATRICES].in;
        most = in > most ? in : most;
    }
    return most;
}

static int64_t most_outputs(const decoder *m, int which) {
    int64_t most = 0;
    for (int64_t at = 0; at < m->count; at++) {
        const int64_t out = m->layers[at].matrices[which].out;
        most = out > most ? out : most;
    }
    return most;
}

/* What is still to be done for a branch before the next one begins: the norm of what it gave; or null where that is added
 * already. And a factor of the sum. */
typedef struct {
    const float *norm;
    float scale;
} unsettled;

static const unsettled settled = {NULL, 1};

/* What a branch gave, where it has a norm of its own, is added only now that the row is whole. */
INLINE void settle(state *s, int64_t row, unsettled branch) {
    if (!branch.norm) return;
    const decoder *m = s->model;
    float *to = s->stream + row * m->hidden, *given = s->plain + row * m->hidden;
    normalized(given, branch.norm, m->hidden, m->epsilon, given);
    for (int64_t i = 0; i < m->hidden; i++) to[i] = (to[i] + m->branch_scale * given[i]) * branch.scale;
}

/* Where prepared rows are in the form that products with a matrix read: the same place, or another where they are packed. */
static const char *packed(state *s, const matrix *next, const char *from, int64_t rows) {
#if HAS_TILES
    if (by_tiles(next) && rows > 1) {
        const int64_t parts = (next->in + PANEL - 1) / PANEL, groups = (rows + TILE - 1) / TILE;
        for (int64_t p = piece(); p < groups * parts; p = piece()) {
            const int64_t first = p % parts * PANEL;
            pack(from, next->in, p / parts, first, first + PANEL < next->in ? first + PANEL : next->in, s->packed);
        }
        meet(begin_of(next));
        return s->packed;
    }
#endif
    (void)s, (void)next, (void)rows;
    return from;
}

/* Normalized rows, or the rows themselves, as input of matrices, of which `first` is the first. `before` is the branch
 * before. */
static void norm_rows(state *s, unsettled before, const float *weight, const matrix *first) {
    const int64_t hidden = s->model->hidden, kind = first->kind;
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        settle(s, r, before);
        if (weight) normalized(s->stream + r * hidden, weight, hidden, s->model->epsilon, s->plain + r * hidden);
        else memcpy(s->plain + r * hidden, s->stream + r * hidden, 4 * hidden);
        prepare(kind, s->plain + r * hidden, s->input + r * hidden * INPUT_BYTES(kind), hidden);
    }
    meet(begin_of(first));
}

INLINE void prepare_row(int64_t r, const float *from, char *to, const matrix *next) {
    prepare(next->kind, from + r * next->in, to + r * next->in * INPUT_BYTES(next->kind), next->in);
}

/* Outputs of matrices with one input for all rows. */
static void project(state *s, int64_t at, const int *which, float *const *to, int count, const matrix *next, char *room) {
    const layer *l = &s->model->layers[at];
    int64_t end[TOGETHER], all = 0, first;
    for (int m = 0; m < count; m++) end[m] = all += (l->matrices[which[m]].out + UNIT - 1) / UNIT;
    reduce(s, at, which, count, s->plain);
    const char *x = packed(s, &l->matrices[which[0]], s->input, s->asked->rows);
    for (int64_t some; (some = take(all, PIECE / UNIT, &first));)
        for (int m = 0; m < count; m++) {
            const matrix *w = &l->matrices[which[m]];
            const int64_t begin = m ? end[m - 1] : 0, from = (first > begin ? first - begin : 0) * UNIT;
            const int64_t until = (first + some - begin) * UNIT, last = until < w->out ? until : w->out;
            if (from >= last) continue;
            multiply(w, from, last, by_tiles(w) ? x : s->input, s->asked->rows, to[m] + from, w->out, room);
            completed(s, at, which[m], m, w, from, last, to[m] + from, w->out);
        }
    meet(begin_of(next));
}

static void project_one(state *s, int64_t at, int which, float *to, const matrix *next, char *room) {
    project(s, at, &which, &to, 1, next, room);
}

/* Latents, normalized, as input of the matrix that makes something of them. `rows` is the matrix that gave them. */
static void norm_latents(state *s, const matrix *rows, const float *norm, const float *from, const matrix *next) {
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        normalized(from + r * rows->out, norm, next->in, s->model->query_epsilon, s->plain + r * next->in);
        prepare_row(r, s->plain, s->input, next);
    }
    meet(begin_of(next));
}

/* Queries, and keys and values, by way of latents. */
static void project_latents(state *s, int64_t at, char *room) {
    const layer *l = &s->model->layers[at];
    const matrix *query = &l->matrices[LATENT_QUERY], *key = &l->matrices[KEY];
    const int which[] = {query->weight ? LATENT_QUERY : QUERY, LATENT};
    float *const to[] = {query->weight ? s->query_latents : s->queries, s->latents};
    project(s, at, which, to, 2, query->weight ? query : key, room);
    if (query->weight) {
        norm_latents(s, query, l->latent_query_norm, s->query_latents, &l->matrices[QUERY]);
        project_one(s, at, QUERY, s->queries, key, room);
    }
    norm_latents(s, &l->matrices[LATENT], l->latent_norm, s->latents, key);
    project_one(s, at, KEY, s->keys, &l->matrices[OUT], room);
}

/* Rows of what attention or a recurrent layer gave, made input of the next matrix. */
static void prepare_seen(state *s, const layer *l) {
    const matrix *next = &l->matrices[OUT];
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        if (!l->recurrent && l->query_size > l->size) gate_queries(s, l, r);
        else if (l->recurrent && l->recurrent->kind == DELTA) gate_heads(s, l->recurrent, r);
        else if (l->recurrent && l->recurrent->kind == SCAN) gate_groups(s, l->recurrent, r);
        prepare_row(r, s->seen, s->input, next);
    }
    meet(begin_of(next));
}

/* stream += matrix x input, or what has a norm of its own into `plain`; `next` is the matrix that comes after it */
static void add(state *s, int64_t at, int which, const float *branch_norm, const matrix *next, const float *plain,
                const char *input, float *own, char *room) {
    const float scale = s->model->branch_scale;
    const matrix *w = &s->model->layers[at].matrices[which];
    const int64_t hidden = s->model->hidden, rows = s->asked->rows;
    reduce(s, at, &which, 1, plain);
    const char *x = packed(s, w, input, rows);
    for (int64_t first, last; take_outputs(w->out, &first, &last);) {
        float *to = branch_norm ? s->plain + first : own;
        const int64_t stride = branch_norm ? hidden : PIECE;
        multiply(w, first, last, x, rows, to, stride, room);
        completed(s, at, which, 0, w, first, last, to, stride);
        for (int64_t r = 0; r < rows && !branch_norm; r++)
            for (int64_t o = first; o < last; o++) s->stream[r * hidden + o] += scale * own[r * PIECE + o - first];
    }
    meet(begin_of(next));
}

/* Normalized rows as input of a matrix of another kind than that which they were prepared for. */
static void prepare_again(state *s, const matrix *next) {
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) prepare_row(r, s->plain, s->input, next);
    meet(begin_of(next));
}

static void perceptron(state *s, int64_t at, float *own, char *room) {
    static const int which[] = {UP, GATE, AMOUNT};
    const layer *l = &s->model->layers[at];
    const matrix *gate = &l->matrices[GATE], *up = &l->matrices[UP], *amount = &l->matrices[AMOUNT];
    const int64_t rows = s->asked->rows;
    float *other = own + rows * PIECE;
    reduce(s, at, which, amount->weight ? 3 : gate->weight ? 2 : 1, s->plain);
    const char *x = packed(s, up, s->input, rows);
    for (int64_t first, last; take_outputs(up->out, &first, &last);) {
        if (amount->weight && !first) {
            multiply(amount, 0, 1, s->input, rows, s->amounts, 1, room);
            completed(s, at, AMOUNT, 2, amount, 0, 1, s->amounts, 1);
        }
        if (gate->weight) {
            multiply(gate, first, last, x, rows, other, PIECE, room);
            completed(s, at, GATE, 1, gate, first, last, other, PIECE);
        }
        multiply(up, first, last, x, rows, own, PIECE, room);
        completed(s, at, UP, 0, up, first, last, own, PIECE);
        for (int64_t r = 0; r < rows; r++)
            gated(s->model->activation, gate->weight ? other + r * PIECE : NULL, own + r * PIECE, last - first,
                  s->seen + r * up->out + first);
    }
    meet(begin_of(&l->matrices[DOWN]));
    for (int64_t r = piece(); r < rows; r = piece()) {
        const float part = amount->weight ? logistic(s->amounts[r]) : 1;
        for (int64_t i = r * up->out; amount->weight && i < (r + 1) * up->out; i++) s->seen[i] *= part;
        prepare_row(r, s->seen, s->second, &l->matrices[DOWN]);
    }
    meet(begin_of(&l->matrices[DOWN]));
}

/* The first matrices of a layer's perceptron, and of a layer. */
static const matrix *inner_of(const layer *l) { return &l->matrices[l->matrices[GATE].weight ? GATE : UP]; }

static const matrix *entry_of(const layer *l) { return l->experts ? &l->experts->router : inner_of(l); }

static const matrix *query_entry_of(const layer *l) {
    return &l->matrices[l->matrices[LATENT_QUERY].weight ? LATENT_QUERY : QUERY];
}

static const matrix *first_of(const layer *l) { return l->matrices[QUERY].weight ? query_entry_of(l) : entry_of(l); }

/* Numbers of a table of embeddings, from `at` on, as floats. */
INLINE void embedded(int64_t kind, const void *table, int64_t at, int64_t count, float scale, float *to) {
    if (kind == FLOAT32) memcpy(to, (const float *)table + at, 4 * count);
    else
        for (int64_t i = 0; i < count; i++) to[i] = from_bf16(((const uint16_t *)table)[at + i]);
    for (int64_t i = 0; i < count; i++) to[i] *= scale;
}

static void begin(state *s) {
    const decoder *m = s->model;
    for (int64_t r = piece(); r < s->asked->rows; r = piece())
        embedded(m->embeddings_kind, m->embeddings, (int64_t)s->asked->tokens[r] * m->hidden, m->hidden,
                 m->embedding_scale, s->stream + r * m->hidden);
    meet(begin_of(first_of(&m->layers[0])));
}

/* What is added to the embeddings that tokens have for each layer. */
static void begin_tokens(state *s, char *room) {
    const layer *l = s->model->layers;
    norm_rows(s, settled, NULL, &l->matrices[TOKEN]);
    project_one(s, 0, TOKEN, s->tokens, first_of(l), room);
}

/* A layer's own embedding of a row's token, gated by the stream behind the perceptron. */
static void remind(state *s, int64_t at, const matrix *next, float *own, char *room) {
    const decoder *m = s->model;
    const layer *l = &m->layers[at];
    const matrix *gate = &l->matrices[TOKEN_GATE], *out = &l->matrices[TOKEN_OUT];
    const int64_t size = gate->out, all = m->layers[0].matrices[TOKEN].out;
    norm_rows(s, (unsettled){l->perceived, 1}, NULL, gate);
    project_one(s, at, TOKEN_GATE, s->seen, out, room);
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        float *to = s->seen + r * size, *added_to = s->tokens + r * all + at * size, *token = s->plain + r * size;
        normalized(added_to, m->token_norm, size, m->token_epsilon, added_to);
        embedded(m->token_kind, m->token_embeddings, s->asked->tokens[r] * all + at * size, size, m->token_scale, token);
        for (int64_t i = 0; i < size; i += LANES)
            *(floats *)(to + i) = activated(m->activation, *(floats *)(to + i)) *
                                  (*(floats *)(token + i) + *(floats *)(added_to + i));
        prepare_row(r, s->seen, s->second, out);
    }
    meet(begin_of(out));
    add(s, at, TOKEN_OUT, l->reminded, next, s->seen, s->second, own, room);
}

/* Scale, bias and cap of logits. */
static void completed_logits(const decoder *m, int64_t first, int64_t last, float *to) {
    for (int64_t o = first; o < last; o++) {
        if (m->head.kind == INT8) to[o] *= m->head.scale[o];
        if (m->head.bias) to[o] += m->head.bias[o];
        to[o] *= m->logit_scale;
    }
    if (m->logit_cap <= 0) return;
    int64_t o = first;
    for (; o + LANES <= last; o += LANES) *(floats *)(to + o) = capped(*(floats *)(to + o), m->logit_cap);
    for (; o < last; o++) to[o] = m->logit_cap * tanhf(to[o] / m->logit_cap);
}

static void finish(state *s, unsettled before, char *room) {
    const decoder *m = s->model;
    const matrix *head = &m->head;
    const int64_t wanted = s->asked->wanted;
    for (int64_t w = piece(); w < wanted; w = piece()) {
        settle(s, s->asked->places[w], before);
        normalized(s->stream + s->asked->places[w] * m->hidden, m->norm, m->hidden, m->epsilon, s->seen + w * m->hidden);
        prepare(head->kind, s->seen + w * m->hidden, s->input + w * m->hidden * INPUT_BYTES(head->kind), m->hidden);
    }
    meet(begin_of(head));
    const char *x = packed(s, head, s->input, wanted);
    for (int64_t first, last; wanted && take_outputs(head->out, &first, &last);) {
        float *to = s->asked->logits + first;
        multiply(head, first, last, x, wanted, to, head->out, room);
        for (int64_t w = 0; w < wanted; w++) completed_logits(m, first, last, s->asked->logits + w * head->out);
    }
}

/* What the perceptron beside experts with norms of their own gave, and what these gave, as what the branch gives. */
static void join(state *s, const layer *l, const matrix *next) {
    const int64_t hidden = s->model->hidden;
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        float *to = s->plain + r * hidden, *from = s->mixture.whole + r * hidden;
        normalized(to, l->experts->beside, hidden, s->model->epsilon, to);
        for (int64_t i = 0; i < hidden; i++) to[i] += from[i];
    }
    meet(begin_of(next));
}

/* Whether a row is the first of its sequence. */
INLINE int begins_at(const pass *asked, int64_t r) { return !r || asked->owners[r] != asked->owners[r - 1]; }

/* Rows of all sequences that are repeated. */
static int64_t repeats_of(const pass *asked) {
    int64_t count = 0;
    for (int64_t r = 0; r < asked->rows; r++)
        if (begins_at(asked, r)) count += asked->sequences[asked->owners[r]].repeats;
    return count;
}

/* Finds the neighbouring rows of one sequence, and places for those that are repeated. */
static void find_runs(state *s) {
    const pass *asked = s->asked;
    int64_t repeated = asked->rows;
    s->runs = 0;
    for (int64_t r = 0; r < asked->rows; r++) {
        if (!begins_at(asked, r)) continue;
        s->repeats[s->runs] = (int32_t)repeated;
        s->begins[s->runs++] = (int32_t)r;
        repeated += asked->sequences[asked->owners[r]].repeats;
    }
    s->begins[s->runs] = (int32_t)asked->rows;
}

/* Rows whose logits are not wanted go: nobody looks at what they would keep from here on. `before` is the
 * branch before. */
static void leave_rows(state *s, unsettled before) {
    const decoder *m = s->model;
    const pass *asked = s->asked;
    const int64_t hidden = m->hidden, all = m->layers[0].matrices[TOKEN].out, wanted = asked->wanted;
    for (int64_t w = piece(); w < wanted; w = piece()) settle(s, asked->places[w], before);
    meet((soon){0});
    if (!piece()) {
        int32_t *tokens = s->kept, *positions = tokens + wanted, *owners = positions + wanted, *places = owners + wanted;
        for (int64_t w = 0; w < wanted; w++) { /* `places` rise */
            const int64_t r = asked->places[w];
            memmove(s->stream + w * hidden, s->stream + r * hidden, 4 * hidden);
            memmove(s->tokens + w * all, s->tokens + r * all, 4 * all);
            tokens[w] = asked->tokens[r];
            positions[w] = asked->positions[r];
            owners[w] = asked->owners[r];
            places[w] = (int32_t)w;
        }
        s->fewer = *asked;
        s->fewer.rows = wanted;
        s->fewer.tokens = tokens;
        s->fewer.positions = positions;
        s->fewer.owners = owners;
        s->fewer.places = places;
        s->asked = &s->fewer;
        find_runs(s);
    }
    meet((soon){0});
}

/* Attention or what is in its place. `before` is the branch before it, `next` the matrix that comes after it. */
static void look(state *s, int64_t at, unsettled before, const matrix *next, float *own, char *room) {
    static const int which[TOGETHER] = {QUERY, KEY, VALUE, DECAY};
    const layer *l = &s->model->layers[at];
    const matrix *query = query_entry_of(l), *out = &l->matrices[OUT];
    float *const to[] = {s->queries, s->keys, s->values, s->decays};
    if (l->beside) prepare_again(s, query);
    else norm_rows(s, before, l->before, query);
    if (l->matrices[LATENT].weight) project_latents(s, at, room);
    else project(s, at, which, to, l->matrices[DECAY].weight ? 4 : 3, out, room);
    if (!l->recurrent) {
        place_rows(s, at);
        attention(s, at, own);
    } else if (l->recurrent->kind == CONVOLUTION) {
        convolve(s, l->recurrent, out, own);
    } else if (l->recurrent->kind == SCAN) {
        scan(s, l->recurrent, out, own);
    } else {
        delta_rule(s, l->recurrent, out, own);
    }
    prepare_seen(s, l);
    add(s, at, OUT, l->attended, next, s->seen, s->input, own, room);
}

/* A perceptron, a mixture of them, or one of both. */
static void think(state *s, int64_t at, unsettled before, const matrix *next, float *own, char *room) {
    const layer *l = &s->model->layers[at];
    const matrix *entry = entry_of(l), *inner = inner_of(l);
    const int apart = l->experts && l->experts->before;
    norm_rows(s, before, apart ? l->experts->routed : l->after, entry);
    if (l->experts) {
        mixed(s, l->experts, l->perceived, inner->weight ? inner : next, own);
        if (!inner->weight) return;
        if (apart) norm_rows(s, settled, l->after, inner);
        else if (inner->kind != l->experts->matrices[EXPERT_UP].kind) prepare_again(s, inner);
    }
    perceptron(s, at, own, room);
    add(s, at, DOWN, l->perceived, next, s->seen, s->second, own, room);
    if (apart) join(s, l, next);
}

static void run(void *argument, unsigned thread) {
    state *s = argument;
    const decoder *m = s->model;
    unsettled before = settled;
    float *own = s->own + thread * s->own_count;
    char *room = s->room + thread * s->room_bytes;
    begin_tiles();
    begin(s);
    if (m->token_embeddings) begin_tokens(s, room);
    for (int64_t at = 0; at < m->count; at++) {
        const layer *l = &m->layers[at];
        const matrix *after = at + 1 < m->count ? first_of(l + 1) : &m->head;
        const int leaving = at == m->alone && s->asked->wanted < s->asked->rows;
        if (leaving && !s->asked->wanted) break;
        if (leaving) {
            leave_rows(s, before);
            before = settled;
        }
        const matrix *behind = l->reminded ? &l->matrices[TOKEN_GATE] : after;
        const int looks = l->matrices[QUERY].weight != NULL, thinks = entry_of(l)->weight != NULL;
        if (looks) look(s, at, before, thinks ? entry_of(l) : after, own, room);
        if (looks) before = (unsettled){l->attended, 1};
        if (thinks) think(s, at, before, behind, own, room);
        if (l->reminded) remind(s, at, after, own, room);
        if (thinks) before = (unsettled){l->reminded ? l->reminded : l->perceived, l->scale};
    }
    finish(s, before, room);
    end_tiles();
}

/* What a thread needs for attention, of any layer. */
static int64_t most_of_attention(const decoder *m) {
    int64_t most = 0;
    for (int64_t at = 0; at < m->count; at++) {
        const layer *l = &m->layers[at];
        if (!l->heads) continue;
        const int64_t needed = floats_of_attention(rows_together(l) * (l->heads / l->key_heads), l->size, l->value_size);
        most = needed > most ? needed : most;
    }
    return most;
}

/* What a thread needs for guesses, in any layer. */
static int64_t most_of_guesses(const decoder *m) {
    int64_t most = 0;
    for (int64_t at = 0; at < m->count; at++) {
        const recurrence *d = m->layers[at].recurrent;
        const int64_t needed = d ? floats_of_guesses(d) : 0;
        most = needed > most ? needed : most;
    }
    return most;
}

/* 1 where products are made by the processor's matrix unit. */
int bainmarie_tiles(void) {
    ask_for_tiles();
    return with_tiles;
}

/* One pass. 0, or 1 where there was no memory for it. One call at a time. */
int bainmarie_forward(const decoder *m, const pass *asked) {
    ask_for_tiles();
    const int64_t rows = asked->rows > asked->wanted ? asked->rows : asked->wanted, most = widest(m);
    const int64_t repeats = repeats_of(asked), by_guesses = most_of_guesses(m);
    const int64_t readable = (rows + TILE - 1) / TILE * TILE; /* rows that may be read, whatever stands there */
    const int64_t threads = asked->threads < MOST_THREADS ? asked->threads : MOST_THREADS;
    const int64_t by_products = 2 * rows * PIECE, by_attention = most_of_attention(m);
    const int64_t by_others = by_attention > by_guesses ? by_attention : by_guesses;
    state s = {.model = m, .asked = asked};
    s.own_count = ((by_products > by_others ? by_products : by_others) + 63) / 16 * 16;
    const int64_t queries = most_outputs(m, QUERY), keys = most_outputs(m, KEY);
    const int64_t given = most_outputs(m, VALUE), values = given > keys ? given : keys; /* keys may be values */
    const int64_t decays = most_outputs(m, DECAY), tokens = most_outputs(m, TOKEN);
    const int64_t latents = most_outputs(m, LATENT), query_latents = most_outputs(m, LATENT_QUERY);
    const int64_t projected = queries + keys + values + decays + tokens + latents + query_latents;
    const int64_t floats_of_row = m->hidden + projected + 5 * most + TOGETHER * asked->most_rank + 8;
    s.room_bytes = room_of_tiles(rows);
    const int64_t by_choices = m->chosen ? (int64_t)lay_out(&s.mixture, m, rows, NULL) : 0;
    const int64_t numbers = readable * floats_of_row + repeats * (queries + values + decays + most) + threads * s.own_count;
    const int64_t bytes = 4 * numbers + threads * s.room_bytes + by_choices;
    char *memory = aligned_alloc(64, (bytes / 64 + 64) * 64), *at = memory;
    if (!memory) return 1;
    s.stream = (float *)taken(&at, 4 * rows * m->hidden);
    s.queries = (float *)taken(&at, 4 * (rows + repeats) * queries);
    s.keys = (float *)taken(&at, 4 * rows * keys);
    s.values = (float *)taken(&at, 4 * (rows + repeats) * values);
    s.decays = (float *)taken(&at, 4 * (rows + repeats) * decays);
    s.tokens = (float *)taken(&at, 4 * rows * tokens);
    s.latents = (float *)taken(&at, 4 * rows * latents);
    s.query_latents = (float *)taken(&at, 4 * rows * query_latents);
    s.seen = (float *)taken(&at, 4 * (rows + repeats) * most);
    s.plain = (float *)taken(&at, 4 * rows * most);
    s.input = taken(&at, 4 * readable * most);
    s.second = taken(&at, 4 * readable * most);
    s.packed = taken(&at, 4 * readable * most);
    s.amounts = (float *)taken(&at, 4 * rows);
    s.reduced = (float *)taken(&at, 4 * TOGETHER * rows * asked->most_rank);
    s.begins = (int32_t *)taken(&at, 4 * (rows + 1));
    s.repeats = (int32_t *)taken(&at, 4 * rows);
    s.kept = (int32_t *)taken(&at, 4 * 4 * rows);
    s.own = (float *)taken(&at, 4 * threads * s.own_count);
    s.room = taken(&at, threads * s.room_bytes);
    if (m->chosen) lay_out(&s.mixture, m, rows, at);
    find_runs(&s);
    together((unsigned)threads, run, &s);
    free(memory);
    return 0;
}
