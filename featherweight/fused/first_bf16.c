#define BF16 /* first.c once more, for maps of bf16 */
#include "first.c"
