/* Rows of input times matrices, whose weights are read in the layout of the checkpoint. */
#pragma once
#include "model.h"
#include "team.h"
#include "tiles.h"

#if HAS_DOT
#define INPUT_BYTES(kind) ((kind) == FLOAT32 ? 4 : 2)
#else
#define INPUT_BYTES(kind) 4
#endif
#define WEIGHT_BYTES(kind) ((kind) == FLOAT32 ? 4 : (kind) == BFLOAT16 ? 2 : 1)

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

/* Weights come from memory far slower than they are used, so those that come next are asked for in time, in the order in
 * which they lie there: early, and again, for what is asked for once is not always there when it is wanted. */
enum { EARLY = 1, AGAIN = 2 };

INLINE void foresee(const char *ahead, const int64_t bytes) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < bytes; i += LINE) __builtin_prefetch(ahead + i, 0, 2);
}

/* `outputs` rows of a matrix times `rows` rows of input; `rows` and `outputs` are known when this is compiled. */
INLINE void block(const int kind, const int rows, const int outputs, const char *weight, int64_t in, const char *x,
                  float *to, int64_t stride, int ask) {
    floats sums[MOST_ROWS * OUTPUTS];
#pragma GCC unroll 32
    for (int i = 0; i < rows * outputs; i++) sums[i] = (floats){0};
    const int64_t row = in * WEIGHT_BYTES(kind), input = in * INPUT_BYTES(kind), size = outputs * row;
    const char *again = weight + size, *early = outputs == 1 ? weight + AHEAD : again + (size < FAR ? size : FAR);
#define FORESEE(step)                                                                                          \
    if (ask & EARLY) foresee(early + outputs * i * WEIGHT_BYTES(kind), outputs * (step) * WEIGHT_BYTES(kind)); \
    if (ask & AGAIN) foresee(again + outputs * i * WEIGHT_BYTES(kind), outputs * (step) * WEIGHT_BYTES(kind));
    if (kind == FLOAT32 || (kind == INT8 && !HAS_DOT)) {
        for (int64_t i = 0; i < in; i += LANES) {
            floats w[OUTPUTS];
            FORESEE(LANES)
#pragma GCC unroll 16
            for (int o = 0; o < outputs; o++)
                w[o] = kind == FLOAT32 ? *(const floats *)(weight + o * row + 4 * i) : of_bytes(weight + o * row + i);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const floats v = *(const floats *)(x + r * input + 4 * i);
#pragma GCC unroll 16
                for (int o = 0; o < outputs; o++) sums[r * outputs + o] = added(sums[r * outputs + o], w[o], v);
            }
        }
    } else {
        for (int64_t i = 0; i < in; i += 2 * LANES) {
            FORESEE(2 * LANES)
#if HAS_DOT
            __m512bh w[OUTPUTS];
#pragma GCC unroll 16
            for (int o = 0; o < outputs; o++) {
                w[o] = kind == BFLOAT16 ? (__m512bh)_mm512_loadu_si512(weight + o * row + 2 * i)
                                        : from_int8(weight + o * row + i);
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
                    sums[r * outputs + o] = added(sums[r * outputs + o], evens(w[o]), even);
                    sums[r * outputs + o] = added(sums[r * outputs + o], odds(w[o]), odd);
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

#define DEEP 512 /* inputs of a panel */
#define WIDE 32  /* outputs that take turns at the same inputs */
#define HIGH 60  /* rows that do so */
#define DIRECT 2 /* rows that take their weights as they come */
#define FEW 16   /* rows whose input stays near anyway: then weights are read in the order of memory */
#define LONG 16384 /* inputs at most of which whole rows of weights are widened */
#define NEAR 262144 /* bytes that stay in a near cache */

/* Weights as floats, in the order of inputs that were prepared for them. */
INLINE void widen(const int kind, const char *weight, int64_t row, int64_t count, int64_t ahead, float *panel) {
    const int64_t step = kind == FLOAT32 ? LANES : 2 * LANES;
    for (int64_t i = 0; i < count; i += step) {
#pragma GCC unroll 4
        for (int o = 0; o < OUTPUTS; o++) {
            __builtin_prefetch(weight + ahead + o * row + i * WEIGHT_BYTES(kind), 0, 2);
            const char *from = weight + o * row + i * WEIGHT_BYTES(kind);
            floats *to = (floats *)(panel + o * DEEP + i);
            if (kind == BFLOAT16) {
                const words pairs = *(const words *)from;
                to[0] = evens(pairs);
                to[1] = odds(pairs);
            } else if (kind == INT8) {
                to[0] = of_bytes(from);
                to[1] = of_bytes(from + LANES);
            } else {
                to[0] = *(const floats *)from;
            }
        }
    }
}

/* sums[row * OUTPUTS + output] += a panel times `rows` rows of input, which lie `input` bytes apart. */
INLINE void advance(const int rows, const float *panel, int64_t count, const char *x, int64_t input, floats *sums) {
    floats s[WIDE_ROWS * OUTPUTS];
#pragma GCC unroll 32
    for (int i = 0; i < rows * OUTPUTS; i++) s[i] = sums[i];
    for (int64_t i = 0; i < count; i += LANES) {
        floats v[WIDE_ROWS];
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            floats one = *(const floats *)(x + r * input + 4 * i);
            HOLD(one)
            v[r] = one;
        }
#pragma GCC unroll 16
        for (int o = 0; o < OUTPUTS; o++) {
            floats w = *(const floats *)(panel + o * DEEP + i);
            HOLD(w)
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) s[r * OUTPUTS + o] = added_here(s[r * OUTPUTS + o], w, v[r]);
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < rows * OUTPUTS; i++) sums[i] = s[i];
}

/* As `product_of`, of whole blocks of outputs and of up to `HIGH` rows: weights are widened once for all of them, a part
 * of the inputs at a time, and sums go on where they were. */
INLINE void by_panels(const int kind, const char *weight, int64_t in, int64_t outputs, const char *x, int64_t rows,
                      float *to, int64_t stride, int64_t ahead) {
    const int64_t row = in * WEIGHT_BYTES(kind), input = 4 * in, wide = rows <= FEW ? OUTPUTS : WIDE;
    _Alignas(64) float panel[OUTPUTS * DEEP];
    floats sums[HIGH * WIDE] __attribute__((aligned(64)));
    for (int64_t first = 0; first < outputs; first += wide) {
        const int64_t last = first + wide < outputs ? first + wide : outputs;
        memset(sums, 0, sizeof(floats) * rows * (last - first));
        for (int64_t i = 0; i < in; i += DEEP) {
            const int64_t count = in - i < DEEP ? in - i : DEEP;
            for (int64_t o = first; o < last; o += OUTPUTS) {
                const char *y = x + 4 * i;
                floats *s = sums + rows * (o - first);
                int64_t r = 0;
                widen(kind, weight + o * row + i * WEIGHT_BYTES(kind), row, count, ahead, panel);
#define ADVANCE(n) \
    for (; r + n <= rows; r += n) advance(n, panel, count, y + r * input, input, s + r * OUTPUTS)
                ADVANCE(WIDE_ROWS);
                ADVANCE(2);
                ADVANCE(1);
            }
        }
        for (int64_t o = first; o < last; o += OUTPUTS)
            for (int64_t r = 0; r < rows; r++)
                four_totals(sums + rows * (o - first) + r * OUTPUTS, to + r * stride + o);
    }
}

/* Each a function of its own: in one with others the compiler keeps their constants in registers that the sums need. */
typedef void blocked(const char *weight, int64_t in, const char *x, float *to, int64_t stride, int ask);
#define BLOCK(kind, rows, outputs)                                                                           \
    static __attribute__((noinline)) void kind##_##rows##_##outputs(const char *weight, int64_t in, const char *x, \
                                                                    float *to, int64_t stride, int ask) {   \
        block(kind, rows, outputs, weight, in, x, to, stride, ask);                                          \
    }
#if HAS_DOT
#define BLOCKS(kind)                                                                                         \
    BLOCK(kind, 1, 1) BLOCK(kind, 1, 4) BLOCK(kind, 2, 4) BLOCK(kind, 3, 4) BLOCK(kind, 4, 4) BLOCK(kind, 5, 4) \
    BLOCK(kind, 6, 4)
#define NAMED(kind) {kind##_1_1, kind##_1_4, kind##_2_4, kind##_3_4, kind##_4_4, kind##_5_4, kind##_6_4}
#else
#define BLOCKS(kind) BLOCK(kind, 1, 1) BLOCK(kind, 1, 4) BLOCK(kind, 2, 4)
#define NAMED(kind) {kind##_1_1, kind##_1_4, kind##_2_4}
#endif
BLOCKS(FLOAT32)
BLOCKS(BFLOAT16)
BLOCKS(INT8)
/* By rows; the first is that of one row and one output. */
static blocked *const blocks[][MOST_ROWS + 1] = {NAMED(FLOAT32), NAMED(BFLOAT16), NAMED(INT8)};

/* Numbers of one byte as bf16, once for many rows. */
static void widened(const char *from, int64_t count, char *to) {
#if HAS_DOT
    for (int64_t i = 0; i < count; i += 2 * LANES) {
        if (!(i % LINE)) foresee(from + i + count, LINE);
        _mm512_storeu_si512(to + 2 * i, (__m512i)from_int8(from + i));
    }
#else
    (void)from, (void)count, (void)to;
#endif
}

/* Whole blocks of outputs times rows `first` to `last` of `rows`. */
INLINE void by_blocks(const int kind, const char *weight, int64_t in, int64_t outputs, const char *x, int64_t first,
                      int64_t last, int64_t rows, float *to, int64_t stride) {
    const int64_t row = in * WEIGHT_BYTES(kind), input = in * INPUT_BYTES(kind);
    const int wide = HAS_DOT && kind == INT8 && rows > MOST_ROWS && in <= LONG;
    char panel[wide ? WEIGHT_BYTES(BFLOAT16) * OUTPUTS * in : LINE] __attribute__((aligned(LINE)));
    for (int64_t o = 0; o < outputs; o += OUTPUTS) {
        if (wide) widened(weight + o * row, OUTPUTS * in, panel);
        for (int64_t r = first, n; r < last; r += n) {
            const int ask = rows <= MOST_ROWS ? EARLY | AGAIN : r == 0 ? EARLY : r == MOST_ROWS ? AGAIN : 0;
            n = last - r < MOST_ROWS ? last - r : MOST_ROWS;
            if (wide) blocks[BFLOAT16][n](panel, in, x + r * input, to + r * stride + o, stride, 0);
            else blocks[kind][n](weight + o * row, in, x + r * input, to + r * stride + o, stride, ask);
        }
    }
}

/* `count`, or so many that they are near together, a multiple of `step`. */
INLINE int64_t near(int64_t count, int64_t bytes, int64_t step) {
    const int64_t some = NEAR / bytes / step * step;
    return count * bytes <= NEAR ? count : some > step ? some : step;
}

/* Outputs `first` to `last` of a matrix [out, in] times rows of input, to[row * stride + output - first]. Some rows pass
 * by some outputs, then others, and all by these before the next ones come: both stay in a near cache meanwhile. */
INLINE void product_of(const int kind, const char *weight, int64_t in, int64_t first, int64_t last, const char *x,
                       int64_t rows, float *to, int64_t stride) {
    const int64_t row = in * WEIGHT_BYTES(kind), input = in * INPUT_BYTES(kind);
    const int64_t whole = rows > 1 || !ALONE(kind) ? (last - first) / OUTPUTS * OUTPUTS : 0;
    const char *w = weight + first * row;
    if ((!HAS_DOT || kind == FLOAT32) && rows > DIRECT) {
        const int64_t ahead = OUTPUTS * row > AHEAD ? OUTPUTS * row : (AHEAD + row - 1) / row * row;
        for (int64_t r = 0; r < rows; r += HIGH)
            by_panels(kind, w, in, whole, x + r * input, rows - r < HIGH ? rows - r : HIGH, to + r * stride, stride,
                      ahead);
    } else {
        const int64_t high = near(rows, input, MOST_ROWS), broad = high < rows ? near(whole, row, OUTPUTS) : whole;
        for (int64_t o = 0; o < whole; o += broad)
            for (int64_t r = 0; r < rows; r += high)
                by_blocks(kind, w + o * row, in, whole - o < broad ? whole - o : broad, x, r,
                          r + high < rows ? r + high : rows, rows, to + o, stride);
    }
    for (int64_t o = whole; o < last - first; o++)
        for (int64_t r = 0; r < rows; r++)
            blocks[kind][0](w + o * row, in, x + r * input, to + r * stride + o, stride, EARLY);
}

static void product(int64_t kind, const void *weight, int64_t in, int64_t first, int64_t last, const void *x,
                    int64_t rows, float *to, int64_t stride) {
    if (kind == FLOAT32) product_of(FLOAT32, weight, in, first, last, x, rows, to, stride);
    else if (kind == BFLOAT16) product_of(BFLOAT16, weight, in, first, last, x, rows, to, stride);
    else product_of(INT8, weight, in, first, last, x, rows, to, stride);
}

INLINE int by_tiles(const matrix *m) { return with_tiles && m->kind != FLOAT32 && m->out >= TILE; }

/* Outputs `first` to `last` of a matrix times rows that were prepared for it, and packed where it goes by tiles. */
static void multiply(const matrix *m, int64_t first, int64_t last, const void *x, int64_t rows, float *to, int64_t stride,
                     char *room) {
#if HAS_TILES
    if (by_tiles(m)) {
        tiled(m->kind, m->weight, m->in, first, last, x, rows, to, stride, room);
        return;
    }
#endif
    (void)room;
    product(m->kind, m->weight, m->in, first, last, x, rows, to, stride);
}

#define SOON 65536

/* What of a matrix is worth having nearby before its product begins. */
static soon begin_of(const matrix *m) {
    const int64_t bytes = m->in * m->out * WEIGHT_BYTES(m->kind);
    return (soon){m->weight, (const char *)m->weight + (bytes < SOON ? bytes : SOON)};
}
