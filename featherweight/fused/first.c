/* A 3x3 convolution of pictures (3 channels, stride 1, padding 1) with bias and ReLU, whose parameters no longer change: one
   pass that reads the pictures and writes the map. x is [N, H, W, 3], y [N, H, W, C], C a multiple of 16, one vector;
   the kernel is [27, C]: row, column, picture's channel, map's channel.

   A picture is copied into a frame of zeros, so that the three taps of a kernel's row are nine floats side by side. The
   work is cut into one piece a thread, by pictures. */
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

#define INPUTS 3
#define RUN (3 * INPUTS)   /* taps side by side */
#define PIXELS 8           /* worked on at a time: with two vectors of channels their sums stay in registers */

typedef struct {
    int64_t pictures, height, width, channels;
    int64_t step;   /* INPUTS, which the compiler is not to know: it would keep what neighbours share in registers, one by
                       one, and the port that spreads them over vectors is one of the two that multiply */
} shape;

INLINE vec relu(vec v) { return (vec)((mask)v & ~(mask)(v < 0)); }   /* not-a-number stays, so that it is noticed */

/* A row of the map, n vectors of channels from c on; `lines` are the frame's three rows, `line` floats each. */
INLINE void row_block(const float *lines, int64_t line, const float *w, const float *bias, const shape *s, int64_t c,
                      const int n, element *y) {
    const int64_t C = s->channels;
    for (int64_t x = 0; x < s->width; x += PIXELS) {
        vec sum[PIXELS][2];
        for (int i = 0; i < PIXELS; i++)
            for (int j = 0; j < n; j++) sum[i][j] = load(bias + c + j * LANES);
        for (int ky = 0; ky < 3; ky++)
            for (int t = 0; t < RUN; t++)
                for (int j = 0; j < n; j++) {
                    const vec tap = load(w + (ky * RUN + t) * C + c + j * LANES);
                    for (int i = 0; i < PIXELS; i++) sum[i][j] += lines[ky * line + (x + i) * s->step + t] * tap;
                }
        for (int i = 0; i < PIXELS && x + i < s->width; i++)
            for (int j = 0; j < n; j++) store_map(y + (x + i) * C + c + j * LANES, relu(sum[i][j]));
    }
}

int FOR(first_forward)(const float *x, const float *w, const float *bias, const shape *s, element *y) {
    const int64_t C = s->channels, row = s->width * INPUTS, size = s->height * s->width;
    const int64_t line = ((s->width + PIXELS - 1) / PIXELS * PIXELS + 2) * INPUTS;
    const int pieces = omp_get_max_threads();
    int failed = 0;
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        float *frame = space((s->height + 2) * line);
        if (!frame) { failed = 1; continue; }
        memset(frame, 0, (s->height + 2) * line * sizeof(float));
        for (int64_t i = piece(s->pictures, pieces, k); i < piece(s->pictures, pieces, k + 1); i++) {
            for (int64_t r = 0; r < s->height; r++)
                memcpy(frame + (r + 1) * line + INPUTS, x + i * size * INPUTS + r * row, row * sizeof(float));
            for (int64_t r = 0; r < s->height; r++) {
                element *to = y + (i * size + r * s->width) * C;
                int64_t c = 0;
                for (; c + 2 * LANES <= C; c += 2 * LANES) row_block(frame + r * line, line, w, bias, s, c, 2, to);
                if (c < C) row_block(frame + r * line, line, w, bias, s, c, 1, to);
            }
        }
    }
    return failed;
}
