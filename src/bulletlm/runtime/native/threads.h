/* A team of threads that lives for one call (threads.c). */
#ifndef THREADS_H
#define THREADS_H

#include <stdbool.h>
#include <stdint.h>

struct barrier;

/* Run job(context, member, barrier) for member = 0 ... n - 1 at the same time, member 0 on the calling thread. The job may wait at the
 * barrier, so either all members run or none: false means that memory or a thread was missing and nothing was run. */
bool run_team(int32_t n, void (*job)(void *context, int32_t member, struct barrier *barrier), void *context);

/* Wait until all members of the team are here. Does nothing if `barrier` is NULL (a single thread). */
void barrier_wait(struct barrier *barrier);

#endif
