/* switch.h - the Vnet's side of the C interface; the half of core.cdef.h that the switch implements. */
#ifndef LAYER8_SWITCH_H
#define LAYER8_SWITCH_H

#include "layer8/core.h"

#endif
