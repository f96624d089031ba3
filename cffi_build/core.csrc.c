/* core.csrc.c - what cffi's generated module includes; the implementation is in src/. */
#include "layer8/core.h"
