/* A team of threads for one call: calls that use threads take milliseconds, and starting a thread takes 20 us. Threads sleep while they
 * wait, and none is left between calls, so that the process may fork. */

#include <pthread.h>
#include <stdlib.h>

#include "threads.h"

struct barrier {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int32_t members, waiting;
    uint32_t round;
};

enum gate { CLOSED, OPEN, CANCELLED };

struct team {
    struct barrier barrier;
    enum gate gate; /* protected by the barrier's mutex */
    void (*job)(void *context, int32_t member, struct barrier *barrier);
    void *context;
};

struct member {
    struct team *team;
    int32_t number;
    pthread_t thread;
};

void barrier_wait(struct barrier *b) {
    if (b == NULL) return;
    pthread_mutex_lock(&b->mutex);
    uint32_t round = b->round;
    if (++b->waiting == b->members) {
        b->waiting = 0;
        b->round++;
        pthread_cond_broadcast(&b->changed);
    }
    while (b->round == round) pthread_cond_wait(&b->changed, &b->mutex);
    pthread_mutex_unlock(&b->mutex);
}

static void *member_main(void *argument) {
    struct member *member = argument;
    struct team *team = member->team;
    pthread_mutex_lock(&team->barrier.mutex);
    while (team->gate == CLOSED) pthread_cond_wait(&team->barrier.changed, &team->barrier.mutex);
    bool go = team->gate == OPEN;
    pthread_mutex_unlock(&team->barrier.mutex);
    if (go) team->job(team->context, member->number, &team->barrier);
    return NULL;
}

bool run_team(int32_t n, void (*job)(void *context, int32_t member, struct barrier *barrier), void *context) {
    struct member *members = calloc((size_t)n, sizeof *members);
    if (members == NULL) return false;
    struct team team = {.barrier = {.members = n}, .gate = CLOSED, .job = job, .context = context};
    pthread_mutex_init(&team.barrier.mutex, NULL);
    pthread_cond_init(&team.barrier.changed, NULL);

    int32_t started = 1;
    for (; started < n; started++) {
        members[started] = (struct member){.team = &team, .number = started};
        if (pthread_create(&members[started].thread, NULL, member_main, &members[started])) break;
    }
    bool complete = started == n;
    pthread_mutex_lock(&team.barrier.mutex);
    team.gate = complete ? OPEN : CANCELLED;
    pthread_cond_broadcast(&team.barrier.changed);
    pthread_mutex_unlock(&team.barrier.mutex);
    if (complete) job(context, 0, &team.barrier);

    for (int32_t i = 1; i < started; i++) pthread_join(members[i].thread, NULL);
    pthread_cond_destroy(&team.barrier.changed);
    pthread_mutex_destroy(&team.barrier.mutex);
    free(members);
    return complete;
}
