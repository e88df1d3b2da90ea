/* A decoder's forward pass for a few rows, as one call: each weight is read once, in the layout of the checkpoint.
 *
 * A row is one token of one sequence. The pass is a list of phases; in each, the threads of a team take pieces of work
 * until none is left, and wait for each other at its end. Sums are made in float32 in an order that depends on
 * neither the number of rows nor the number of threads, so a row's result is the same in any company.
 *
 * Vectors are those of the compiler (GCC and Clang), as wide as the processor's; the one instruction that they cannot
 * say, the bf16 dot product, is used where it is there.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define MOST_ROWS 6 /* of one tile */
#elif defined(__AVX__)
#define LANES 8
#define MOST_ROWS 2
#else
#define LANES 4
#define MOST_ROWS 4
#endif
#define OUTPUTS 4 /* of one tile */
#define AHEAD 4096 /* bytes of weights that are under way at least */

#if defined(__AVX512BF16__) && LANES == 16
#include <immintrin.h>
#define HAS_DOT 1
#else
#define HAS_DOT 0
#endif

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
#define INLINE static inline __attribute__((always_inline))

/* What Python fills in. The same fields in the same order stand in structure.py. */

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };
enum { SILU = 0, GELU = 1, GELU_TANH = 2 };

typedef struct {
    const void *weight; /* [out, in] */
    const float *scale; /* [out], of INT8 */
    const float *bias;  /* [out] or null */
    int64_t in, out, kind;
} matrix;

enum { QUERY, KEY, VALUE, OUT, GATE, UP, DOWN, MATRICES };

typedef struct {
    matrix matrices[MATRICES];
    const float *before, *after;             /* norms of attention's and of the perceptron's input [hidden] */
    const float *query_norm, *key_norm;      /* [size] or null */
    int64_t window;                          /* tokens that are seen, 0 for all */
} layer;

typedef struct {
    const layer *layers;
    const void *embeddings; /* [vocabulary, hidden] */
    const float *norm;
    matrix head;
    int64_t count, hidden, inner, heads, key_heads, size, rotary, embeddings_kind, cache_kind, activation;
    float epsilon, query_epsilon, scaling, padding;
} decoder;

typedef struct {
    const float *down, *up; /* A [rank, in]; B scaled [out, rank]; null where this matrix is not adapted */
    int64_t rank;           /* a multiple of 32 */
} change;

typedef struct {
    void *block;      /* keys and values [layers, 2, key heads, capacity, size] */
    int64_t capacity;
    const change *changes; /* [layers, MATRICES] or null */
} sequence;

typedef struct {
    int64_t rows, wanted, threads;
    const int32_t *tokens, *positions, *owners; /* [rows]; `owners` are places in `sequences` */
    const int32_t *places;                      /* [wanted] rows whose logits are asked for */
    const sequence *sequences;
    const float *cosines, *sines; /* [positions, rotary] */
    float *logits;                /* [wanted, vocabulary] */
    int64_t most_rank;            /* of all changes; 0 where no row has any */
} pass;

/* Products */

#if HAS_DOT
#define INPUT_BYTES(kind) ((kind) == FLOAT32 ? 4 : 2)
#else
#define INPUT_BYTES(kind) 4
#endif
#define WEIGHT_BYTES(kind) ((kind) == FLOAT32 ? 4 : (kind) == BFLOAT16 ? 2 : 1)

INLINE uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to the nearest, ties to even */
}

INLINE float from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE floats evens(words pairs) { return (floats)(pairs << 16); }
INLINE floats odds(words pairs) { return (floats)(pairs & 0xffff0000u); }

/* The bf16 value of a float, as a float: what a 16-bit model would have handed on. */
INLINE float rounded(float value, int64_t kind) { return kind == FLOAT32 ? value : from_bf16(to_bf16(value)); }

/* A row of floats in the form that products with matrices of this kind read. */
static void prepare(int64_t kind, const float *from, void *to, int64_t count) {
    if (kind == FLOAT32) {
        memcpy(to, from, 4 * count);
        return;
    }
#if HAS_DOT
    for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[i] = to_bf16(from[i]);
#else
    float *out = to;
    if (kind == INT8) {
        for (int64_t i = 0; i < count; i++) out[i] = rounded(from[i], kind);
        return;
    }
    for (int64_t i = 0; i < count; i += 2 * LANES) /* the even ones of a vector's pairs, then the odd ones */
        for (int j = 0; j < LANES; j++) {
            out[i + j] = rounded(from[i + 2 * j], kind);
            out[i + LANES + j] = rounded(from[i + 2 * j + 1], kind);
        }
#endif
}

/* [pairs of a, pairs of b], each summed. */
INLINE floats folded(floats a, floats b) {
#if LANES == 16
#define EACH_SECOND(n) n, n + 2, n + 4, n + 6, n + 8, n + 10, n + 12, n + 14, n + 16, n + 18, n + 20, n + 22, n + 24, n + 26, n + 28, n + 30
#elif LANES == 8
#define EACH_SECOND(n) n, n + 2, n + 4, n + 6, n + 8, n + 10, n + 12, n + 14
#else
#define EACH_SECOND(n) n, n + 2, n + 4, n + 6
#endif
    return __builtin_shufflevector(a, b, EACH_SECOND(0)) + __builtin_shufflevector(a, b, EACH_SECOND(1));
}

INLINE float total(floats v) {
    for (int width = LANES; width > 1; width /= 2) v = folded(v, v);
    return v[0];
}

/* The totals of four vectors. */
INLINE void four_totals(const floats *sums, float *to) {
    floats all = folded(folded(sums[0], sums[1]), folded(sums[2], sums[3]));
    for (int width = LANES / 4; width > 1; width /= 2) all = folded(all, all);
    for (int i = 0; i < 4; i++) to[i] = all[i];
}

/* Weights come from memory far slower than they are used: those of the tile after next are asked for in time, which
 * makes a third more of the memory's speed than the processor's own foresight. */
INLINE void foresee(const char *ahead, const int outputs, int64_t row) {
#pragma GCC unroll 4
    for (int o = 0; o < outputs; o++) __builtin_prefetch(ahead + o * row, 0, 2);
}

/* `outputs` rows of a matrix times `rows` rows of input; `rows` and `outputs` are known when this is compiled. What
 * lies `ahead` bytes further on will be wanted soon. */
INLINE void tile(const int kind, const int rows, const int outputs, const char *weight, int64_t in, const char *x,
                 float *to, int64_t stride, int64_t ahead) {
    floats sums[MOST_ROWS * OUTPUTS];
#pragma GCC unroll 32
    for (int i = 0; i < rows * outputs; i++) sums[i] = (floats){0};
    const int64_t row = in * WEIGHT_BYTES(kind), input = in * INPUT_BYTES(kind);
    if (kind == FLOAT32 || (kind == INT8 && !HAS_DOT)) {
        for (int64_t i = 0; i < in; i += LANES) {
            floats w[OUTPUTS];
            foresee(weight + ahead + i * WEIGHT_BYTES(kind), outputs, row);
#pragma GCC unroll 16
            for (int o = 0; o < outputs; o++)
                w[o] = kind == FLOAT32 ? *(const floats *)(weight + o * row + 4 * i)
                                       : __builtin_convertvector(*(const bytes *)(weight + o * row + i), floats);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const floats v = *(const floats *)(x + r * input + 4 * i);
#pragma GCC unroll 16
                for (int o = 0; o < outputs; o++) sums[r * outputs + o] += w[o] * v;
            }
        }
    } else {
        for (int64_t i = 0; i < in; i += 2 * LANES) {
            foresee(weight + ahead + i * WEIGHT_BYTES(kind), outputs, row);
#if HAS_DOT
            __m512bh w[OUTPUTS];
#pragma GCC unroll 16
            for (int o = 0; o < outputs; o++) {
                if (kind == BFLOAT16) {
                    w[o] = (__m512bh)_mm512_loadu_si512(weight + o * row + 2 * i);
                } else {
                    const __m128i *eight = (const __m128i *)(weight + o * row + i);
                    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(eight)));
                    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(eight + 1)));
                    w[o] = _mm512_cvtne2ps_pbh(high, low);
                }
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const __m512bh v = (__m512bh)_mm512_loadu_si512(x + r * input + 2 * i);
#pragma GCC unroll 16
                for (int o = 0; o < outputs; o++)
                    sums[r * outputs + o] = (floats)_mm512_dpbf16_ps((__m512)sums[r * outputs + o], w[o], v);
            }
#else
            words w[OUTPUTS];
#pragma GCC unroll 16
            for (int o = 0; o < outputs; o++) w[o] = *(const words *)(weight + o * row + 2 * i);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const floats even = *(const floats *)(x + r * input + 4 * i);
                const floats odd = *(const floats *)(x + r * input + 4 * (i + LANES));
#pragma GCC unroll 16
                for (int o = 0; o < outputs; o++) {
                    sums[r * outputs + o] += evens(w[o]) * even;
                    sums[r * outputs + o] += odds(w[o]) * odd;
                }
            }
#endif
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
        if (outputs == 4) four_totals(sums + 4 * r, to + r * stride);
        else to[r * stride] = total(sums[r]);
}

/* Outputs `first` to `last` of a matrix [out, in] times rows of input, to[row * stride + output - first]. All rows pass
 * by four outputs, whose weights stay in the nearest cache meanwhile. */
INLINE void product_of(const int kind, const char *weight, int64_t in, int64_t first, int64_t last, const char *x,
                       int64_t rows, float *to, int64_t stride) {
    const int64_t row = in * WEIGHT_BYTES(kind), input = in * INPUT_BYTES(kind);
    const int64_t ahead = OUTPUTS * row > AHEAD ? OUTPUTS * row : (AHEAD + row - 1) / row * row;
#define ROWS(n)                                                                                             \
    for (; MOST_ROWS >= n && r + n <= rows; r += n)                                                         \
        if (last - o >= OUTPUTS) tile(kind, n, OUTPUTS, w, in, x + r * input, to + r * stride, stride, ahead); \
        else                                                                                                \
            for (int64_t i = 0; i < last - o; i++)                                                          \
                tile(kind, n, 1, w + i * row, in, x + r * input, to + r * stride + i, stride, ahead)
    for (int64_t o = first; o < last; o += OUTPUTS, to += OUTPUTS) {
        const char *w = weight + o * row;
        int64_t r = 0;
        ROWS(6);
        ROWS(4);
        ROWS(2);
        ROWS(1);
    }
}

static void product(int64_t kind, const void *weight, int64_t in, int64_t first, int64_t last, const void *x,
                    int64_t rows, float *to, int64_t stride) {
    if (kind == FLOAT32) product_of(FLOAT32, weight, in, first, last, x, rows, to, stride);
    else if (kind == BFLOAT16) product_of(BFLOAT16, weight, in, first, last, x, rows, to, stride);
    else product_of(INT8, weight, in, first, last, x, rows, to, stride);
}

/* Functions of one argument */

INLINE floats chosen(ints where, floats yes, floats no) { return (floats)((where & (ints)yes) | (~where & (ints)no)); }

/* e^x by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf coefficients); about 1 ulp. */
INLINE floats exponential(floats x) {
    x = chosen(x < -87.3f, (floats){0} - 87.3f, chosen(x > 88.3f, (floats){0} + 88.3f, x));
    const floats scaled = x * 1.44269504088896341f;
    const floats magic = (floats){0} + 12582912.0f; /* adding it rounds to a whole number */
    const floats whole = (scaled + magic) - magic;
    floats f = x - whole * 0.693359375f;
    f = f - whole * -2.12194440e-4f;
    floats y = (floats){0} + 1.9875691500e-4f;
    y = y * f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1.0f;
    const ints power = (__builtin_convertvector(whole, ints) + 127) << 23;
    return y * (floats)power;
}

INLINE floats activated(int64_t activation, floats x) {
    if (activation == SILU) return x / (1.0f + exponential(-x));
    if (activation == GELU_TANH) { /* x times the logistic function of 2 sqrt(2 / pi) (x + 0.044715 x^3) */
        const floats inner = 1.5957691216057308f * (x + 0.044715f * x * x * x);
        return x / (1.0f + exponential(-inner));
    }
    floats y;
    for (int i = 0; i < LANES; i++) y[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
    return y;
}

static void normalized(const float *x, const float *weight, int64_t count, float epsilon, float *to) {
    floats squares = {0};
    for (int64_t i = 0; i < count; i += LANES) {
        const floats v = *(const floats *)(x + i);
        squares += v * v;
    }
    const float by = 1.0f / sqrtf(total(squares) / (float)count + epsilon);
    for (int64_t i = 0; i < count; i += LANES)
        *(floats *)(to + i) = *(const floats *)(x + i) * by * *(const floats *)(weight + i);
}

/* A team of threads: they sleep between passes, and wait for each other by looking within one. */

#define MOST_THREADS 256
#define LOOKS 4000

typedef struct {
    _Alignas(64) atomic_uint next; /* the first piece of this phase that nobody has taken */
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint phase;
    _Alignas(64) atomic_uint job;
    atomic_uint busy;
    unsigned threads, made, sleeping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    void (*work)(void *, unsigned);
    void *argument;
} team;

static team here = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

INLINE void look_again(unsigned *looks) {
    if (++*looks > LOOKS) sched_yield(); /* the one that is waited for may need this core */
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

static void meet(void) {
    const unsigned phase = atomic_load(&here.phase);
    if (atomic_fetch_add(&here.arrived, 1) + 1 == here.threads) {
        atomic_store(&here.arrived, 0);
        atomic_store(&here.next, 0);
        atomic_store(&here.phase, phase + 1);
        return;
    }
    unsigned looks = 0;
    while (atomic_load_explicit(&here.phase, memory_order_acquire) == phase) look_again(&looks);
}

INLINE int64_t piece(void) { return atomic_fetch_add_explicit(&here.next, 1, memory_order_relaxed); }

static void *member(void *place) {
    const unsigned self = (unsigned)(uintptr_t)place;
    unsigned seen = 0;
    for (;;) {
        unsigned looks = 0, job;
        while ((job = atomic_load(&here.job)) == seen && looks < LOOKS) {
            looks++;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        if (job == seen) {
            pthread_mutex_lock(&here.lock);
            here.sleeping++;
            while ((job = atomic_load(&here.job)) == seen) pthread_cond_wait(&here.wake, &here.lock);
            here.sleeping--;
            pthread_mutex_unlock(&here.lock);
        }
        seen = job;
        if (self >= here.threads) continue;
        here.work(here.argument, self);
        atomic_fetch_sub(&here.busy, 1);
    }
    return NULL;
}

static void together(unsigned threads, void (*work)(void *, unsigned), void *argument) {
    while (here.made + 1 < threads) {
        pthread_t made;
        if (pthread_create(&made, NULL, member, (void *)(uintptr_t)(here.made + 1))) break;
        pthread_detach(made);
        here.made++;
    }
    here.threads = threads <= here.made + 1 ? threads : here.made + 1;
    here.work = work;
    here.argument = argument;
    atomic_store(&here.next, 0);
    atomic_store(&here.arrived, 0);
    atomic_store(&here.busy, here.threads - 1);
    if (here.threads > 1) {
        pthread_mutex_lock(&here.lock);
        atomic_fetch_add(&here.job, 1);
        if (here.sleeping) pthread_cond_broadcast(&here.wake);
        pthread_mutex_unlock(&here.lock);
    }
    work(argument, 0);
    unsigned looks = 0;
    while (atomic_load(&here.busy)) look_again(&looks);
}

/* The pass */

typedef struct {
    const decoder *model;
    const pass *asked;
    float *stream;     /* [rows, hidden] the residual stream */
    float *queries;    /* [rows, heads * size] */
    float *keys;       /* [rows, key heads * size] */
    float *values;     /* the same */
    float *seen;       /* [rows, heads * size] what attention gives */
    float *plain;      /* [rows, widest] what becomes input */
    char *input;       /* [rows, widest] prepared */
    char *second;      /* the perceptron's inner input, prepared */
    float *reduced;    /* [3, rows, rank] A x of the matrices of one phase */
    int32_t *starts;   /* [shares + 1] first rows of those that attention looks at together */
    int64_t shares;
    float *own;        /* of each thread */
    int64_t own_count;
} state;

#define SHARE 128 /* positions of attention that are looked at together */
#define QUERIES 12 /* the same of rows times the heads that share keys, where one row has not more */

static int64_t widest(const decoder *m) {
    int64_t most = m->hidden;
    if (m->inner > most) most = m->inner;
    if (m->heads * m->size > most) most = m->heads * m->size;
    return most;
}

#define PIECE 256 /* outputs that a thread takes at once, at most */

static int64_t piece_size(int64_t out, int64_t threads) {
    const int64_t size = out / (threads * 6) / 8 * 8;
    return size < 8 ? 8 : size > PIECE ? PIECE : size;
}

INLINE const change *changed(const state *s, int64_t row, int64_t at, int which) {
    const sequence *owner = &s->asked->sequences[s->asked->owners[row]];
    if (!owner->changes) return NULL;
    const change *found = &owner->changes[at * MATRICES + which];
    return found->down ? found : NULL;
}

/* A x of adapters, for matrices with one input: a phase of its own, and only where a row has one. */
static void reduce(state *s, int64_t at, const int *which, int count, const float *x) {
    const int64_t rows = s->asked->rows, rank = s->asked->most_rank;
    if (!rank) return;
    for (int64_t p = piece(); p < count * rows; p = piece()) {
        const int64_t m = p / rows, r = p % rows;
        const change *c = changed(s, r, at, which[m]);
        if (!c) continue;
        const int64_t in = s->model->layers[at].matrices[which[m]].in;
        product(FLOAT32, c->down, in, 0, c->rank, x + r * in, 1, s->reduced + (m * rows + r) * rank, rank);
    }
    meet();
}

/* Bias, scale and adapters on outputs `first` to `last`, in to[row * stride + output - first]. */
static void completed(const state *s, int64_t at, int which, int place, const matrix *m, int64_t first, int64_t last,
                      float *to, int64_t stride) {
    const int64_t rows = s->asked->rows, rank = s->asked->most_rank;
    for (int64_t r = 0; r < rows; r++) {
        float *y = to + r * stride;
        if (m->kind == INT8)
            for (int64_t o = first; o < last; o++) y[o - first] *= m->scale[o];
        if (m->bias)
            for (int64_t o = first; o < last; o++) y[o - first] += m->bias[o];
        const change *c = rank ? changed(s, r, at, which) : NULL;
        if (!c) continue;
        float more[PIECE];
        product(FLOAT32, c->up, c->rank, first, last, s->reduced + (place * rows + r) * rank, 1, more, PIECE);
        for (int64_t o = first; o < last; o++) y[o - first] += more[o - first];
    }
}

static void norm_rows(state *s, const float *weight, int64_t kind) {
    const int64_t hidden = s->model->hidden;
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        normalized(s->stream + r * hidden, weight, hidden, s->model->epsilon, s->plain + r * hidden);
        prepare(kind, s->plain + r * hidden, s->input + r * hidden * INPUT_BYTES(kind), hidden);
    }
    meet();
}

static void project(state *s, int64_t at) {
    static const int which[] = {QUERY, KEY, VALUE};
    const layer *l = &s->model->layers[at];
    float *to[] = {s->queries, s->keys, s->values};
    int64_t size[3], end[3], pieces = 0;
    for (int m = 0; m < 3; m++) {
        const int64_t out = l->matrices[which[m]].out;
        size[m] = piece_size(out, here.threads);
        end[m] = pieces += (out + size[m] - 1) / size[m];
    }
    reduce(s, at, which, 3, s->plain);
    for (int64_t p = piece(); p < pieces; p = piece()) {
        const int m = p < end[0] ? 0 : p < end[1] ? 1 : 2;
        const matrix *w = &l->matrices[which[m]];
        const int64_t first = (p - (m ? end[m - 1] : 0)) * size[m];
        const int64_t last = first + size[m] < w->out ? first + size[m] : w->out;
        product(w->kind, w->weight, w->in, first, last, s->input, s->asked->rows, to[m] + first, w->out);
        completed(s, at, which[m], m, w, first, last, to[m] + first, w->out);
    }
    meet();
}

INLINE void rotate(float *restrict x, const float *restrict cosines, const float *restrict sines, int64_t rotary) {
    const int64_t half = rotary / 2;
#pragma GCC ivdep
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cosines[i] - b * sines[i];
        x[half + i] = b * cosines[half + i] + a * sines[half + i];
    }
}

static char *remembered(const state *s, int64_t row, int64_t at, int value, int64_t head) {
    const decoder *m = s->model;
    const sequence *owner = &s->asked->sequences[s->asked->owners[row]];
    const int64_t place = ((at * 2 + value) * m->key_heads + head) * owner->capacity;
    return (char *)owner->block + place * m->size * WEIGHT_BYTES(m->cache_kind);
}

static void store(int64_t kind, const float *from, char *to, int64_t count) {
    if (kind == FLOAT32) memcpy(to, from, 4 * count);
    else
        for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[i] = to_bf16(from[i]);
}

/* Norms and rotation of queries and keys; new keys and values go to their places. */
static void place_rows(state *s, int64_t at) {
    const decoder *m = s->model;
    const layer *l = &m->layers[at];
    const int64_t units = m->heads + m->key_heads, row_bytes = m->size * WEIGHT_BYTES(m->cache_kind);
    for (int64_t p = piece(); p < s->asked->rows * units; p = piece()) {
        const int64_t r = p / units, u = p % units, position = s->asked->positions[r];
        const int is_key = u >= m->heads;
        const int64_t head = is_key ? u - m->heads : u;
        float *x = is_key ? s->keys + (r * m->key_heads + head) * m->size : s->queries + (r * m->heads + head) * m->size;
        const float *norm = is_key ? l->key_norm : l->query_norm;
        if (norm) normalized(x, norm, m->size, m->query_epsilon, x);
        rotate(x, s->asked->cosines + position * m->rotary, s->asked->sines + position * m->rotary, m->rotary);
        if (!is_key) continue;
        store(m->cache_kind, x, remembered(s, r, at, 0, head) + position * row_bytes, m->size);
        store(m->cache_kind, s->values + (r * m->key_heads + head) * m->size,
              remembered(s, r, at, 1, head) + position * row_bytes, m->size);
    }
    meet();
}

/* to[vectors * LANES] += the sum over positions of weight * value, for a part of the values' rows. Even and odd numbers
 * are apart, vector by vector, where values are bf16. */
INLINE void gather_part(int64_t kind, const int vectors, const float *weights, const char *values, int64_t count,
                        int64_t row, float *to) {
    floats sums[8];
    for (int v = 0; v < vectors; v++) sums[v] = *(floats *)(to + v * LANES);
    for (int64_t t = 0; t < count; t++, values += row) {
        const floats weight = weights[t] + (floats){0};
        if (kind == FLOAT32) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sums[v] += weight * *(const floats *)(values + 4 * v * LANES);
        } else {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v += 2) {
                const words pairs = *(const words *)(values + 2 * v * LANES);
                sums[v] += weight * evens(pairs);
                sums[v + 1] += weight * odds(pairs);
            }
        }
    }
    for (int v = 0; v < vectors; v++) *(floats *)(to + v * LANES) = sums[v];
}

static void gather(int64_t kind, const float *weights, const char *values, int64_t count, int64_t size, float *to) {
    const int64_t bytes = WEIGHT_BYTES(kind);
    int64_t d = 0;
    if (kind == FLOAT32) {
        for (; d + 8 * LANES <= size; d += 8 * LANES)
            gather_part(FLOAT32, 8, weights, values + d * bytes, count, size * bytes, to + d);
        for (; d < size; d += 2 * LANES)
            gather_part(FLOAT32, 2, weights, values + d * bytes, count, size * bytes, to + d);
    } else {
        for (; d + 8 * LANES <= size; d += 8 * LANES)
            gather_part(BFLOAT16, 8, weights, values + d * bytes, count, size * bytes, to + d);
        for (; d < size; d += 2 * LANES)
            gather_part(BFLOAT16, 2, weights, values + d * bytes, count, size * bytes, to + d);
    }
}

/* Weights of a softmax from scores of the positions that a query sees, `from` to `to` of `SHARE`; the rest are 0. `most`
 * and `weight` are the largest score and the sum of weights so far; what was gathered before is scaled down when a larger
 * score turns up. */
static void soften(float *scores, int64_t from, int64_t to, float scaling, float *most, float *weight, float *gathered,
                   int64_t size) {
    for (int64_t i = 0; i < from; i++) scores[i] = -INFINITY;
    for (int64_t i = to; i % LANES; i++) scores[i] = -INFINITY;
    const int64_t begin = from / LANES * LANES;
    floats highest = (floats){0} - INFINITY;
    for (int64_t i = begin; i < to; i += LANES) {
        const floats score = *(floats *)(scores + i) *= scaling;
        highest = chosen(score > highest, score, highest);
    }
    float high = *most;
    for (int i = 0; i < LANES; i++) high = highest[i] > high ? highest[i] : high;
    if (high > *most) {
        const float by = expf(*most - high);
        for (int64_t i = 0; i < size; i++) gathered[i] *= by;
        *weight *= by;
        *most = high;
    }
    floats all = {0};
    for (int64_t i = begin; i < to; i += LANES) {
        const floats score = *(floats *)(scores + i);
        const floats p = chosen(score == -INFINITY, (floats){0}, exponential(score - high));
        all += p;
        *(floats *)(scores + i) = p;
    }
    for (int64_t i = 0; i < begin; i++) scores[i] = 0;
    *weight += total(all);
}

/* Neighbouring rows of one sequence, one key head and all query heads that share it, `SHARE` positions at a time. */
static void attend(state *s, int64_t at, int64_t first, int64_t last, int64_t head, float *own) {
    const decoder *m = s->model;
    const int64_t group = m->heads / m->key_heads, queries = group * (last - first), size = m->size;
    const int64_t kind = m->cache_kind, row = size * WEIGHT_BYTES(kind), window = m->layers[at].window;
    const int32_t *positions = s->asked->positions;
    const int64_t end = positions[last - 1] + 1, unseen = window ? positions[first] + 1 - window : 0;
    const int64_t begin = unseen > 0 ? unseen / SHARE * SHARE : 0;
    float *scores = own, *sums = scores + queries * SHARE, *most = sums + queries * size, *weight = most + queries;
    char *x = (char *)(weight + queries);
    for (int64_t q = 0; q < queries; q++) {
        const float *query = s->queries + ((first + q / group) * m->heads + head * group + q % group) * size;
        prepare(kind, query, x + q * size * INPUT_BYTES(kind), size);
        most[q] = -INFINITY;
        weight[q] = 0;
    }
    memset(sums, 0, 4 * queries * size);
    const char *keys = remembered(s, first, at, 0, head), *values = remembered(s, first, at, 1, head);
    for (int64_t t = begin; t < end; t += SHARE) {
        const int64_t count = end - t < SHARE ? end - t : SHARE;
        for (int64_t i = 0; i < count * row; i += 64) __builtin_prefetch(values + t * row + i, 0, 2);
        product(kind, keys, size, t, t + count, x, queries, scores, SHARE);
        for (int64_t q = 0; q < queries; q++) {
            const int64_t position = positions[first + q / group];
            const int64_t from = window && position >= window + t ? position + 1 - window - t : 0;
            const int64_t to = position + 1 - t < count ? position + 1 - t : count;
            if (from >= to) continue;
            soften(scores + q * SHARE, from, to, m->scaling, most + q, weight + q, sums + q * size, size);
            gather(kind, scores + q * SHARE, values + t * row, to, size, sums + q * size);
        }
    }
    for (int64_t q = 0; q < queries; q++) {
        float *to = s->seen + ((first + q / group) * m->heads + head * group + q % group) * size, *from = sums + q * size;
        const float by = 1.0f / weight[q];
        if (kind == FLOAT32)
            for (int64_t i = 0; i < size; i++) to[i] = from[i] * by;
        else
            for (int64_t i = 0; i < size; i += 2 * LANES)
                for (int64_t j = 0; j < LANES; j++) {
                    to[i + 2 * j] = from[i + j] * by;
                    to[i + 2 * j + 1] = from[i + LANES + j] * by;
                }
    }
}

static void attention(state *s, int64_t at, float *own) {
    const int64_t heads = s->model->key_heads;
    for (int64_t p = piece(); p < s->shares * heads; p = piece())
        attend(s, at, s->starts[p / heads], s->starts[p / heads + 1], p % heads, own);
    meet();
}

/* Rows of what attention or the perceptron gave, made input. */
static void prepare_rows(state *s, const float *from, char *to, int64_t count, int64_t kind) {
    for (int64_t r = piece(); r < s->asked->rows; r = piece())
        prepare(kind, from + r * count, to + r * count * INPUT_BYTES(kind), count);
    meet();
}

/* stream += matrix x input */
static void add(state *s, int64_t at, int which, const float *plain, const char *input, float *own) {
    const matrix *w = &s->model->layers[at].matrices[which];
    const int64_t hidden = s->model->hidden, size = piece_size(w->out, here.threads), rows = s->asked->rows;
    reduce(s, at, &which, 1, plain);
    for (int64_t first = piece() * size; first < w->out; first = piece() * size) {
        const int64_t last = first + size < w->out ? first + size : w->out;
        product(w->kind, w->weight, w->in, first, last, input, rows, own, size);
        completed(s, at, which, 0, w, first, last, own, size);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t o = first; o < last; o++) s->stream[r * hidden + o] += own[r * size + o - first];
    }
    meet();
}

static void perceptron(state *s, int64_t at, float *own) {
    static const int which[] = {GATE, UP};
    const layer *l = &s->model->layers[at];
    const matrix *gate = &l->matrices[GATE], *up = &l->matrices[UP];
    const int64_t size = (piece_size(gate->out, here.threads) + LANES - 1) / LANES * LANES, rows = s->asked->rows;
    float *other = own + rows * size;
    reduce(s, at, which, 2, s->plain);
    for (int64_t first = piece() * size; first < gate->out; first = piece() * size) {
        const int64_t last = first + size < gate->out ? first + size : gate->out;
        product(gate->kind, gate->weight, gate->in, first, last, s->input, rows, own, size);
        product(up->kind, up->weight, up->in, first, last, s->input, rows, other, size);
        completed(s, at, GATE, 0, gate, first, last, own, size);
        completed(s, at, UP, 1, up, first, last, other, size);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t o = 0; o < last - first; o += LANES) {
                const floats g = *(floats *)(own + r * size + o), u = *(floats *)(other + r * size + o);
                *(floats *)(s->seen + r * gate->out + first + o) = activated(s->model->activation, g) * u;
            }
    }
    meet();
    prepare_rows(s, s->seen, s->second, gate->out, l->matrices[DOWN].kind);
}

static void begin(state *s) {
    const decoder *m = s->model;
    for (int64_t r = piece(); r < s->asked->rows; r = piece()) {
        const int64_t at = (int64_t)s->asked->tokens[r] * m->hidden;
        float *to = s->stream + r * m->hidden;
        if (m->embeddings_kind == FLOAT32) memcpy(to, (const float *)m->embeddings + at, 4 * m->hidden);
        else
            for (int64_t i = 0; i < m->hidden; i++) to[i] = from_bf16(((const uint16_t *)m->embeddings)[at + i]);
    }
    meet();
}

static void finish(state *s) {
    const decoder *m = s->model;
    const matrix *head = &m->head;
    const int64_t wanted = s->asked->wanted, size = 2 * piece_size(head->out, here.threads);
    for (int64_t w = piece(); w < wanted; w = piece()) {
        normalized(s->stream + s->asked->places[w] * m->hidden, m->norm, m->hidden, m->epsilon, s->plain + w * m->hidden);
        prepare(head->kind, s->plain + w * m->hidden, s->input + w * m->hidden * INPUT_BYTES(head->kind), m->hidden);
    }
    meet();
    for (int64_t first = piece() * size; wanted && first < head->out; first = piece() * size) {
        const int64_t last = first + size < head->out ? first + size : head->out;
        float *to = s->asked->logits + first;
        product(head->kind, head->weight, head->in, first, last, s->input, wanted, to, head->out);
        for (int64_t w = 0; w < wanted; w++)
            for (int64_t o = first; o < last; o++) {
                float *y = s->asked->logits + w * head->out + o;
                if (head->kind == INT8) *y *= head->scale[o];
                if (head->bias) *y += head->bias[o];
            }
    }
    meet();
}

static void run(void *argument, unsigned thread) {
    state *s = argument;
    const decoder *m = s->model;
    float *own = s->own + thread * s->own_count;
    begin(s);
    for (int64_t at = 0; at < m->count; at++) {
        const layer *l = &m->layers[at];
        norm_rows(s, l->before, l->matrices[QUERY].kind);
        project(s, at);
        place_rows(s, at);
        attention(s, at, own);
        prepare_rows(s, s->seen, s->input, m->heads * m->size, l->matrices[OUT].kind);
        add(s, at, OUT, s->seen, s->input, own);
        norm_rows(s, l->after, l->matrices[GATE].kind);
        perceptron(s, at, own);
        add(s, at, DOWN, s->seen, s->second, own);
    }
    finish(s);
}

/* Neighbouring rows of one sequence, a few at a time. */
static void share(state *s) {
    const int64_t group = s->model->heads / s->model->key_heads, most = group < QUERIES ? QUERIES / group : 1;
    const pass *asked = s->asked;
    int64_t first = 0;
    for (int64_t r = 0; r < asked->rows; r++) {
        if (r && r - first < most && asked->owners[r] == asked->owners[first]) continue;
        s->starts[s->shares++] = (int32_t)(first = r);
    }
    s->starts[s->shares] = (int32_t)asked->rows;
}

static char *taken(char **from, int64_t bytes) {
    char *here = *from;
    *from += (bytes + 63) / 64 * 64;
    return here;
}

/* One pass. 0, or 1 where there was no memory for it. One call at a time. */
int bainmarie_forward(const decoder *m, const pass *asked) {
    const int64_t rows = asked->rows > asked->wanted ? asked->rows : asked->wanted, most = widest(m);
    const int64_t threads = asked->threads < MOST_THREADS ? asked->threads : MOST_THREADS;
    const int64_t group = m->heads / m->key_heads, queries_most = group > QUERIES ? group : QUERIES;
    const int64_t by_products = 2 * rows * (PIECE + LANES), by_attention = queries_most * (SHARE + 2 * m->size + 2);
    state s = {.model = m, .asked = asked};
    s.own_count = ((by_products > by_attention ? by_products : by_attention) + 63) / 16 * 16;
    const int64_t queries = m->heads * m->size, keys = m->key_heads * m->size;
    const int64_t floats_of_row = m->hidden + queries + 2 * keys + 4 * most + 3 * asked->most_rank + 2;
    char *memory = aligned_alloc(64, (4 * (rows * floats_of_row + threads * s.own_count) / 64 + 64) * 64), *at = memory;
    if (!memory) return 1;
    s.stream = (float *)taken(&at, 4 * rows * m->hidden);
    s.queries = (float *)taken(&at, 4 * rows * queries);
    s.keys = (float *)taken(&at, 4 * rows * keys);
    s.values = (float *)taken(&at, 4 * rows * keys);
    s.seen = (float *)taken(&at, 4 * rows * most);
    s.plain = (float *)taken(&at, 4 * rows * most);
    s.input = taken(&at, 4 * rows * most);
    s.second = taken(&at, 4 * rows * most);
    s.reduced = (float *)taken(&at, 4 * 3 * rows * asked->most_rank);
    s.starts = (int32_t *)taken(&at, 4 * (rows + 1));
    s.own = (float *)taken(&at, 4 * threads * s.own_count);
    share(&s);
    together((unsigned)threads, run, &s);
    free(memory);
    return 0;
}
