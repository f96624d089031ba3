/* check.h - a test program is a list of functions; the first check that fails ends it, a watchdog ends what hangs. */
#ifndef LAYER8_TESTS_CHECK_H
#define LAYER8_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef CHECK
#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            (void)fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, __func__, #condition);   \
            abort();                                                                              \
        }                                                                                         \
    } while (0)
#endif

#define WATCHDOG_SECONDS 100

#define RUN(test)                                     \
    do {                                              \
        (void)fprintf(stderr, "  %s\n", #test);       \
        (void)alarm(WATCHDOG_SECONDS);                \
        test();                                       \
    } while (0)

#endif
