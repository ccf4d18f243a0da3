#define BF16 /* norm.c once more, for maps of bf16 */
#include "norm.c"
