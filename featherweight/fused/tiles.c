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
            for (int64_t c = 0; c < C; c += SIDE)
                _mm256_storeu_si256((__m256i *)(to + c), _mm256_loadu_si256((const __m256i *)(from + ix * C + c)));
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

/* The tiles 0 .. 5 hold sums: m rows of n columns, row by row in threes, m 1 or 2 and n 1 to 3, both known when this is
   compiled. The more of them, the better: a product waits for the one before it into the same tile. */
#define EACH(m, n, DO)                                                          \
    { DO(0, 0, 0) if (n > 1) DO(1, 0, 1) if (n > 2) DO(2, 0, 2)                 \
      if (m > 1) { DO(3, 1, 0) if (n > 1) DO(4, 1, 1) if (n > 2) DO(5, 1, 2) } }
#define CLEAR(tile, i, j) _tile_zero(tile);
#define FETCH(tile, i, j) _tile_loadd(tile, SUMS(i, j), 64);
#define KEEP(tile, i, j) _tile_stored(tile, SUMS(i, j), 64);

/* sums += rows (16 · m of them, `stride` bytes apart) times columns (16 · n, `across` numbers from tile to tile) */
#define PRODUCT(m, n, rows, below, stride, columns, across, height)             \
    {                                                                           \
        _tile_loadd(6, rows, stride);                                           \
        _tile_loadd(7, columns, height); _tile_dpbf16ps(0, 6, 7);               \
        if (n > 1) { _tile_loadd(7, (columns) + (across), height); _tile_dpbf16ps(1, 6, 7); }     \
        if (n > 2) { _tile_loadd(7, (columns) + 2 * (across), height); _tile_dpbf16ps(2, 6, 7); } \
        if (m > 1) {                                                            \
            _tile_loadd(6, (rows) + (below), stride);                           \
            if (n > 2) { _tile_dpbf16ps(5, 6, 7); _tile_loadd(7, (columns) + (across), height); } \
            if (n > 1) { _tile_dpbf16ps(4, 6, 7); _tile_loadd(7, columns, height); }              \
            _tile_dpbf16ps(3, 6, 7);                                            \
        }                                                                       \
    }

/* 16 · m pixels by 16 · n channels. */
INLINE void block(const bf16 *at, const int32_t *offsets, const bf16 *kernel, int64_t chunks, const shape *s, const float *bias,
                  const int32_t *where, int64_t o, const int m, const int n, bf16 *y) {
    const int64_t C = s->channels, O = s->out_channels, stride = C * sizeof(bf16), blocks = O / SIDE;
    float sums[2][3][SIDE * SIDE] __attribute__((aligned(64)));
#define SUMS(i, j) sums[i][j]
    EACH(m, n, CLEAR)
    for (int64_t j = 0; j < chunks; j++) {
        const bf16 *tile = kernel + (j * blocks + o / SIDE) * TILE, *rows = at + offsets[j];
        PRODUCT(m, n, rows, SIDE * C, stride, tile, TILE, 64)
    }
    EACH(m, n, KEEP)
#undef SUMS
    for (int i = 0; i < m; i++) {
        out(sums[i][0], n > 1 ? sums[i][1] : NULL, bias, where + i * SIDE, o, O, y);
        if (n > 2) out(sums[i][2], NULL, bias, where + i * SIDE, o + 2 * SIDE, O, y);
    }
}

/* CALL with m, n as constants for 1 or 2 rows and 1 to 3 columns of tiles */
#define SIZED(rows, columns, CALL)                                              \
    if (rows == 2 && columns == 3) { enum { m = 2, n = 3 }; CALL; }             \
    else if (rows == 2 && columns == 2) { enum { m = 2, n = 2 }; CALL; }        \
    else if (rows == 2) { enum { m = 2, n = 1 }; CALL; }                        \
    else if (columns == 3) { enum { m = 1, n = 3 }; CALL; }                     \
    else if (columns == 2) { enum { m = 1, n = 2 }; CALL; }                     \
    else { enum { m = 1, n = 1 }; CALL; }

/* How many of the tiles that are left are taken at a time: two, or three where one would be left over. */
INLINE int columns_of(int64_t left) { return left >= 4 * SIDE || left == 2 * SIDE ? 2 : left >= 3 * SIDE ? 3 : 1; }

static void do_part(const bf16 *frame, const part *p, const int32_t *offsets, const int32_t *where, const bf16 *kernel,
                    const float *bias, const shape *s, bf16 *y) {
    const int64_t O = s->out_channels;
    offsets += p->first_chunk, where += p->first_position, kernel += p->first_chunk * O / SIDE * TILE;
    for (int64_t i = 0; i < p->positions; i += 2 * SIDE) {
        const bf16 *at = frame + p->base + i * s->channels;
        const int rows = i + SIDE < p->positions ? 2 : 1;
        for (int64_t o = 0, columns; o < O; o += columns * SIDE) {
            columns = columns_of(O - o);
            SIZED(rows, columns, block(at, offsets, kernel, p->chunks, s, bias, where + i, o, m, n, y))
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
        use_tiles();
        for (int64_t i = begin; i < end; i++) {
            into_frame(x + i * in, s, 0, frame);
            WRITTEN;
            for (int64_t p = 0; p < count; p++) do_part(frame, parts + p, offsets, where, kernel, bias, s, y + i * all);
        }
        _tile_release();
    }
    return failed;
}

/* 32 pixels of 32 channels, `from` apart by C, → 32 channels of 32 pixels, `to` apart by L; the first `rows` of them. */
static void transpose(const bf16 *from, int64_t C, bf16 *to, int64_t L, int rows) {
    __m512i a[32], b[32];
    for (int i = 0; i < 32; i++) a[i] = _mm512_loadu_si512(from + i * C);
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
        if (rows <= SIDE) continue;
        _mm512_storeu_si512(to + (16 + c) * L, _mm512_shuffle_i32x4(even0, even1, 0xdd));
        _mm512_storeu_si512(to + (24 + c) * L, _mm512_shuffle_i32x4(odd0, odd1, 0xdd));
    }
}

/* Two neighbours' 16 channels, number by number side by side. */
INLINE void side_by_side(const bf16 *a, const bf16 *b, bf16 *to) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)a));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)b));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

/* The frame's pixels in pairs, [pairs, C, 2]: those that begin at even places, and those that begin at odd ones. */
static void into_pairs(const bf16 *frame, int64_t pixels, int64_t C, bf16 *even, bf16 *odd) {
    for (int64_t i = 0; i < pixels; i += 2)
        for (int64_t c = 0; c < C; c += SIDE) {
            const bf16 *at = frame + i * C + c;
            side_by_side(at, at + C, even + i * C + 2 * c);
            side_by_side(at + C, at + 2 * C, odd + i * C + 2 * c);
        }
}

/* The gradient g of a picture [H', W', O] at the frame's positions; what lies between its rows is zero already. */
static void into_positions(const bf16 *g, const shape *s, bf16 *positions) {
    const int64_t row = s->out_width * s->out_channels;
    for (int64_t oy = 0; oy < s->out_height; oy++)
        memcpy(positions + oy * s->frame_width * s->out_channels, g + oy * row, row * sizeof(bf16));
}

/* sums (tiles of 16 x 16, columns of them side by side and rows `below` apart) += turned · pairs over the positions */
INLINE void product(const bf16 *turned, int64_t L, const bf16 *pairs, int64_t C, int64_t positions, const int m, const int n,
                    float *sums, int64_t below) {
    const int64_t A = L * sizeof(bf16), B = 2 * C * sizeof(bf16);
#define SUMS(i, j) sums + (i) * below + (j) * SIDE * SIDE
    EACH(m, n, FETCH)
    for (int64_t i = 0; i < positions; i += DEPTH) PRODUCT(m, n, turned + i, SIDE * L, A, pairs + i * C, DEPTH, B)
    EACH(m, n, KEEP)
#undef SUMS
}

/* sums, in tiles [taps, O / 16, C / 16, 16, 16], += the products of g, turned to [O, L], with the pixels that each tap reads. */
static void add_products(const bf16 *turned, int64_t L, const bf16 *even, const bf16 *odd, const shape *s, int64_t positions,
                         const int32_t *taps, int64_t count, float *sums) {
    const int64_t C = s->channels, O = s->out_channels;
    for (int64_t t = 0; t < count; t++) {
        const bf16 *pairs = (taps[t] & 1 ? odd : even) + (taps[t] & ~1) * C;
        for (int64_t o = 0; o < O; o += 2 * SIDE)
            for (int64_t c = 0, columns; c < C; c += columns * SIDE) {
                const int rows = o + SIDE < O ? 2 : 1;
                columns = columns_of(C - c);
                SIZED(rows, columns, product(turned + o * L, L, pairs + 2 * c, C, positions, m, n,
                                             sums + (t * O + o) * C + c * SIDE, C * SIDE))
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

/* dw [O, taps, C] from x [N, H, W, C] and g [N, H', W', O]; `taps` says how many pixels of the frame each lies away. */
int tiles_kernel_gradient(const bf16 *x, const bf16 *g, const int32_t *taps, int64_t count, const shape *s, float *dw) {
    const int pieces = omp_get_max_threads();
    const int64_t C = s->channels, O = s->out_channels, in = s->height * s->width * C, all = s->out_height * s->out_width * O;
    const int64_t picture = s->frame_height * s->frame_width, pixels = frame_pixels(s), size = count * C * O;
    const int64_t places = (s->group * picture + DEPTH - 1) / DEPTH * DEPTH;
    const int64_t L = places / DEPTH % 2 ? places : places + DEPTH;   /* an odd number of cache lines: rows keep off each other's */
    const int64_t frame_size = (pixels + DEPTH) / DEPTH * DEPTH * C + 2 * DEPTH * C, flat_size = places * O + DEPTH;
    float *sums = aligned_alloc(64, size * pieces * sizeof(float));   /* a multiple of 1024 bytes */
    int failed = !sums;
    if (failed) return 1;
    memset(sums, 0, size * pieces * sizeof(float));
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        const int64_t begin = piece(s->pictures, pieces, k), end = piece(s->pictures, pieces, k + 1);
        if (begin == end) continue;
        const int64_t needed = 3 * frame_size + flat_size + L * O;
        bf16 *frame = (bf16 *)space((needed + 1) / 2);
        if (!frame) { failed = 1; continue; }
        bf16 *even = frame + frame_size, *odd = even + frame_size, *flat = odd + frame_size, *turned = flat + flat_size;
        memset(frame, 0, needed * sizeof(bf16));
        use_tiles();
        for (int64_t i = begin; i < end; i += s->group) {
            const int64_t held = least(s->group, end - i);
            if (held < s->group) memset(flat, 0, flat_size * sizeof(bf16));   /* else what the group before left there */
            for (int64_t n = 0; n < held; n++) {
                into_frame(x + (i + n) * in, s, n, frame);
                into_positions(g + (i + n) * all, s, flat + n * picture * O);
            }
            into_pairs(frame, pixels, C, even, odd);
            for (int64_t l = 0; l < places; l += DEPTH)
                for (int64_t o = 0; o < O; o += DEPTH)
                    transpose(flat + l * O + o, O, turned + o * L + l, L, least(O - o, DEPTH));
            WRITTEN;
            add_products(turned, L, even, odd, s, held * picture, taps, count, sums + k * size);
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
