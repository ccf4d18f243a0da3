/* 3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's minimal filtering F(4x4, 3x3) in the
   form of Lavin & Gray 2015 (arXiv:1509.09308), for maps in channels-last memory, [N, H, W, C] floats.

   The output is cut into tiles of 4x4 pixels. A tile needs 6x6 pixels of input, which are transformed (B), multiplied with
   the transformed kernel at each of 36 places by itself, as matrices over the channels, and transformed back (A):

       output = A' [ U . (B' input B) ] A          U = G kernel G', made by fused/winograd.py
       kernel's gradient = G' [ sum over tiles of (B' input B)' (A gradient A') ] G

   Pixels of a dilated convolution that are dilation apart form a map of their own; each has its own tiles. Tiles are
   taken in groups whose transformed values stay in the processor's second-level cache. The work is cut into one piece a
   thread, added in order: the same number of threads gives the same bits. */
#include "space.h"
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
#endif

#define LANES 16
#define SIDE 6                  /* of an input tile */
#define PLACES (SIDE * SIDE)
#define OUT 4                   /* side of an output tile */
#define BLOCK 8                 /* rows of a matrix product summed in registers, times two vectors */
#define GROUP_FLOATS (160 * 1024)  /* transformed values of a group of tiles: 640 KiB */
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
/* Floats from one place's values to the next place's: not a power of two, or all 36 would meet in one set of the cache. */
#define PITCH(tiles, channels) ((tiles) * (channels) + LANES)
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int64_t pictures, height, width, channels;      /* of the input */
    int64_t out_height, out_width, out_channels;
    int64_t padding, dilation;
} shape;

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }

static int64_t tiles_along(int64_t pixels, int64_t dilation) {   /* of the longest of the dilation's maps */
    return (pixels + dilation * OUT - 1) / (dilation * OUT);
}
static int64_t tiles_of(const shape *s) {
    return s->dilation * s->dilation * tiles_along(s->out_height, s->dilation) * tiles_along(s->out_width, s->dilation);
}

/* Where a tile's `side` x `side` pixels are in a map of `channels`, `shift` pixels before the output's; NULL outside.
   Returns whether none is outside. */
static int places_of(int64_t tile, const shape *s, const float *map, int64_t height, int64_t width, int64_t channels,
                      int64_t shift, int side, const float **at) {
    const int64_t d = s->dilation, across = tiles_along(s->out_width, d), down = tiles_along(s->out_height, d);
    const int64_t picture = tile / tiles_of(s), in = tile % tiles_of(s);
    const int64_t lane = in / (across * down), y0 = lane / d + in / across % down * OUT * d - shift;
    const int64_t x0 = lane % d + in % across * OUT * d - shift;
    int inside = 1;
    map += picture * height * width * channels;
    for (int r = 0; r < side; r++)
        for (int c = 0; c < side; c++) {
            const int64_t y = y0 + r * d, x = x0 + c * d;
            const int there = y >= 0 && y < height && x >= 0 && x < width;
            at[r * side + c] = there ? map + (y * width + x) * channels : NULL;
            inside &= there;
        }
    return inside;
}

INLINE vec value(const float *at, int64_t c) { return at ? load(at + c) : (vec){0}; }

/* B' of six values */
INLINE void into(const vec *d, int step, vec *o, int to) {
    const vec a = d[4 * step] - 4 * d[2 * step], b = d[3 * step] - 4 * d[step];
    const vec e = d[4 * step] - d[2 * step], f = 2 * (d[3 * step] - d[step]);
    o[0] = 4 * d[0] - 5 * d[2 * step] + d[4 * step];
    o[to] = a + b;
    o[2 * to] = a - b;
    o[3 * to] = e + f;
    o[4 * to] = e - f;
    o[5 * to] = 4 * d[step] - 5 * d[3 * step] + d[5 * step];
}

/* A' of six values */
INLINE void back(const vec *m, int step, vec *o, int to) {
    const vec a = m[step] + m[2 * step], b = m[step] - m[2 * step], c = m[3 * step] + m[4 * step];
    const vec d = m[3 * step] - m[4 * step];
    o[0] = m[0] + a + c;
    o[to] = b + 2 * d;
    o[2 * to] = a + 4 * c;
    o[3 * to] = b + 8 * d + m[5 * step];
}

/* A of four values: the transpose of `back` */
INLINE void out(const vec *g, int step, vec *o, int to) {
    const vec a = g[0] + g[2 * step], b = g[step] + g[3 * step];
    const vec c = g[0] + 4 * g[2 * step], d = 2 * g[step] + 8 * g[3 * step];
    o[0] = g[0];
    o[to] = a + b;
    o[2 * to] = a - b;
    o[3 * to] = c + d;
    o[4 * to] = c - d;
    o[5 * to] = g[3 * step];
}

/* [place][tile][channel] of the input: `count` tiles from `first`, to `values` */
static void transform_input(const float *x, const shape *s, int64_t first, int64_t count, float *values) {
    const float *at[PLACES];
    const int64_t pitch = PITCH(count, s->channels);
    for (int64_t t = 0; t < count; t++) {
        const int inside = places_of(first + t, s, x, s->height, s->width, s->channels, s->padding, SIDE, at);
        for (int64_t c = 0; c < s->channels; c += LANES) {
            vec half[PLACES], all[PLACES], d[PLACES];
            if (inside)
                for (int i = 0; i < PLACES; i++) d[i] = load(at[i] + c);
            else
                for (int i = 0; i < PLACES; i++) d[i] = value(at[i], c);
            for (int i = 0; i < SIDE; i++) into(d + i, SIDE, half + i, SIDE);
            for (int i = 0; i < SIDE; i++) into(half + i * SIDE, 1, all + i * SIDE, 1);
            for (int i = 0; i < PLACES; i++) store(values + i * pitch + t * s->channels + c, all[i]);
        }
    }
}

static void transform_gradient(const float *g, const shape *s, int64_t first, int64_t count, float *values) {
    const float *at[OUT * OUT];
    const int64_t pitch = PITCH(count, s->out_channels);
    for (int64_t t = 0; t < count; t++) {
        places_of(first + t, s, g, s->out_height, s->out_width, s->out_channels, 0, OUT, at);
        for (int64_t c = 0; c < s->out_channels; c += LANES) {
            vec d[OUT * OUT], half[SIDE * OUT], all[PLACES];
            for (int i = 0; i < OUT * OUT; i++) d[i] = value(at[i], c);
            for (int i = 0; i < OUT; i++) out(d + i, OUT, half + i, OUT);
            for (int i = 0; i < SIDE; i++) out(half + i * OUT, 1, all + i * SIDE, 1);
            for (int i = 0; i < PLACES; i++) store(values + i * pitch + t * s->out_channels + c, all[i]);
        }
    }
}

static void transform_output(const float *values, const shape *s, int64_t first, int64_t count, float *y) {
    const float *at[OUT * OUT];
    const int64_t pitch = PITCH(count, s->out_channels);
    for (int64_t t = 0; t < count; t++) {
        places_of(first + t, s, y, s->out_height, s->out_width, s->out_channels, 0, OUT, at);
        for (int64_t c = 0; c < s->out_channels; c += LANES) {
            vec m[PLACES], half[OUT * SIDE], all[OUT * OUT];
            for (int i = 0; i < PLACES; i++) m[i] = load(values + i * pitch + t * s->out_channels + c);
            for (int i = 0; i < SIDE; i++) back(m + i, SIDE, half + i, SIDE);
            for (int i = 0; i < OUT; i++) back(half + i * SIDE, 1, all + i * OUT, 1);
            for (int i = 0; i < OUT * OUT; i++)
                if (at[i]) store((float *)at[i] + c, all[i]);
        }
    }
}

/* y[k, :] = sum over i < length of x[k, i] * w[i, :], for k < P, V vectors */
INLINE void product(const float *x, int64_t length, const float *w, int64_t width, float *y, const int P, const int V) {
    vec sum[BLOCK][2];
    for (int k = 0; k < P; k++)
        for (int v = 0; v < V; v++) sum[k][v] = (vec){0};
    for (int64_t i = 0; i < length; i++, w += width) {
        vec row[2];
        for (int v = 0; v < V; v++) row[v] = load(w + v * LANES);
        for (int k = 0; k < P; k++)
            for (int v = 0; v < V; v++) sum[k][v] += row[v] * x[k * length + i];
    }
    for (int k = 0; k < P; k++)
        for (int v = 0; v < V; v++) store(y + k * width + v * LANES, sum[k][v]);
}

/* u[k, :] += sum over t < count of x[t, k] * m[t, :], for k < BLOCK, V vectors */
INLINE void outer(const float *x, int64_t length, const float *m, int64_t width, int64_t count, float *u, const int V) {
    vec sum[BLOCK][2];
    for (int k = 0; k < BLOCK; k++)
        for (int v = 0; v < V; v++) sum[k][v] = load(u + k * width + v * LANES);
    for (int64_t t = 0; t < count; t++, x += length, m += width) {
        vec row[2];
        for (int v = 0; v < V; v++) row[v] = load(m + v * LANES);
        for (int k = 0; k < BLOCK; k++)
            for (int v = 0; v < V; v++) sum[k][v] += row[v] * x[k];
    }
    for (int k = 0; k < BLOCK; k++)
        for (int v = 0; v < V; v++) store(u + k * width + v * LANES, sum[k][v]);
}

static void __attribute__((noinline)) products(const float *x, int64_t count, int64_t length, const float *w, int64_t width,
                                               float *y) {
    for (int64_t o = 0; o < width; o += 2 * LANES) {
        int64_t t = 0;
        if (o + LANES < width) {
            for (; t + BLOCK <= count; t += BLOCK) product(x + t * length, length, w + o, width, y + t * width + o, BLOCK, 2);
            for (; t + 4 <= count; t += 4) product(x + t * length, length, w + o, width, y + t * width + o, 4, 2);
            for (; t < count; t++) product(x + t * length, length, w + o, width, y + t * width + o, 1, 2);
        } else {
            for (; t + BLOCK <= count; t += BLOCK) product(x + t * length, length, w + o, width, y + t * width + o, BLOCK, 1);
            for (; t < count; t++) product(x + t * length, length, w + o, width, y + t * width + o, 1, 1);
        }
    }
}

static void __attribute__((noinline)) outers(const float *x, int64_t count, int64_t length, const float *m, int64_t width,
                                             float *u) {
    for (int64_t o = 0; o < width; o += 2 * LANES)
        for (int64_t k = 0; k < length; k += BLOCK) {
            if (o + LANES < width) outer(x + k, length, m + o, width, count, u + k * width + o, 2);
            else outer(x + k, length, m + o, width, count, u + k * width + o, 1);
        }
}

static int64_t group_of(const shape *s, int64_t tiles) {
    int64_t n = GROUP_FLOATS / (PLACES * (s->channels + s->out_channels)) / BLOCK * BLOCK;
    n = n < BLOCK ? BLOCK : n;
    return n < tiles ? n : tiles;
}

/* y of all pictures; kernel: [place][channel][out channel]. Returns 1 when there is no memory. */
int winograd_forward(const float *x, const float *kernel, const shape *s, float *y) {
    const int64_t C = s->channels, O = s->out_channels, tiles = s->pictures * tiles_of(s), group = group_of(s, tiles);
    const int pieces = omp_get_max_threads();
    const int64_t in = PLACES * PITCH(group, C), each = in + PLACES * PITCH(group, O);
    float *own = space(pieces * each);
    if (!own) return 1;
#pragma omp parallel for schedule(static, 1)
    for (int k = 0; k < pieces; k++) {
        float *values = own + k * each, *found = values + in;
        for (int64_t t = tiles * k / pieces, end = tiles * (k + 1) / pieces; t < end; t += group) {
            const int64_t n = t + group < end ? group : end - t;
            transform_input(x, s, t, n, values);
            for (int i = 0; i < PLACES; i++)
                products(values + i * PITCH(n, C), n, C, kernel + i * C * O, O, found + i * PITCH(n, O));
            transform_output(found, s, t, n, y);
        }
    }
    return 0;
}

/* The gradient of the transformed kernel, [place][channel][out channel], summed over all tiles. */
int winograd_kernel_gradient(const float *x, const float *g, const shape *s, float *gradient) {
    const int64_t C = s->channels, O = s->out_channels, tiles = s->pictures * tiles_of(s), group = group_of(s, tiles);
    const int64_t in = PLACES * PITCH(group, C), each = in + PLACES * (PITCH(group, O) + C * O);
    const int pieces = omp_get_max_threads();
    float *own = space(pieces * each);
    if (!own) return 1;
#pragma omp parallel for schedule(static, 1)
    for (int k = 0; k < pieces; k++) {
        float *sums = own + k * each, *values = sums + PLACES * C * O, *slopes = values + in;
        memset(sums, 0, PLACES * C * O * sizeof(float));
        for (int64_t t = tiles * k / pieces, end = tiles * (k + 1) / pieces; t < end; t += group) {
            const int64_t n = t + group < end ? group : end - t;
            transform_input(x, s, t, n, values);
            transform_gradient(g, s, t, n, slopes);
            for (int i = 0; i < PLACES; i++)
                outers(values + i * PITCH(n, C), n, C, slopes + i * PITCH(n, O), O, sums + i * C * O);
        }
    }
    for (int64_t i = 0; i < PLACES * C * O; i++) {
        gradient[i] = own[i];
        for (int k = 1; k < pieces; k++) gradient[i] += own[k * each + i];
    }
    return 0;
}
