/* Working space that is kept from call to call: fresh memory costs a page fault every 4 KiB. Pages of 2 MiB where the
   system gives them, since a tile's 36 places lie on as many small pages, more than the processor remembers at a time. */
#ifndef SPACE_H
#define SPACE_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define HUGE ((size_t)2 << 20)

/* `floats` floats, not cleared, the calling thread's own until its next call of this; NULL when there is no memory. */
static float *space(size_t floats) {
    static _Thread_local float *kept;
    static _Thread_local size_t size;
    const size_t bytes = (floats * sizeof(float) + HUGE - 1) / HUGE * HUGE;
    if (bytes > size) {
        free(kept);
        kept = aligned_alloc(HUGE, bytes);
        size = kept ? bytes : 0;
#ifdef MADV_HUGEPAGE
        if (kept) madvise(kept, bytes, MADV_HUGEPAGE);
#endif
    }
    return kept;
}
#endif
