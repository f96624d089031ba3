/* kill.c - see layer8/kill.h. */
#include "layer8/kill.h"

#ifdef LAYER8_KILL_POINTS

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

void layer8_kill_point(int point) {
    static _Thread_local int wanted = -1; /* several switches may run in one process */
    static _Thread_local long count;
    if (wanted < 0) {
        const char *setting = getenv("LAYER8_KILL_AT");
        wanted = 0;
        if (setting != NULL && sscanf(setting, "%d:%ld", &wanted, &count) != 2) {
            wanted = 0;
        }
    }
    if (point == wanted && --count <= 0) {
        (void)raise(SIGKILL);
    }
}

#endif
