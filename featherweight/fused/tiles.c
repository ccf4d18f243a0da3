/* Convolutions of bf16 maps by a processor's matrix tiles (Intel AMX): products of 16 x 32 by 32 x 16 numbers, summed in
   float. Maps are [N, H, W, C], C a multiple of 16.

   A picture is copied into a frame of zeros, where the pixel that a tap reads lies at a fixed distance from the one that is
   written, over the ends of rows as well: 16 neighbours in the frame are a tile's rows, whatever the width, and those of
   them that are no pixel of the map written are left out at the end. For stride 2 the frame is in four planes, by even and
   odd rows and columns, in each of which neighbours are neighbours again.

   What is multiplied with what is not decided here: `offsets` says for each chunk of 32 numbers how far from the pixel's
   own it begins, and the kernel comes cut into tiles by the same chunks. So the forward pass and both strides' gradients
   to the input are one function (tiles.py makes their plans).

   A last chunk may reach into the next pixel, whose numbers then meet zeros: what is not a number spreads to a neighbour that
   should not see it, in pictures that are lost to the next norm anyway.

   The work is cut into one piece a thread, by pictures; the kernel's gradient is summed in float, pieces in order: the same
   number of threads gives the same bits. Source of the instructions: Intel's Architecture Instruction Set Extensions
   Programming Reference, chapter on AMX. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "element.h"
#include "space.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
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

/* Asks the system for leave to use tiles; whether this process has it. */
int tiles_available(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* The compiler does not know that loading a tile reads memory: what was written has to be there before. */
#define WRITTEN __asm__ volatile("" ::: "memory")

static void use_tiles(void) {   /* all eight of 16 rows of 64 bytes */
    static const struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } all = {
        .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    __asm__ volatile("ldtilecfg %0" : : "m"(all));   /* gcc 12's own names but 8 bytes of it as read */
}

INLINE __m256i eight_pairs(const bf16 *p) { return _mm256_loadu_si256((const __m256i *)p); }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
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

/* Six sums at a time are a fifth faster than two, but up to a third slower where another guest of the host uses the same
   core's tiles: then every tile that holds numbers seems to cost. The sums are the same to the last bit, so each piece of the
   work tries both on its second and third turn and keeps to the faster. A turn begins with all tiles empty. */
typedef struct { int64_t turn; int few; uint64_t since, took[2]; } trial;
INLINE int begin_turn(trial *t) {
    t->few = t->turn == 2 || (t->turn > 2 && t->took[1] < t->took[0]);
    use_tiles();
    t->since = __rdtsc();
    return t->few;
}
INLINE void end_turn(trial *t) { if (t->turn++ < 3) t->took[t->few] = __rdtsc() - t->since; }

/* 16 · m pixels by 16 · n channels, n 1 or 2. */
INLINE void block(const bf16 *at, const int32_t *offsets, const bf16 *kernel, int64_t chunks, const shape *s, const float *bias,
                  const int32_t *where, int64_t o, const int m, const int n, bf16 *y) {
    const int64_t C = s->channels, O = s->out_channels, blocks = O / SIDE;
    float sums[6][SIDE * SIDE] __attribute__((aligned(64)));
#define SUMS(i, j) sums[(i) * n + (j)]
#define LEFT(i) pixels + (i) * SIDE * C
#define LEFT_STRIDE C * sizeof(bf16)
#define RIGHT(j) tile + (j) * TILE
#define RIGHT_STRIDE 64
    EACH(m, n, CLEAR)
    for (int64_t c = 0; c < chunks; c++) {
        const bf16 *tile = kernel + (c * blocks + o / SIDE) * TILE, *pixels = at + offsets[c];
        EACH(m, n, MULTIPLY)
    }
    EACH(m, n, KEEP)
#undef SUMS
#undef LEFT
#undef LEFT_STRIDE
#undef RIGHT
#undef RIGHT_STRIDE
    for (int i = 0; i < m; i++) out(sums[i * n], n > 1 ? sums[i * n + 1] : NULL, bias, where + i * SIDE, o, O, y);
}

/* 96 pixels at a time, so that the kernel, which may be larger than the first cache, is read seldom. Two columns of tiles
   share the loading of pixels; one alone, for six tiles of pixels, reads such a kernel still less, and is the better where
   loading pixels is cheap, their rows being whole cache lines. */
static void do_part(const bf16 *frame, const part *p, const int32_t *offsets, const int32_t *where, const bf16 *kernel,
                    const float *bias, const shape *s, int few, bf16 *y) {
    enum { TOGETHER = 6, FIRST_CACHE = 32 };   /* in tiles */
    const int64_t O = s->out_channels, tiles = (p->positions + SIDE - 1) / SIDE;
    const int single = s->channels % DEPTH == 0 && p->chunks * O / SIDE > FIRST_CACHE;
    offsets += p->first_chunk, where += p->first_position, kernel += p->first_chunk * O / SIDE * TILE;
    for (int64_t i = 0; i < tiles; i += TOGETHER)
        for (int64_t o = 0, columns; o < O; o += columns * SIDE) {
            columns = few || single || O - o == SIDE ? 1 : 2;
            for (int64_t j = i, rows; j < least(tiles, i + TOGETHER); j += rows) {
                rows = least(few ? 2 : TOGETHER / columns, tiles - j);
                SIZED(block(frame + p->base + j * SIDE * s->channels, offsets, kernel, p->chunks, s, bias, where + j * SIDE, o,
                            m, n, y))
            }
        }
}

/* y [N, H', W', O] from x [N, H, W, C] and the kernel in tiles [chunks, O / 16, 16 pairs, 16, 2]; bias [O] or NULL. */
int tiles_convolve(const bf16 *x, const bf16 *kernel, const int32_t *offsets, const int32_t *where, const float *bias,
                   const shape *s, const part *parts, int64_t count, bf16 *y) {
    const int pieces = omp_get_max_threads();
    const int64_t in = s->height * s->width * s->channels, all = s->out_height * s->out_width * s->out_channels;
    const int64_t size = frame_pixels(s) * s->channels;
    int failed = 0;
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        const int64_t begin = piece(s->pictures, pieces, k), end = piece(s->pictures, pieces, k + 1);
        if (begin == end) continue;
        bf16 *frame = (bf16 *)space((size + 1) / 2);
        if (!frame) { failed = 1; continue; }
        memset(frame, 0, size * sizeof(bf16));
        trial tried = {0};
        for (int64_t i = begin; i < end; i++) {
            into_frame(x + i * in, s, 0, frame);
            WRITTEN;
            const int few = begin_turn(&tried);
            for (int64_t p = 0; p < count; p++) do_part(frame, parts + p, offsets, where, kernel, bias, s, few, y + i * all);
            end_turn(&tried);
        }
        _tile_release();
    }
    return failed;
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

/* sums, in tiles [taps, O / 16, C / 16, 16, 16], += the products of g, turned to [O, L], with the pixels that each tap reads.
   Columns of tiles are counted over the taps, so that none is left over but at the very end. */
static void add_products(const bf16 *turned, int64_t L, const bf16 *even, const bf16 *odd, const shape *s, int64_t positions,
                         const int32_t *taps, int64_t count, int few, float *sums) {
    const int64_t C = s->channels, O = s->out_channels, each = C / SIDE, side = !few && O / SIDE % 3 == 0 ? 3 : 2;
    for (int64_t o = 0, rows; o < O; o += rows * SIDE) {
        rows = least(side, (O - o) / SIDE);
        for (int64_t q = 0, columns; q < count * each; q += columns) {
            const bf16 *pairs[3];
            float *to[3];
            columns = least(few ? 1 : rows == 3 ? 2 : 3, count * each - q);
            for (int64_t j = 0; j < columns; j++) {
                const int64_t t = (q + j) / each, c = (q + j) % each * SIDE;
                pairs[j] = (taps[t] & 1 ? odd : even) + (taps[t] & ~1) * C + 2 * c;
                to[j] = sums + (t * O + o) * C + c * SIDE;
            }
            SIZED(product(turned + o * L, L, pairs, C, positions, m, n, to))
        }
    }
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

/* A kernel's numbers cut into tiles: tiles[i] = w[places[i]], or 0 where that is negative; a multiple of 32 of them. */
void tiles_cut(const float *w, const int32_t *places, int64_t count, bf16 *tiles) {
    for (int64_t i = 0; i < count; i += SIDE) {
        const __m512i at = _mm512_loadu_si512(places + i);
        const __mmask16 there = _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512());
        const __m512 found = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, at, w, sizeof(float));
        _mm256_storeu_si256((__m256i *)(tiles + i), (__m256i)_mm512_cvtneps_pbh(found));
    }
}

/* dw [O, taps, C] from x [N, H, W, C] and g [N, H', W', O]; `taps` says how many pixels of the frame each lies away, `where`
   for each place of a group's frame which numbers of its gradients stand there (negative: none). */
int tiles_kernel_gradient(const bf16 *x, const bf16 *g, const int32_t *taps, int64_t count, const int32_t *where,
                          const shape *s, float *dw) {
    const int pieces = omp_get_max_threads();
    const int64_t C = s->channels, O = s->out_channels, in = s->height * s->width * C, all = s->out_height * s->out_width * O;
    const int64_t picture = s->frame_height * s->frame_width, pixels = frame_pixels(s), size = count * C * O;
    const int64_t lines = (s->group * picture + DEPTH - 1) / DEPTH;
    const int64_t L = (lines | 1) * DEPTH;   /* an odd number of cache lines: rows keep off each other's */
    const int64_t frame_size = (pixels + 2 * DEPTH) / DEPTH * DEPTH * C;
    int64_t odds = 0;
    for (int64_t t = 0; t < count; t++) odds += taps[t] & 1;
    float *sums = aligned_alloc(64, size * pieces * sizeof(float));   /* a multiple of 1024 bytes */
    int failed = !sums;
    if (failed) return 1;
    memset(sums, 0, size * pieces * sizeof(float));
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        const int64_t begin = piece(s->pictures, pieces, k), end = piece(s->pictures, pieces, k + 1);
        if (begin == end) continue;
        const int64_t needed = 2 * (frame_size + 2 * C) + L * O;
        bf16 *frame = (bf16 *)space((needed + 1) / 2);
        if (!frame) { failed = 1; continue; }
        bf16 *even = frame + 2 * C, *odd = even + frame_size + 2 * C, *turned = odd + frame_size;   /* one pair before each */
        memset(frame, 0, 2 * (frame_size + 2 * C) * sizeof(bf16));
        trial tried = {0};
        for (int64_t i = begin; i < end; i += s->group) {
            const int64_t held = least(s->group, end - i);
            for (int64_t n = 0; n < held; n++)
                into_pairs(x + (i + n) * in, s, n, odds < count ? even : NULL, odds ? odd : NULL);
            turn(g + i * all, where, held, s, L, turned);
            WRITTEN;
            const int few = begin_turn(&tried);
            add_products(turned, L, even, odd, s, held * picture, taps, count, few, sums + k * size);
            end_turn(&tried);
        }
        _tile_release();
    }
    gather(sums, pieces, count, s, dw);
    free(sums);
    return failed;
}
#else
int tiles_available(void) { return 0; }
#endif
