/* Convolutions of bf16 maps by a processor's matrix tiles (Intel AMX): products of 16 x 32 by 32 x 16 numbers, summed in
   float. Maps are [N, H, W, C], C a multiple of 16.

   A picture is laid into a frame of zeros, where the pixel that a tap reads lies at a fixed distance from the one that is
   written, over the ends of rows as well: 16 neighbours in the frame are a tile's rows, whatever the width, and those of
   them that are no pixel of the map written are left out at the end. For stride 2 the frame is in four planes, by even and
   odd rows and columns, in each of which neighbours are neighbours again.

   What is multiplied with what is not decided here: `offsets` says for each chunk of 32 numbers how far from the pixel's
   own it begins, and the kernel comes cut into tiles by the same chunks. So the forward pass and both strides' gradients
   to the input are one function (tiles.py makes their plans).

   A last chunk may reach into the next pixel, whose numbers then meet zeros: what is not a number spreads to a neighbour that
   should not see it, in pictures that are lost to the next norm anyway.

   The work is cut into one piece a thread, by pictures; the kernel's gradient is summed in float, pieces in order, and so are
   the sums for the norm behind in double: the same number of threads gives the same bits. Source of the instructions: Intel's Architecture Instruction Set Extensions
   Programming Reference, chapter on AMX. */
#include "tiles.h"

#ifdef TILES
#include <sys/syscall.h>
#include <unistd.h>

/* Asks the system for leave to use tiles; whether this process has it. */
int tiles_available(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* Into how many pieces the work is cut. */
int tiles_pieces(void) { return omp_get_max_threads(); }

/* A kernel's numbers cut into tiles: tiles[i] = w[places[i]], or 0 where that is negative; a multiple of 32 of them. */
void tiles_cut(const float *w, const int32_t *places, int64_t count, bf16 *tiles) {
    for (int64_t i = 0; i < count; i += SIDE) {
        const __m512i at = _mm512_loadu_si512(places + i);
        const __mmask16 there = _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512());
        const __m512 found = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, at, w, sizeof(float));
        _mm256_storeu_si256((__m256i *)(tiles + i), (__m256i)_mm512_cvtneps_pbh(found));
    }
}

/* y [N, H', W', O] from x [N, H, W, C]; bias [O] or NULL. sums, [threads, 2, O] of zeros or NULL: of y and of its squares, of
   what ReLU lets through where `relu`; each thread's own. */
int tiles_convolve(const bf16 *x, const plan *way, const float *bias, int relu, double *sums, bf16 *y) {
    const int pieces = omp_get_max_threads();
    const shape *s = &way->map;
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
        const counted own = {sums ? sums + 2 * s->out_channels * k : NULL, relu};
        for (int64_t i = begin; i < end; i++) convolve(x + i * in, way, bias, frame, &tried, &own, y + i * all);
        _tile_release();
    }
    return failed;
}

typedef struct {   /* the norm behind a convolution, as norm.c has it, of the map y that the convolution wrote */
    const bf16 *y;
    const float *line, *slopes;
    const void *layer;
} norm_behind;
void norm_backward_piece_bf16(const bf16 *y, const bf16 *g, const float *line, const float *slopes, const void *layer,
                              int64_t from, int64_t to, bf16 *dy);

/* dw [O, taps, C] by one plan and dx [N, H, W, C] by another, which takes the gradient for its map; either plan NULL: not wanted.
   From x and g [N, H', W', O], the gradient of what the convolution wrote or, with a norm behind it, of what that wrote:
   then a few pictures' gradients at a time pass the norm, are used for both, and never reach memory. */
int tiles_backward(const bf16 *x, const bf16 *g, const norm_behind *norm, const plan *to_kernel, const plan *to_input,
                   float *dw, bf16 *dx) {
    const int pieces = omp_get_max_threads();
    const shape *s = to_kernel ? &to_kernel->map : NULL, *t = to_input ? &to_input->map : NULL;
    const int64_t pictures = s ? s->pictures : t->pictures, group = s ? s->group : 1;
    const int64_t pixels = s ? s->out_height * s->out_width : t->height * t->width, O = s ? s->out_channels : t->channels;
    const int64_t in = s ? s->height * s->width * s->channels : t->out_height * t->out_width * t->out_channels;
    const int64_t size = s ? to_kernel->count * s->channels * O : 0;
    const int64_t frame_size = t ? whole_lines(frame_pixels(t) * O) : 0, behind_size = norm ? whole_lines(group * pixels * O) : 0;
    float *sums = s ? aligned_alloc(64, size * pieces * sizeof(float)) : NULL;   /* a multiple of 1024 bytes */
    int failed = s && !sums;
    if (failed) return 1;
    if (s) memset(sums, 0, size * pieces * sizeof(float));
#pragma omp parallel for schedule(static, 1) reduction(| : failed)
    for (int k = 0; k < pieces; k++) {
        const int64_t begin = piece(pictures, pieces, k), end = piece(pictures, pieces, k + 1);
        if (begin == end) continue;
        desk own = {0};
        const int64_t needed = s ? measure(to_kernel, &own) : 0;
        bf16 *frame = (bf16 *)space((frame_size + behind_size + needed + 1) / 2), *behind = frame + frame_size;
        if (!frame) { failed = 1; continue; }
        memset(frame, 0, frame_size * sizeof(bf16));
        if (s) set_out(behind + behind_size, to_kernel, &own);
        trial tried = {0};
        const counted not = {NULL, 0};
        for (int64_t i = begin; i < end; i += group) {
            const int64_t held = least(group, end - i);
            const bf16 *slope = g + i * pixels * O;
            if (norm) {
                norm_backward_piece_bf16(norm->y, g, norm->line, norm->slopes, norm->layer, i * pixels, (i + held) * pixels,
                                         behind);
                slope = behind;
            }
            if (s) gradient_of_group(x + i * in, slope, held, to_kernel, &own, sums + k * size);
            for (int64_t n = 0; t && n < held; n++)
                convolve(slope + n * pixels * O, to_input, NULL, frame, &tried, &not, dx + (i + n) * in);
        }
        _tile_release();
    }
    if (s) gather(sums, pieces, to_kernel->count, s, dw);
    free(sums);
    return failed;
}
#else
int tiles_available(void) { return 0; }
#endif
