/* Batch norm with what stands around it, in as few passes over memory as there can be.

   A map is [M, C] numbers (element.h): M pixels of all pictures, C channels side by side (channels-last memory). C is a multiple of
   16, one vector. Forward: one pass for the statistics (unless who wrote the map has summed them already), one for

       y = keep(relu_after(scale * relu_first(x) + shift)) + residual

   each part as asked. Backward: one pass for the two sums that the gradient needs, one for the gradient. Nothing but x
   is kept in between: what ReLU and dropout let through is worked out again from x and from the dropout's key.

   Statistics (Ioffe & Szegedy 2015, arXiv:1502.03167) are summed in float over short runs of pixels, relative to the first
   pixel, and then in double. The work is cut into one piece a thread, and pieces are added in order: the same number of
   threads gives the same bits. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
#endif

#include "element.h"

#define RUN 64      /* pixels summed in float before they go into the double sum */
#define MOST 4      /* vectors of channels worked on at a time: their sums stay in registers */

typedef struct {
    int64_t pixels, channels;
    int32_t relu_first, relu_after;
    uint32_t drop_below;   /* an element is dropped when its 32 random bits are below this; 0: no dropout */
    uint32_t key[2];       /* of the dropout's random bits */
    float keep_scale;      /* 1 / (1 - p) */
} layer;

INLINE vec where(mask m, vec v) { return (vec)((mask)v & m); }
INLINE vec relu(vec v) { return where(~(mask)(v < 0), v); }   /* not-a-number stays, so that it is noticed */

/* 32 random bits for each of 16 neighbours: a hash of the element's number and the key, by the finaliser of
   C. Wellons' search for low bias (lowbias32), the key's second half mixed in between its two multiplications. */
INLINE bits random_bits(uint32_t first, const uint32_t *key) {
    const bits count = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    bits h = count + (first + key[0]);
    h ^= h >> 16;
    h *= 0x7feb352dU;
    h ^= h >> 15;
    h ^= key[1];
    h *= 0x846ca68bU;
    h ^= h >> 16;
    return h;
}

INLINE vec dropped(vec v, const layer *l, int64_t at) {
    if (!l->drop_below) return v;
    return where((mask)(random_bits((uint32_t)at, l->key) >= l->drop_below), v * l->keep_scale);
}

static __attribute__((noinline)) void add(double *sums, vec v) {
    float parts[LANES];
    memcpy(parts, &v, sizeof parts);
    for (int k = 0; k < LANES; k++) sums[k] += parts[k];
}

/* sums[0..C): of (x - x[0]); sums[C..2C): of its square; over the pixels from..to */
INLINE void sum_block(const element *x, const element *pivot, const layer *l, int64_t from, int64_t to, int64_t c, const int n,
                      double *sums) {
    const int64_t C = l->channels;
    vec zero = load_map(pivot + c) * 0, p[MOST];
    for (int j = 0; j < n; j++) p[j] = load_map(pivot + c + j * LANES), p[j] = l->relu_first ? relu(p[j]) : p[j];
    for (int64_t r = from; r < to; r += RUN) {
        vec s[MOST], q[MOST];
        for (int j = 0; j < n; j++) s[j] = q[j] = zero - zero;
        const int64_t end = r + RUN < to ? r + RUN : to;
        for (int64_t i = r; i < end; i++)
            for (int j = 0; j < n; j++) {
                vec v = load_map(x + i * C + c + j * LANES);
                v = (l->relu_first ? relu(v) : v) - p[j];
                s[j] += v;
                q[j] += v * v;
            }
        for (int j = 0; j < n; j++) add(sums + c + j * LANES, s[j]), add(sums + C + c + j * LANES, q[j]);
    }
}

INLINE void forward_block(const element *x, const float *scale, const float *shift, const element *residual, const layer *l,
                          int64_t from, int64_t to, int64_t c, const int n, element *y) {
    const int64_t C = l->channels;
    vec a[MOST], b[MOST];
    for (int j = 0; j < n; j++) a[j] = load(scale + c + j * LANES), b[j] = load(shift + c + j * LANES);
    for (int64_t i = from; i < to; i++)
        for (int j = 0; j < n; j++) {
            const int64_t at = i * C + c + j * LANES;
            vec v = load_map(x + at);
            v = (l->relu_first ? relu(v) : v) * a[j] + b[j];
            v = dropped(l->relu_after ? relu(v) : v, l, at);
            if (residual) v += load_map(residual + at);
            store_map(y + at, v);
        }
}

/* The gradient as it reaches the norm's output, and the norm's input, at one place. */
INLINE vec behind(const element *x, const element *g, vec a, vec b, const layer *l, int64_t at, vec *input) {
    vec v = load_map(x + at), d = dropped(load_map(g + at), l, at);
    *input = l->relu_first ? relu(v) : v;
    return l->relu_after ? where(*input * a + b > 0, d) : d;
}

/* sums[0..C): of the gradient; sums[C..2C): of gradient times (input - mean) */
INLINE void gradient_sums_block(const element *x, const element *g, const float *scale, const float *shift, const float *mean,
                                const layer *l, int64_t from, int64_t to, int64_t c, const int n, double *sums) {
    const int64_t C = l->channels;
    vec a[MOST], b[MOST], m[MOST];
    for (int j = 0; j < n; j++)
        a[j] = load(scale + c + j * LANES), b[j] = load(shift + c + j * LANES), m[j] = load(mean + c + j * LANES);
    for (int64_t r = from; r < to; r += RUN) {
        vec s[MOST], q[MOST];
        for (int j = 0; j < n; j++) s[j] = q[j] = a[j] - a[j];
        const int64_t end = r + RUN < to ? r + RUN : to;
        for (int64_t i = r; i < end; i++)
            for (int j = 0; j < n; j++) {
                vec input, d = behind(x, g, a[j], b[j], l, i * C + c + j * LANES, &input);
                s[j] += d;
                q[j] += d * (input - m[j]);
            }
        for (int j = 0; j < n; j++) add(sums + c + j * LANES, s[j]), add(sums + C + c + j * LANES, q[j]);
    }
}

/* dx = scale * d + slope * input + offset, from the pixel `from` on */
INLINE void backward_block(const element *x, const element *g, const float *scale, const float *shift, const float *slope,
                           const float *offset, const layer *l, int64_t from, int64_t to, int64_t c, const int n, element *dx) {
    const int64_t C = l->channels;
    vec a[MOST], b[MOST], p[MOST], o[MOST];
    for (int j = 0; j < n; j++) {
        a[j] = load(scale + c + j * LANES), b[j] = load(shift + c + j * LANES);
        p[j] = load(slope + c + j * LANES), o[j] = load(offset + c + j * LANES);
    }
    for (int64_t i = from; i < to; i++)
        for (int j = 0; j < n; j++) {
            const int64_t at = i * C + c + j * LANES;
            vec input, d = behind(x, g, a[j], b[j], l, at, &input);
            d = a[j] * d + (p[j] * input + o[j]);
            store_map(dx + at - from * C, l->relu_first ? where(load_map(x + at) > 0, d) : d);
        }
}

/* Every choice that the inner loops depend on is made once, outside them, by giving it to them as a constant. */
#define BLOCKS(l, CALL)                                                        \
    for (int64_t c = 0; c < (l)->channels; c += MOST * LANES) {                \
        const int64_t left = ((l)->channels - c) / LANES;                      \
        if (left >= 4) { const int n = 4; CALL; }                              \
        else if (left == 3) { const int n = 3; CALL; }                         \
        else if (left == 2) { const int n = 2; CALL; }                         \
        else { const int n = 1; CALL; }                                        \
    }
#define WITH(original, CALLS)                                                                                  \
    {                                                                                                          \
        layer l_ = *(original);                                                                                \
        const layer *l = &l_;                                                                                  \
        if (!l_.drop_below && !l_.relu_first && l_.relu_after) { l_.drop_below = 0, l_.relu_first = 0, l_.relu_after = 1; CALLS } \
        else if (!l_.drop_below && !l_.relu_first) { l_.drop_below = 0, l_.relu_first = 0, l_.relu_after = 0; CALLS }   \
        else if (l_.drop_below && l_.relu_first) { l_.relu_first = 1, l_.relu_after = 0; CALLS }               \
        else { CALLS }                                                                                         \
    }

/* Does what follows for the pixels from .. to of each piece k, one a thread. */
#define IN_PIECES(original, ...)                                                                                 \
    _Pragma("omp parallel for schedule(static, 1)")                                                              \
    for (int k = 0; k < pieces; k++) {                                                                           \
        const int64_t from = piece((original)->pixels, pieces, k), to = piece((original)->pixels, pieces, k + 1); \
        __VA_ARGS__                                                                                              \
    }

static void total(double *sums, int pieces, int64_t n) {   /* the pieces' sums, added in order into the first */
    for (int k = 1; k < pieces; k++)
        for (int64_t i = 0; i < n; i++) sums[i] += sums[k * n + i];
}

/* What the norm of every channel comes to, from the pieces' sums of its inputs less a pivot (NULL: 0) and of their squares:
   line[0..C) mean, [C..2C) inverse deviation, [2C..3C) scale and [3C..4C) shift. The running statistics move by `share` towards
   mean and variance (that without bias), where they are kept. */
void FOR(norm_line)(double *sums, int pieces, const element *pivots, const float *weight, const float *bias, double eps,
                    double share, const layer *original, float *running_mean, float *running_var, float *line) {
    const int64_t C = original->channels, M = original->pixels;
    total(sums, pieces, 2 * C);
    for (int64_t c = 0; c < C; c++) {
        const float first = pivots ? load_map(pivots + c / LANES * LANES)[c % LANES] : 0;
        const double pivot = original->relu_first && first < 0 ? 0 : first, beyond = sums[c] / M, mean = pivot + beyond;
        const double found = sums[C + c] / M - beyond * beyond, variance = found < 0 ? 0 : found;
        const double inverse = 1 / sqrt(variance + eps);
        line[c] = mean, line[C + c] = inverse;
        line[2 * C + c] = weight[c] * inverse, line[3 * C + c] = bias[c] - mean * inverse * weight[c];
        if (!running_mean) continue;
        running_mean[c] += share * (mean - running_mean[c]);
        running_var[c] += share * (variance * M / (M > 1 ? M - 1 : 1) - running_var[c]);
    }
}

/* The line of the norm of relu_first(x). */
int FOR(norm_statistics)(const element *x, const float *weight, const float *bias, double eps, double share,
                         const layer *original, float *running_mean, float *running_var, float *line) {
    const int64_t C = original->channels;
    const int pieces = omp_get_max_threads();
    double *sums = calloc(2 * C * pieces, sizeof(double));
    if (!sums) return 1;
    IN_PIECES(original, double *own = sums + 2 * C * k; WITH(original, BLOCKS(l, sum_block(x, x, l, from, to, c, n, own))))
    FOR(norm_line)(sums, pieces, x, weight, bias, eps, share, original, running_mean, running_var, line);
    free(sums);
    return 0;
}

void FOR(norm_forward)(const element *x, const float *line, const element *residual, const layer *original, element *y) {
    const float *scale = line + 2 * original->channels, *shift = line + 3 * original->channels;
    const int pieces = omp_get_max_threads();
    IN_PIECES(original,
              if (residual) WITH(original, BLOCKS(l, forward_block(x, scale, shift, residual, l, from, to, c, n, y)))
              else WITH(original, BLOCKS(l, forward_block(x, scale, shift, NULL, l, from, to, c, n, y))))
}

/* The gradients of the norm's weight and bias, and what that of its input takes: slopes[0..C) slope, [C..2C) offset. line: as
   the forward pass left it. */
int FOR(norm_slopes)(const element *x, const element *g, const float *line, const layer *original, float *slopes, float *dweight,
                     float *dbias) {
    const int64_t C = original->channels, M = original->pixels;
    const float *mean = line, *inverse = line + C, *scale = line + 2 * C, *shift = line + 3 * C;
    const int pieces = omp_get_max_threads();
    double *sums = calloc(2 * C * pieces, sizeof(double));
    if (!sums) return 1;
    IN_PIECES(original, double *own = sums + 2 * C * k;
              WITH(original, BLOCKS(l, gradient_sums_block(x, g, scale, shift, mean, l, from, to, c, n, own))))
    total(sums, pieces, 2 * C);
    for (int64_t c = 0; c < C; c++) {
        const double squared = (double)inverse[c] * inverse[c];
        const double slope = -scale[c] * squared * sums[C + c] / M;
        dbias[c] = sums[c];
        dweight[c] = sums[C + c] * inverse[c];
        slopes[c] = slope;
        slopes[C + c] = -scale[c] * sums[c] / M - slope * mean[c];
    }
    free(sums);
    return 0;
}

/* The gradient of the norm's input at the pixels from .. to, the first at dx; x and g from the map's first pixel on. */
void FOR(norm_backward_piece)(const element *x, const element *g, const float *line, const float *slopes, const layer *original,
                              int64_t from, int64_t to, element *dx) {
    const int64_t C = original->channels;
    const float *scale = line + 2 * C, *shift = line + 3 * C;
    WITH(original, BLOCKS(l, backward_block(x, g, scale, shift, slopes, slopes + C, l, from, to, c, n, dx)))
}

void FOR(norm_backward)(const element *x, const element *g, const float *line, const float *slopes, const layer *original,
                        element *dx) {
    const int pieces = omp_get_max_threads();
    IN_PIECES(original, FOR(norm_backward_piece)(x, g, line, slopes, original, from, to, dx + from * original->channels);)
}
