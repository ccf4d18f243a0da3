/* Products by a processor's matrix tiles (Intel AMX, bf16), and how maps are laid out for them; tiles.c makes passes of them.
   TILES is defined where this processor and system have what they take. */
#ifndef TILES_H
#define TILES_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "element.h"
#include "space.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)
#define TILES
#include <immintrin.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
#endif

#define SIDE 16        /* rows of a tile, and numbers of float in one */
#define DEPTH 32       /* numbers of bf16 in a tile's row */
#define TILE 512       /* numbers of bf16 in a tile */
typedef uint16_t bf16;

typedef struct {
    int64_t pictures, height, width, channels;      /* of the map read */
    int64_t top, left, step;                        /* zeros before its first row and column; 2: in planes by parity */
    int64_t frame_height, frame_width;              /* of one plane, for one picture */
    int64_t out_height, out_width, out_channels;    /* of the map written (or whose gradient is given) */
    int64_t group, slack;                           /* pictures side by side in a frame, and pixels of zeros behind them */
} shape;

typedef struct {   /* a set of the pixels written that read alike: all of them, or those of one parity */
    int64_t base, positions, chunks, first_chunk, first_position;
} part;

typedef struct {   /* what tiles.py works out for one pass over maps of one size */
    shape map;
    const int32_t *offsets;   /* of chunks of 32 numbers, from the pixel's own; or of taps, in pixels */
    const int32_t *where;     /* where each position is written, in pixels; or read, in numbers; negative: nowhere */
    const part *parts;
    int64_t count;            /* of parts, or of taps */
    const bf16 *kernel;       /* in tiles [chunks, O / 16, 16 pairs, 16, 2] */
} plan;

/* The compiler does not know that loading a tile reads memory: what was written has to be there before. */
#define WRITTEN __asm__ volatile("" ::: "memory")

static void use_tiles(void) {   /* all eight of 16 rows of 64 bytes */
    static const struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } all = {
        .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    __asm__ volatile("ldtilecfg %0" : : "m"(all));   /* gcc 12's own names but 8 bytes of it as read */
}

INLINE __m256i eight_pairs(const bf16 *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t whole_lines(int64_t numbers) { return (numbers + DEPTH - 1) / DEPTH * DEPTH; }   /* of the cache */
INLINE int64_t planes(const shape *s) { return s->step * s->step; }
INLINE int64_t frame_pixels(const shape *s) { return planes(s) * s->group * s->frame_height * s->frame_width + s->slack; }

/* Picture x into place `at` of the frame's group; its zeros are there already. */
static void into_frame(const bf16 *x, const shape *s, int64_t at, bf16 *frame) {
    const int64_t C = s->channels, FW = s->frame_width, plane = s->group * s->frame_height * FW;
    for (int64_t iy = 0; iy < s->height; iy++) {
        const int64_t py = iy + s->top;
        const bf16 *from = x + iy * s->width * C;
        if (s->step == 1) {
            memcpy(frame + ((at * s->frame_height + py) * FW + s->left) * C, from, s->width * C * sizeof(bf16));
            continue;
        }
        bf16 *row = frame + ((py & 1) * 2 * plane + (at * s->frame_height + py / 2) * FW) * C;
        for (int64_t ix = 0; ix < s->width; ix++) {
            const int64_t px = ix + s->left;
            bf16 *to = row + ((px & 1) * plane + px / 2) * C;
            for (int64_t c = 0; c + SIDE < C; c += DEPTH) _mm512_storeu_si512(to + c, _mm512_loadu_si512(from + ix * C + c));
            if (C % DEPTH) _mm256_storeu_si256((__m256i *)(to + C - SIDE), eight_pairs(from + ix * C + C - SIDE));
        }
    }
}

typedef struct {   /* where a pass leaves the sums of what it wrote, channel by channel, and of the squares; NULL: nowhere */
    double *sums;
    int relu;          /* of what ReLU lets through */
} counted;

INLINE void add_up(double *to, __m512 v) {
    const __m256 low = _mm512_castps512_ps256(v), high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
    _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), _mm512_cvtps_pd(low)));
    _mm512_storeu_pd(to + 8, _mm512_add_pd(_mm512_loadu_pd(to + 8), _mm512_cvtps_pd(high)));
}

/* The sums of a tile's pixels as they are written, rounded, into c: so that the mean is that of the map (of one that is the same
   everywhere, exactly). They are taken tile by tile, in the same order whatever the block. */
INLINE void add_to_counted(const float *tile, const float *bias, const int32_t *where, int64_t o, int64_t O, const counted *c) {
    const __m512 zero = _mm512_setzero_ps(), b = bias ? _mm512_loadu_ps(bias + o) : zero;
    __m512 sum = zero, squares = zero;
    for (int r = 0; r < SIDE; r++) {
        if (where[r] < 0) continue;
        const __m256i written = (__m256i)_mm512_cvtneps_pbh(_mm512_add_ps(_mm512_load_ps(tile + r * SIDE), b));
        __m512 v = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(written), 16);
        if (c->relu) v = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, zero, _CMP_LT_OQ), zero);   /* not-a-number stays */
        sum = _mm512_add_ps(sum, v), squares = _mm512_fmadd_ps(v, v, squares);
    }
    add_up(c->sums + o, sum), add_up(c->sums + O + o, squares);
}

/* 16 sums of 16 channels, or of 32 where `second` is there, into the pixels that `where` names. */
INLINE void out(const float *first, const float *second, const float *bias, const int32_t *where, int64_t o, int64_t O, bf16 *y) {
    const __m512 zero = _mm512_setzero_ps();
    const __m512 b0 = bias ? _mm512_loadu_ps(bias + o) : zero, b1 = bias && second ? _mm512_loadu_ps(bias + o + SIDE) : zero;
    for (int r = 0; r < SIDE; r++) {
        if (where[r] < 0) continue;
        bf16 *to = y + where[r] * O + o;
        const __m512 a = _mm512_add_ps(_mm512_load_ps(first + r * SIDE), b0);
        if (second) {
            const __m512 b = _mm512_add_ps(_mm512_load_ps(second + r * SIDE), b1);
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
        } else _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(a));
    }
}

/* The tiles 0 .. 5 hold sums: m rows of n columns, m · n up to six, both known when this is compiled. The more of them, the
   better: a product waits for the one before it into the same tile. Every other row goes from right to left, so that one
   column is there already. Who uses these says where SUMS(i, j), LEFT(i) and RIGHT(j) lie, and how far apart their rows. */
#define EACH(m, n, DO) { DO(0, m, n) DO(1, m, n) DO(2, m, n) DO(3, m, n) DO(4, m, n) DO(5, m, n) }
#define ROW(k, n) ((k) / (n))
#define COLUMN(k, n) (ROW(k, n) & 1 ? (n) - 1 - (k) % (n) : (k) % (n))
#define CLEAR(k, m, n) if (k < m * n) _tile_zero(k);
#define FETCH(k, m, n) if (k < m * n) _tile_loadd(k, SUMS(ROW(k, n), COLUMN(k, n)), 64);
#define KEEP(k, m, n) if (k < m * n) _tile_stored(k, SUMS(ROW(k, n), COLUMN(k, n)), 64);
#define MULTIPLY(k, m, n)                                                       \
    if (k < m * n) {                                                            \
        if (k % n == 0) _tile_loadd(6, LEFT(ROW(k, n)), LEFT_STRIDE);           \
        if (k % n || k == 0) _tile_loadd(7, RIGHT(COLUMN(k, n)), RIGHT_STRIDE); \
        _tile_dpbf16ps(k, 6, 7);                                                \
    }

/* CALL with m, n as constants for that many rows and columns of tiles */
#define WHEN(M, N, CALL) if (rows == M && columns == N) { enum { m = M, n = N }; CALL; } else
#define SIZED(CALL)                                                             \
    WHEN(1, 1, CALL) WHEN(2, 1, CALL) WHEN(3, 1, CALL) WHEN(4, 1, CALL) WHEN(5, 1, CALL) WHEN(6, 1, CALL)    \
    WHEN(1, 2, CALL) WHEN(2, 2, CALL) WHEN(3, 2, CALL) WHEN(1, 3, CALL) WHEN(2, 3, CALL) {}

/* Six sums at a time are a fifth faster than two, but up to two fifths slower where another guest of the host uses the same
   core's tiles: then every tile that holds numbers seems to cost. The sums are the same to the last bit, so each piece of the
   work tries both on its second and third round and keeps to the faster. A round begins with all tiles empty. */
typedef struct { int64_t round; int few; uint64_t since, took[2]; } trial;
INLINE int begin_round(trial *t) {
    t->few = t->round == 2 || (t->round > 2 && t->took[1] < t->took[0]);
    use_tiles();
    t->since = __rdtsc();
    return t->few;
}
INLINE void end_round(trial *t) { if (t->round++ < 3) t->took[t->few] = __rdtsc() - t->since; }

/* 16 · m pixels by 16 · n channels, n 1 or 2. */
INLINE void block(const bf16 *at, const int32_t *offsets, const bf16 *kernel, int64_t chunks, const shape *s, const float *bias,
                  const int32_t *where, int64_t o, const int m, const int n, const counted *c, bf16 *y) {
    const int64_t C = s->channels, O = s->out_channels, blocks = O / SIDE;
    float sums[6][SIDE * SIDE] __attribute__((aligned(64)));
#define SUMS(i, j) sums[(i) * n + (j)]
#define LEFT(i) pixels + (i) * SIDE * C
#define LEFT_STRIDE C * sizeof(bf16)
#define RIGHT(j) tile + (j) * TILE
#define RIGHT_STRIDE 64
    EACH(m, n, CLEAR)
    for (int64_t j = 0; j < chunks; j++) {
        const bf16 *tile = kernel + (j * blocks + o / SIDE) * TILE, *pixels = at + offsets[j];
        EACH(m, n, MULTIPLY)
    }
    EACH(m, n, KEEP)
#undef SUMS
#undef LEFT
#undef LEFT_STRIDE
#undef RIGHT
#undef RIGHT_STRIDE
    for (int i = 0; i < m; i++) {
        out(sums[i * n], n > 1 ? sums[i * n + 1] : NULL, bias, where + i * SIDE, o, O, y);
        for (int j = 0; j < n && c->sums; j++) add_to_counted(sums[i * n + j], bias, where + i * SIDE, o + j * SIDE, O, c);
    }
}

/* 96 pixels at a time, so that the kernel, which may be larger than the first cache, is read seldom. Two columns of tiles
   share the loading of pixels; one alone, for six tiles of pixels, reads such a kernel still less, and is the better where
   loading pixels is cheap, their rows being whole cache lines. */
static void do_part(const bf16 *frame, const plan *way, const part *p, const float *bias, int few, const counted *c, bf16 *y) {
    enum { TOGETHER = 6, FIRST_CACHE = 32 };   /* in tiles */
    const shape *s = &way->map;
    const int64_t O = s->out_channels, tiles = (p->positions + SIDE - 1) / SIDE;
    const int single = few || (s->channels % DEPTH == 0 && p->chunks * O / SIDE > FIRST_CACHE);
    const int32_t *offsets = way->offsets + p->first_chunk, *where = way->where + p->first_position;
    const bf16 *kernel = way->kernel + p->first_chunk * O / SIDE * TILE;
    for (int64_t i = 0; i < tiles; i += TOGETHER)
        for (int64_t o = 0, columns; o < O; o += columns * SIDE) {
            columns = single || O - o == SIDE ? 1 : 2;
            for (int64_t j = i, rows; j < least(tiles, i + TOGETHER); j += rows) {
                rows = least(few ? 2 : TOGETHER / columns, least(tiles, i + TOGETHER) - j);
                SIZED(block(frame + p->base + j * SIDE * s->channels, offsets, kernel, p->chunks, s, bias, where + j * SIDE, o,
                            m, n, c, y))
            }
        }
}

/* Picture x, through the frame, into y. */
static void convolve(const bf16 *x, const plan *way, const float *bias, bf16 *frame, trial *tried, const counted *c, bf16 *y) {
    into_frame(x, &way->map, 0, frame);
    WRITTEN;
    const int few = begin_round(tried);
    for (int64_t p = 0; p < way->count; p++) do_part(frame, way, way->parts + p, bias, few, c, y);
    end_round(tried);
}

/* The gradients g of 32 places, at the offsets `where` (negative: none, zeros), → 32 channels of 32 places, `to` apart by L;
   16 channels where there are no more. */
INLINE void transpose(const bf16 *g, const int32_t *where, bf16 *to, int64_t L, const int channels) {
    __m512i a[32], b[32];
    for (int i = 0; i < 32; i++)
        a[i] = where[i] < 0 ? _mm512_setzero_si512()
             : channels > SIDE ? _mm512_loadu_si512(g + where[i]) : _mm512_zextsi256_si512(eight_pairs(g + where[i]));
    for (int i = 0; i < 32; i += 2)
        b[i] = _mm512_unpacklo_epi16(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi16(a[i], a[i + 1]);
    for (int i = 0; i < 32; i += 4)
        for (int h = 0; h < 2; h++) {
            a[i + 2 * h] = _mm512_unpacklo_epi32(b[i + h], b[i + 2 + h]);
            a[i + 2 * h + 1] = _mm512_unpackhi_epi32(b[i + h], b[i + 2 + h]);
        }
    for (int i = 0; i < 32; i += 8)   /* b[i + c], lane l: channel 8 l + c of the pixels i .. i + 7 */
        for (int h = 0; h < 4; h++) {
            b[i + 2 * h] = _mm512_unpacklo_epi64(a[i + h], a[i + 4 + h]);
            b[i + 2 * h + 1] = _mm512_unpackhi_epi64(a[i + h], a[i + 4 + h]);
        }
    for (int c = 0; c < 8; c++) {
        const __m512i even0 = _mm512_shuffle_i32x4(b[c], b[8 + c], 0x88), odd0 = _mm512_shuffle_i32x4(b[c], b[8 + c], 0xdd);
        const __m512i even1 = _mm512_shuffle_i32x4(b[16 + c], b[24 + c], 0x88);
        const __m512i odd1 = _mm512_shuffle_i32x4(b[16 + c], b[24 + c], 0xdd);
        _mm512_storeu_si512(to + c * L, _mm512_shuffle_i32x4(even0, even1, 0x88));
        _mm512_storeu_si512(to + (8 + c) * L, _mm512_shuffle_i32x4(odd0, odd1, 0x88));
        if (channels <= SIDE) continue;
        _mm512_storeu_si512(to + (16 + c) * L, _mm512_shuffle_i32x4(even0, even1, 0xdd));
        _mm512_storeu_si512(to + (24 + c) * L, _mm512_shuffle_i32x4(odd0, odd1, 0xdd));
    }
}

/* The gradients of `held` pictures, [O, L] by place in the frame. */
static void turn(const bf16 *g, const int32_t *where, int64_t held, const shape *s, int64_t L, bf16 *turned) {
    const int64_t O = s->out_channels, places = held * s->frame_height * s->frame_width;
    for (int64_t l = 0; l < places; l += DEPTH) {
        int32_t at[DEPTH];
        for (int i = 0; i < DEPTH; i++) at[i] = l + i < places ? where[l + i] : -1;
        for (int64_t o = 0; o + SIDE < O; o += DEPTH) transpose(g + o, at, turned + o * L + l, L, DEPTH);
        if (O % DEPTH) transpose(g + O - SIDE, at, turned + (O - SIDE) * L + l, L, SIDE);
    }
}

/* A run of `count` pixels of 16 channels, `step` numbers apart, that are neighbours in the frame, the first at the place
   `at`: each with the one after it, number by number side by side, those that begin at even places apart from those at odd
   ones (NULL where nobody reads these). Of the pairs at the run's ends one half is another run's, or zeros. */
static void run_into_pairs(const bf16 *x, int64_t step, int64_t count, int64_t at, int64_t C, bf16 *even, bf16 *odd) {
    const __m512i low = _mm512_set1_epi32(0xffff);
    bf16 *here = at & 1 ? odd : even, *before = at & 1 ? even : odd;
    if (here) here += at / 2 * 2 * C;
    if (before) before += (at + 1) / 2 * 2 * C - 2 * C;
    __m512i left = _mm512_cvtepu16_epi32(eight_pairs(x));
    if (before) {
        const __m512i other = _mm512_and_si512(_mm512_loadu_si512(before), low);
        _mm512_storeu_si512(before, _mm512_or_si512(other, _mm512_slli_epi32(left, 16)));
        before += 2 * C;
    }
    for (int64_t i = 1; i < count; i++) {
        const __m512i right = _mm512_cvtepu16_epi32(eight_pairs(x + i * step));
        if (here) {
            _mm512_storeu_si512(here, _mm512_or_si512(left, _mm512_slli_epi32(right, 16)));
            here += 2 * C;
        }
        bf16 *next = before;
        before = here, here = next, left = right;
    }
    if (here) _mm512_storeu_si512(here, _mm512_or_si512(_mm512_andnot_si512(low, _mm512_loadu_si512(here)), left));
}

/* Picture x at the place `at` of the frame's group, in pairs [pairs, C, 2]; what lies around it is zeros already. */
static void into_pairs(const bf16 *x, const shape *s, int64_t at, bf16 *even, bf16 *odd) {
    const int64_t C = s->channels, FW = s->frame_width, plane = s->group * s->frame_height * FW, step = s->step;
    for (int64_t iy = 0; iy < s->height; iy++) {
        const int64_t py = iy + s->top, row = py % step * step * plane + (at * s->frame_height + py / step) * FW;
        for (int64_t ix = 0; ix < least(step, s->width); ix++) {
            const int64_t px = ix + s->left, place = row + px % step * plane + px / step;
            const int64_t count = (s->width - ix + step - 1) / step;
            for (int64_t c = 0; c < C; c += SIDE)
                run_into_pairs(x + (iy * s->width + ix) * C + c, step * C, count, place, C, even ? even + 2 * c : NULL,
                               odd ? odd + 2 * c : NULL);
        }
    }
}

/* The tiles of sums that `to` names += 16 · m rows of `turned` times the columns that `pairs` names, over the positions. */
INLINE void product(const bf16 *turned, int64_t L, const bf16 *const *pairs, int64_t C, int64_t positions, const int m,
                    const int n, float *const *to) {
    const bf16 *first = pairs[0], *second = n > 1 ? pairs[1] : NULL, *third = n > 2 ? pairs[2] : NULL;
#define SUMS(i, j) to[j] + (i) * C * SIDE
#define LEFT(i) turned + at + (i) * SIDE * L
#define LEFT_STRIDE L * sizeof(bf16)
#define RIGHT(j) (j == 0 ? first : j == 1 ? second : third) + at * C
#define RIGHT_STRIDE 2 * C * sizeof(bf16)
    EACH(m, n, FETCH)
    for (int64_t at = 0; at < positions; at += DEPTH) EACH(m, n, MULTIPLY)
    EACH(m, n, KEEP)
#undef SUMS
#undef LEFT
#undef LEFT_STRIDE
#undef RIGHT
#undef RIGHT_STRIDE
}

typedef struct {   /* what a thread works out the kernel's gradient in */
    int64_t row, pairs;              /* numbers in a row of `turned`, and in the pairs of either kind */
    bf16 *even, *odd, *turned;       /* odd is NULL where no tap reads it */
    trial tried;
} desk;

/* How many numbers of memory the desk takes; they are to be set out by `set_out`. */
static int64_t measure(const plan *way, desk *d) {
    const shape *s = &way->map;
    const int64_t lines = (s->group * s->frame_height * s->frame_width + DEPTH - 1) / DEPTH;
    d->row = (lines | 1) * DEPTH;   /* an odd number of cache lines: rows keep off each other's */
    d->pairs = (frame_pixels(s) + 2 * DEPTH) / DEPTH * DEPTH * s->channels + 2 * s->channels;   /* one pair in front */
    return 2 * d->pairs + d->row * s->out_channels;
}

static void set_out(bf16 *memory, const plan *way, desk *d) {
    int64_t odds = 0;
    for (int64_t t = 0; t < way->count; t++) odds += way->offsets[t] & 1;
    memset(memory, 0, 2 * d->pairs * sizeof(bf16));
    d->even = memory + 2 * way->map.channels;   /* the first tap's */
    d->odd = odds ? memory + d->pairs + 2 * way->map.channels : NULL;
    d->turned = memory + 2 * d->pairs;
    d->tried = (trial){0};
}

/* sums, in tiles [taps, O / 16, C / 16, 16, 16], += the products of the turned gradients with the pixels that each tap reads.
   Columns of tiles are counted over the taps, so that none is left over but at the very end. */
static void add_products(const desk *d, const plan *way, int64_t positions, int few, float *sums) {
    const int64_t C = way->map.channels, O = way->map.out_channels, each = C / SIDE, all = way->count * each;
    const int64_t side = !few && O / SIDE % 3 == 0 ? 3 : 2;
    for (int64_t o = 0, rows; o < O; o += rows * SIDE) {
        rows = least(side, (O - o) / SIDE);
        for (int64_t q = 0, columns; q < all; q += columns) {
            const bf16 *pairs[3];
            float *to[3];
            columns = least(few ? 1 : rows == 3 ? 2 : 3, all - q);
            for (int64_t j = 0; j < columns; j++) {
                const int64_t t = (q + j) / each, c = (q + j) % each * SIDE, tap = way->offsets[t];
                pairs[j] = (tap & 1 ? d->odd : d->even) + (tap & ~1) * C + 2 * c;
                to[j] = sums + (t * O + o) * C + c * SIDE;
            }
            SIZED(product(d->turned + o * d->row, d->row, pairs, C, positions, m, n, to))
        }
    }
}

/* sums += what `held` pictures x and the gradients g behind them give to the kernel's gradient. */
static void gradient_of_group(const bf16 *x, const bf16 *g, int64_t held, const plan *way, desk *d, float *sums) {
    const shape *s = &way->map;
    for (int64_t n = 0; n < held; n++) into_pairs(x + n * s->height * s->width * s->channels, s, n, d->even, d->odd);
    turn(g, way->where, held, s, d->row, d->turned);
    WRITTEN;
    const int few = begin_round(&d->tried);
    add_products(d, way, held * s->frame_height * s->frame_width, few, sums);
    end_round(&d->tried);
}

/* The pieces' sums, added in order, into dw [O, taps, C]. */
static void gather(const float *sums, int pieces, int64_t count, const shape *s, float *dw) {
    const int64_t C = s->channels, O = s->out_channels, size = count * C * O;
    for (int64_t o = 0; o < O; o++)
        for (int64_t t = 0; t < count; t++)
            for (int64_t c = 0; c < C; c++) {
                const float *from = sums + (t * O + o / SIDE * SIDE) * C + c / SIDE * SIDE * SIDE + o % SIDE * SIDE + c % SIDE;
                float sum = from[0];
                for (int k = 1; k < pieces; k++) sum += from[k * size];
                dw[(o * count + t) * C + c] = sum;
            }
}

#endif
#endif
