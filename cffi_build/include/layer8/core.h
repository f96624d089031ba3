/* core.h - the C interface for C code: what Python sees (core.cdef.h), and the layout behind it. */
#ifndef LAYER8_CORE_H
#define LAYER8_CORE_H

#include <stdint.h>

#include "layer8/layout.h" /* before the declarations, which repeat some of its numbers as macros */

#include "../../core.cdef.h"

#endif
