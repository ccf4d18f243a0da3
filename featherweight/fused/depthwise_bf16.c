#define BF16 /* depthwise.c once more, for maps of bf16 */
#include "depthwise.c"
