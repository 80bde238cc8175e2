/* A team of threads for one call (threads.c). */
#ifndef THREADS_H
#define THREADS_H

#include <stdbool.h>
#include <stdint.h>

struct barrier;

bool run_team(int32_t n, void (*job)(void *context, int32_t member, struct barrier *barrier), void *context);
void barrier_wait(struct barrier *barrier);

#endif
