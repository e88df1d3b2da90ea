/* Products by a processor's matrix unit (AMX, on Linux): 16 outputs times 16 rows at once, bf16 numbers, float32 sums.
 *
 * Rows of input are packed as [groups of 16 rows][in / 2][16 rows][2]; one row by itself stays as it is. The order in
 * which a result is summed depends on neither the number of rows nor its place in a tile.
 */
#pragma once
#include "model.h"
#include "vectors.h"

#define TILE 16  /* rows of a tile, and the results in one of its rows */
#define DEPTH 32 /* numbers that one instruction sums */

#if HAS_DOT && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_TILES 1
#define PANEL 256          /* numbers of each output whose weights stay in the nearest cache while all rows pass by */
#define SUMS (TILE * TILE) /* results in a tile */
#define WEIGHTS (2 * TILE * DEPTH) /* bytes of weights in a tile */

/* Compilers may not know that loads of tiles read what was stored before. */
#define FINISH_STORES __asm__ volatile("" ::: "memory");

static int with_tiles; /* whether the system lets this process use the unit */

/* Linux (5.16) gives a process the unit's registers when it asks for them. */
static void ask_for_tiles(void) {
    static int asked;
    if (asked) return;
    asked = 1;
    with_tiles = !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */);
}

/* Before a thread's first tile. */
static void begin_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    if (!with_tiles) return;
    for (int i = 0; i < 8; i++) {
        shape.bytes[i] = 64;
        shape.rows[i] = TILE;
    }
    __asm__ volatile("" ::"r"(&shape) : "memory"); /* it reads all of it, which compilers may not know */
    _tile_loadconfig(&shape);
}

/* After its last one: until then the system saves eight kilobytes more when it changes threads. */
static void end_tiles(void) {
    if (with_tiles) _tile_release();
}

/* Rows [rows, in] of bf16 numbers, packed: columns `first` to `last` of one group. The group's 16 rows can be read. */
static void pack(const char *from, int64_t in, int64_t group, int64_t first, int64_t last, char *to) {
    from += group * TILE * 2 * in;
    to += group * TILE * 2 * in;
    for (int64_t i = first; i < last; i += DEPTH) turn(from + 2 * i, 2 * in, (__m512i *)(to + TILE * 2 * i), 1);
}

/* Weights of 16 outputs as tiles, every second one in `to`. */
INLINE void bring(const int kind, const char *weight, int64_t in, int64_t count, char *to) {
    for (int64_t i = 0; i < count; i += DEPTH, to += 2 * WEIGHTS)
#pragma GCC unroll 16
        for (int o = 0; o < TILE; o++) {
            const char *from = weight + (o * in + i) * (kind == BFLOAT16 ? 2 : 1);
            _mm512_store_si512(to + 64 * o, kind == BFLOAT16 ? _mm512_loadu_si512(from) : (__m512i)from_int8(from));
        }
}

/* Sums [16 outputs][16 rows] of one or two groups, from weights where they are: few rows wait for memory, which is
 * fastest when one tile after the other is read to its end. `step` is from a tile's output to its next, `sums_row` the
 * same in `sums`. */
INLINE void multiply_direct(const int groups, const char *weight, int64_t in, int64_t step, const char *x, int64_t x_row,
                            float *sums, int64_t sums_row) {
    const int64_t row = 2 * in * step, group = 2 * TILE * in;
    int64_t i = 0;
    FINISH_STORES
    _tile_zero(0);
    _tile_zero(1);
    for (; groups == 1 && i + 2 * DEPTH <= in; i += 2 * DEPTH, weight += 4 * DEPTH, x += 2 * TILE * x_row) {
        _tile_loadd(6, x, x_row);
        _tile_loadd(4, weight, row);
        _tile_loadd(5, weight + 2 * DEPTH, row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x + TILE * x_row, x_row);
        _tile_dpbf16ps(0, 5, 7);
    }
    for (; i < in; i += DEPTH, weight += 2 * DEPTH, x += TILE * x_row) {
        _tile_loadd(6, x, x_row);
        _tile_loadd(4, weight, row);
        _tile_dpbf16ps(0, 4, 6);
        if (groups == 2) {
            _tile_loadd(7, x + group, x_row);
            _tile_dpbf16ps(1, 4, 7);
        }
    }
    _tile_stored(0, sums, 4 * sums_row);
    if (groups == 2) _tile_stored(1, sums + 2 * SUMS, 4 * sums_row);
}

/* What of the next panel is asked for beside one step: a part of the outputs, so much further on in each. */
typedef struct {
    const char *at;
    int64_t outputs, row, step; /* bytes from output to output, and from step to step */
} coming;

/* Sums [groups][32 outputs][16 rows] of one or two groups, from a panel of weights of 32 outputs. */
INLINE void multiply_panel(const int groups, const char *weights, int64_t count, const char *x, int64_t x_row, int64_t group,
                           float *sums, const int begun, coming next) {
    if (begun) {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + SUMS, 64);
        if (groups == 2) _tile_loadd(2, sums + 2 * SUMS, 64);
        if (groups == 2) _tile_loadd(3, sums + 3 * SUMS, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < count; i += DEPTH, weights += 2 * WEIGHTS, x += TILE * x_row, next.at += next.step) {
        for (int64_t o = 0; o < next.outputs; o++) __builtin_prefetch(next.at + o * next.row, 0, 2);
        _tile_loadd(4, weights, 64);
        _tile_loadd(6, x, x_row);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, weights + WEIGHTS, 64);
        _tile_dpbf16ps(1, 5, 6);
        if (groups == 2) {
            _tile_loadd(7, x + group, x_row);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    if (groups == 2) _tile_stored(2, sums + 2 * SUMS, 64);
    if (groups == 2) _tile_stored(3, sums + 3 * SUMS, 64);
}

/* Sums of 16 outputs and one group, from the output `skip` on, to[row * stride + output - skip]. */
INLINE void place_sums(const float *sums, int skip, int64_t rows, float *to, int64_t stride) {
    __m512i turned[TILE];
    if (rows < 4) {
        for (int64_t r = 0; r < rows; r++)
            for (int o = skip; o < TILE; o++) to[r * stride + o - skip] = sums[o * TILE + r];
        return;
    }
    turn((const char *)sums, 64, turned, 1);
    const __mmask16 taken = (__mmask16)(0xffff << skip);
    for (int64_t r = 0; r < rows && r < TILE; r++) _mm512_mask_storeu_ps(to + r * stride - skip, taken, (__m512)turned[r]);
}

/* Sums of two tiles of outputs, which begin at `one` and `other`, in [groups][2][16 outputs][16 rows]. */
INLINE void sums_of(const int kind, const char *weight, int64_t in, int64_t one, int64_t other, const char *x,
                    int64_t x_row, int64_t groups, char *room, float *sums) {
    const int64_t bytes = kind == BFLOAT16 ? 2 : 1, group = 2 * TILE * in;
    if (kind == BFLOAT16 && groups <= 2) {
        /* neighbouring outputs may share a page of memory, whose reads are foreseen best when they come one after the
         * other: so the even ones make the first tile, and the odd ones the second */
        const int whole = other == one + TILE;
        const int64_t step = whole ? 2 : 1, next = whole ? one + 1 : other, sums_row = step * TILE;
        float *second = sums + (whole ? TILE : SUMS);
        if (groups == 2) {
            multiply_direct(2, weight + 2 * in * one, in, step, x, 64, sums, sums_row);
            multiply_direct(2, weight + 2 * in * next, in, step, x, 64, second, sums_row);
        } else {
            multiply_direct(1, weight + 2 * in * one, in, step, x, x_row, sums, sums_row);
            multiply_direct(1, weight + 2 * in * next, in, step, x, x_row, second, sums_row);
        }
        return;
    }
    const int64_t pairs = (groups + 1) / 2, some = (2 * TILE + pairs - 1) / pairs;
    for (int64_t i = 0; i < in; i += PANEL) {
        const int64_t count = in - i < PANEL ? in - i : PANEL;
        const char *y = x + i * TILE * x_row / DEPTH;
        const char *soon = weight + (i + PANEL < in ? one * in + i + PANEL : (one + 2 * TILE) * in) * bytes;
        coming next = {soon, some, in * bytes, DEPTH * bytes};
        bring(kind, weight + (one * in + i) * bytes, in, count, room);
        bring(kind, weight + (other * in + i) * bytes, in, count, room + WEIGHTS);
        FINISH_STORES
        for (int64_t g = 0; g < groups; g += 2, y += 2 * group, sums += 4 * SUMS, next.at += some * next.row) {
#define PANEL_OF(groups, begun) multiply_panel(groups, room, count, y, x_row, group, sums, begun, next)
            if (g + 1 < groups && i) PANEL_OF(2, 1);
            else if (g + 1 < groups) PANEL_OF(2, 0);
            else if (i) PANEL_OF(1, 1);
            else PANEL_OF(1, 0);
        }
        sums -= pairs * 4 * SUMS;
    }
}

/* Rows whose input stays in a core's own cache while all weights of a piece pass by. */
INLINE int64_t rows_at_once(int64_t in) {
    const int64_t some = (512 << 10) / (2 * in) / (2 * TILE) * 2 * TILE;
    return some < 4 * TILE ? 4 * TILE : some;
}

/* Outputs `first` to `last`, of which there are 16 at least up to `last`, times packed rows. `room` is for the weights
 * of a panel and the sums of all rows; `x_row` is in bytes from one word of packed rows to the next. */
INLINE void tiled_of(const int kind, const char *weight, int64_t in, int64_t first, int64_t last, const char *x,
                     int64_t x_row, int64_t rows, float *to, int64_t stride, char *room) {
    float *sums = (float *)(room + 2 * TILE * 2 * PANEL);
    for (int64_t o = first; o < last; o += 2 * TILE) {
        /* where less than a tile is left, it begins earlier, and what comes before `o` is not taken */
        const int64_t left = last - o, one = left < TILE ? last - TILE : o, other = left < 2 * TILE ? last - TILE : o + TILE;
        sums_of(kind, weight, in, one, other, x, x_row, (rows + TILE - 1) / TILE, room, sums);
        for (int64_t r = 0; r < rows; r += TILE) {
            const float *from = sums + 2 * SUMS * r / TILE;
            float *at = to + r * stride + o - first;
            place_sums(from, (int)(o - one), rows - r, at, stride);
            if (left > TILE) place_sums(from + SUMS, (int)(o + TILE - other), rows - r, at + TILE, stride);
        }
    }
}

static void tiled(int64_t kind, const void *weight, int64_t in, int64_t first, int64_t last, const char *x, int64_t rows,
                  float *to, int64_t stride, char *room) {
    const int64_t most = rows_at_once(in), x_row = rows == 1 ? 4 : 64;
    for (int64_t r = 0; r < rows; r += most, x += 2 * most * in, to += most * stride) {
        const int64_t some = rows - r < most ? rows - r : most;
        if (kind == BFLOAT16) tiled_of(BFLOAT16, weight, in, first, last, x, x_row, some, to, stride, room);
        else tiled_of(INT8, weight, in, first, last, x, x_row, some, to, stride, room);
    }
}

/* Bytes of room that a product of so many rows takes. */
INLINE int64_t room_of_tiles(int64_t rows) {
    return with_tiles ? 2 * TILE * 2 * PANEL + (rows + 2 * TILE - 1) / (2 * TILE) * 4 * SUMS * 4 : 0;
}
#else
#define HAS_TILES 0
#define with_tiles 0
INLINE void ask_for_tiles(void) {}
INLINE void begin_tiles(void) {}
INLINE void end_tiles(void) {}
INLINE int64_t room_of_tiles(int64_t rows) { return 0 * rows; }
#endif
