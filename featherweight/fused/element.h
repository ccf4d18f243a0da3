/* The numbers that maps are made of: float, or, where BF16 is defined, the upper half of one. All arithmetic is in float, 16
   neighbours at a time; what is not a number stays so. A file that includes this is compiled once for each kind. */
#ifndef ELEMENT_H
#define ELEMENT_H
#include <stdint.h>
#if defined(BF16) && defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(64)));
typedef uint32_t bits __attribute__((vector_size(64)));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE int64_t piece(int64_t all, int pieces, int k) { return all * k / pieces; }

#ifdef BF16
typedef uint16_t element;
typedef uint16_t halves __attribute__((vector_size(32), aligned(2), may_alias));
#define FOR(name) name##_bf16
INLINE vec load_map(const element *p) { return (vec)(__builtin_convertvector(*(const halves *)p, bits) << 16); }
#ifdef __AVX512BF16__
INLINE void store_map(element *p, vec v) { *(halves *)p = (halves)_mm512_cvtneps_pbh((__m512)v); }
#else
INLINE void store_map(element *p, vec v) {   /* rounded to nearest, ties to even, as that instruction does */
    const bits b = (bits)v;
    const bits rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    const bits nan = (bits)(v != v);
    *(halves *)p = __builtin_convertvector((rounded & ~nan) | (((b >> 16) | 0x40) & nan), halves);
}
#endif
#else
typedef float element;
#define FOR(name) name
INLINE vec load_map(const element *p) { return load(p); }
INLINE void store_map(element *p, vec v) { store(p, v); }
#endif
#endif
