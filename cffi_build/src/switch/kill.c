/* kill.c - numbered points at which a test lets the Vnet die. Not in an ordinary build. */
#include "internal.h"

#ifdef LAYER8_KILL_POINTS

#include <signal.h>
#include <stdio.h>

/* LAYER8_KILL_AT=POINT:COUNT: SIGKILL when the point is reached for the COUNT-th time. */
void layer8_kill_point(int point) {
    static int wanted = -1;
    static long count;
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
