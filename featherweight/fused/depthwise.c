/* Depthwise convolutions (one group a channel, one or two kernels each) of maps in channels-last memory, forward and
   both gradients. The channels fill vectors of 16, so that every tap is one multiplication of whole vectors, and a row's
   neighbours lie in the nearest cache. Kernels are [K, K, m, C]: m kernels for each of C channels; the output's channel
   c * m + j is that of kernel j, as torch orders them.

   The work is cut into one piece a thread, by pictures; the kernel's gradient is summed in float over a picture, in double
   over pictures, pieces in order: the same number of threads gives the same bits. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
#endif
#include "element.h"
#include "space.h"

#define MOST 5   /* largest kernel */

typedef struct {
    int64_t pictures, height, width, channels, out_height, out_width, kernel, stride, padding, dilation, multiplier;
} shape;

/* The lanes named, of a and then b side by side. gcc knows clang's name for it from version 12 on. */
#if defined(__clang__) || __GNUC__ >= 12
#define LANES_OF(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t lanes __attribute__((vector_size(64)));
#define LANES_OF(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

/* Two kernels' values of 16 channels ↔ 32 neighbouring channels of the output. */
INLINE void store_pair(element *p, vec a, vec b) {
    store_map(p, LANES_OF(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    store_map(p + LANES, LANES_OF(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
}
INLINE void load_pair(const element *p, vec *a, vec *b) {
    const vec x = load_map(p), y = load_map(p + LANES);
    *a = LANES_OF(x, y, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *b = LANES_OF(x, y, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

/* The output's columns whose taps all lie inside a row: from..to. */
INLINE void interior(const shape *s, int64_t *from, int64_t *to) {
    const int64_t room = s->width - 1 - (s->kernel - 1) * s->dilation + s->padding;
    *from = (s->padding + s->stride - 1) / s->stride;
    *to = room < 0 ? 0 : room / s->stride + 1;
    if (*to > s->out_width) *to = s->out_width;
    if (*from > s->out_width) *from = s->out_width;
    if (*to < *from) *to = *from;
}

/* One pixel of the output from its K rows; `ix` is its first tap's column, `inside` that none lies beyond the row. */
INLINE void pixel(const element *const *rows, const float *w, const shape *s, int64_t ix, const int K, const int m,
                  const int inside, element *y) {
    const int64_t C = s->channels;
    vec sum[2] = {{0}, {0}};
    for (int kx = 0; kx < K; kx++) {
        const int64_t at = ix + kx * s->dilation;
        if (!inside && (at < 0 || at >= s->width)) continue;
        for (int ky = 0; ky < K; ky++)
            for (int j = 0; j < m; j++) sum[j] += load_map(rows[ky] + at * C) * load(w + ((ky * K + kx) * m + j) * C);
    }
    if (m == 1) store_map(y, sum[0]);
    else store_pair(y, sum[0], sum[1]);
}

INLINE void forward_row(const element *const *rows, const float *w, const shape *s, const int K, const int m, element *y) {
    int64_t from, to;
    const int64_t step = s->channels * m;
    interior(s, &from, &to);
    for (int64_t ox = 0; ox < from; ox++) pixel(rows, w, s, ox * s->stride - s->padding, K, m, 0, y + ox * step);
    for (int64_t ox = from; ox < to; ox++) pixel(rows, w, s, ox * s->stride - s->padding, K, m, 1, y + ox * step);
    for (int64_t ox = to; ox < s->out_width; ox++) pixel(rows, w, s, ox * s->stride - s->padding, K, m, 0, y + ox * step);
}

/* The K rows of picture `x` that the output's row `oy` reads; one of zeros for those above and below the picture. */
INLINE void rows_of(const element *x, const shape *s, int64_t oy, const element *zeros, const element **rows) {
    for (int ky = 0; ky < s->kernel; ky++) {
        const int64_t iy = oy * s->stride - s->padding + ky * s->dilation;
        rows[ky] = iy < 0 || iy >= s->height ? zeros : x + iy * s->width * s->channels;
    }
}

INLINE void forward_picture(const element *x, const float *w, const shape *s, const element *zeros, const int K, const int m, element *y) {
    const element *rows[MOST], *own[MOST];
    for (int64_t oy = 0; oy < s->out_height; oy++) {
        rows_of(x, s, oy, zeros, rows);
        for (int64_t c = 0; c < s->channels; c += LANES) {
            for (int ky = 0; ky < K; ky++) own[ky] = rows[ky] + c;
            forward_row(own, w + c, s, K, m, y + oy * s->out_width * s->channels * m + c * m);
        }
    }
}

/* dx += what one pixel of the output hands down to its taps. */
INLINE void scatter(float *const *rows, const float *w, const shape *s, int64_t ix, const int K, const int m,
                    const int inside, const element *g) {
    const int64_t C = s->channels;
    vec a, b = {0};
    if (m == 1) a = load_map(g);
    else load_pair(g, &a, &b);
    for (int ky = 0; ky < K; ky++) {
        if (!rows[ky]) continue;
        for (int kx = 0; kx < K; kx++) {
            const int64_t at = ix + kx * s->dilation;
            if (!inside && (at < 0 || at >= s->width)) continue;
            const float *tap = w + (ky * K + kx) * m * C;
            vec v = load(rows[ky] + at * C) + a * load(tap);
            if (m == 2) v += b * load(tap + C);
            store(rows[ky] + at * C, v);
        }
    }
}

INLINE void input_picture(float *dx /* of one picture, in float */, const float *w, const shape *s, const int K, const int m, const element *g) {
    int64_t from, to;
    interior(s, &from, &to);
    memset(dx, 0, s->height * s->width * s->channels * sizeof(float));
    for (int64_t oy = 0; oy < s->out_height; oy++)
        for (int64_t c = 0; c < s->channels; c += LANES) {
            float *rows[MOST];
            for (int ky = 0; ky < K; ky++) {
                const int64_t iy = oy * s->stride - s->padding + ky * s->dilation;
                rows[ky] = iy < 0 || iy >= s->height ? NULL : dx + iy * s->width * s->channels + c;
            }
            for (int64_t ox = 0; ox < s->out_width; ox++) {
                const element *at = g + (oy * s->out_width + ox) * s->channels * m + c * m;
                if (ox >= from && ox < to) scatter(rows, w + c, s, ox * s->stride - s->padding, K, m, 1, at);
                else scatter(rows, w + c, s, ox * s->stride - s->padding, K, m, 0, at);
            }
        }
}

/* sums[tap, j] of 16 channels += one picture's products of input and gradient; one row of taps at a time for 5x5 kernels,
   whose sums would not fit into the registers together. */
INLINE void kernel_picture(const element *x, const shape *s, int64_t c, const int K, const int m, const int first, const int count,
                           const element *zeros, const element *g, vec *sums) {
    int64_t from, to;
    vec own[MOST * MOST * 2];
    const element *rows[MOST];
    interior(s, &from, &to);
    for (int i = 0; i < count * K * m; i++) own[i] = (vec){0};
    for (int64_t oy = 0; oy < s->out_height; oy++) {
        rows_of(x, s, oy, zeros, rows);
        for (int64_t ox = 0; ox < s->out_width; ox++) {
            const element *at = g + (oy * s->out_width + ox) * s->channels * m + c * m;
            const int64_t ix = ox * s->stride - s->padding;
            vec slope[2] = {{0}, {0}};
            if (m == 1) slope[0] = load_map(at);
            else load_pair(at, slope, slope + 1);
            const int inside = ox >= from && ox < to;
            for (int kx = 0; kx < K; kx++) {
                const int64_t column = ix + kx * s->dilation;
                if (!inside && (column < 0 || column >= s->width)) continue;
                for (int ky = 0; ky < count; ky++) {
                    const vec v = load_map(rows[first + ky] + column * s->channels + c);
                    for (int j = 0; j < m; j++) own[(ky * K + kx) * m + j] += v * slope[j];
                }
            }
        }
    }
    for (int i = 0; i < count * K * m; i++) sums[first * K * m + i] = own[i];
}

/* The choices that the inner loops depend on, given to them as constants. */
#define CHOOSE(s, CALL)                                                    \
    if ((s)->kernel == 3 && (s)->multiplier == 1) { enum { K = 3, m = 1 }; CALL; }      \
    else if ((s)->kernel == 3) { enum { K = 3, m = 2 }; CALL; }            \
    else if ((s)->multiplier == 1) { enum { K = 5, m = 1 }; CALL; }        \
    else { enum { K = 5, m = 2 }; CALL; }

/* A row of zeros, the thread's own. */
static const element *zero_row(const shape *s) {
    element *zeros = (element *)space(s->width * s->channels);
    if (zeros) memset(zeros, 0, s->width * s->channels * sizeof(element));
    return zeros;
}

int FOR(depthwise_forward)(const element *x, const float *w, const shape *s, element *y) {
    const int pieces = omp_get_max_threads();
    const int64_t in = s->height * s->width * s->channels, out = s->out_height * s->out_width * s->channels * s->multiplier;
    int failed = 0;
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        const element *zeros = zero_row(s);
        failed |= !zeros;
        if (zeros)
            for (int64_t n = piece(s->pictures, pieces, k); n < piece(s->pictures, pieces, k + 1); n++)
                CHOOSE(s, forward_picture(x + n * in, w, s, zeros, K, m, y + n * out))
    }
    return failed;
}

int FOR(depthwise_input_gradient)(const element *g, const float *w, const shape *s, element *dx) {
    const int pieces = omp_get_max_threads();
    const int64_t in = s->height * s->width * s->channels, out = s->out_height * s->out_width * s->channels * s->multiplier;
    int failed = 0;
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        float *sums = space(in);   /* in float until a picture is done: every pixel is added to up to K * K times */
        if (!sums) { failed = 1; continue; }
        for (int64_t n = piece(s->pictures, pieces, k); n < piece(s->pictures, pieces, k + 1); n++) {
            CHOOSE(s, input_picture(sums, w, s, K, m, g + n * out))
            for (int64_t i = 0; i < in; i += LANES) store_map(dx + n * in + i, load(sums + i));
        }
    }
    return failed;
}

static void add_kernel(const element *x, const element *g, const shape *s, const element *zeros, double *total) {
    const int64_t taps = s->kernel * s->kernel * s->multiplier;
    vec sums[MOST * MOST * 2];
    float parts[LANES];
    for (int64_t c = 0; c < s->channels; c += LANES) {
        CHOOSE(s, if (K * K * m <= 18) kernel_picture(x, s, c, K, m, 0, K, zeros, g, sums);
                  else for (int ky = 0; ky < K; ky++) kernel_picture(x, s, c, K, m, ky, 1, zeros, g, sums))
        for (int64_t i = 0; i < taps; i++) {
            memcpy(parts, sums + i, sizeof parts);
            for (int lane = 0; lane < LANES; lane++) total[i * s->channels + c + lane] += parts[lane];
        }
    }
}

int FOR(depthwise_kernel_gradient)(const element *x, const element *g, const shape *s, float *dw) {
    const int pieces = omp_get_max_threads();
    const int64_t size = s->kernel * s->kernel * s->multiplier * s->channels;
    const int64_t in = s->height * s->width * s->channels, out = s->out_height * s->out_width * s->channels * s->multiplier;
    double *totals = calloc(size * pieces, sizeof(double));
    int failed = !totals;
    if (failed) return 1;
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        const element *zeros = zero_row(s);
        failed |= !zeros;
        if (zeros)
            for (int64_t n = piece(s->pictures, pieces, k); n < piece(s->pictures, pieces, k + 1); n++)
                add_kernel(x + n * in, g + n * out, s, zeros, totals + k * size);
    }
    for (int64_t i = 0; i < size; i++) {
        double sum = 0;
        for (int k = 0; k < pieces; k++) sum += totals[k * size + i];
        dw[i] = sum;
    }
    free(totals);
    return failed;
}
