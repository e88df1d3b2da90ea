/* A team of threads: they sleep between passes, and wait for each other by looking within one. */
#pragma once
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#include "vectors.h"

#define MOST_THREADS 256
#define JOBS 512
#define LOOKS 4000

typedef struct {
    _Alignas(64) atomic_uint next; /* the first piece of this phase that nobody has taken */
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint phase;
    _Alignas(64) atomic_uint job; /* its number times `JOBS`, and how many threads it is for */
    atomic_uint busy;
    unsigned threads, made, sleeping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    void (*work)(void *, unsigned);
    void *argument;
} team;

static team here = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

INLINE void look_again(unsigned *looks) {
    if (++*looks > LOOKS) sched_yield(); /* the one that is waited for may need this core */
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
}

static void meet(void) {
    const unsigned phase = atomic_load(&here.phase);
    if (atomic_fetch_add(&here.arrived, 1) + 1 == here.threads) {
        atomic_store(&here.arrived, 0);
        atomic_store(&here.next, 0);
        atomic_store(&here.phase, phase + 1);
        return;
    }
    unsigned looks = 0;
    while (atomic_load_explicit(&here.phase, memory_order_acquire) == phase) look_again(&looks);
}

INLINE int64_t piece(void) { return atomic_fetch_add_explicit(&here.next, 1, memory_order_relaxed); }

static void *member(void *place) {
    const unsigned self = (unsigned)(uintptr_t)place;
    unsigned seen = 0;
    for (;;) {
        unsigned looks = 0, job;
        while ((job = atomic_load(&here.job)) == seen && looks < LOOKS) {
            looks++;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        if (job == seen) {
            pthread_mutex_lock(&here.lock);
            here.sleeping++;
            while ((job = atomic_load(&here.job)) == seen) pthread_cond_wait(&here.wake, &here.lock);
            here.sleeping--;
            pthread_mutex_unlock(&here.lock);
        }
        seen = job;
        if (self >= job % JOBS) continue;
        here.work(here.argument, self);
        atomic_fetch_sub(&here.busy, 1);
    }
    return NULL;
}

static void together(unsigned threads, void (*work)(void *, unsigned), void *argument) {
    while (here.made + 1 < threads) {
        pthread_t made;
        if (pthread_create(&made, NULL, member, (void *)(uintptr_t)(here.made + 1))) break;
        pthread_detach(made);
        here.made++;
    }
    here.threads = threads <= here.made + 1 ? threads : here.made + 1;
    here.work = work;
    here.argument = argument;
    atomic_store(&here.next, 0);
    atomic_store(&here.arrived, 0);
    atomic_store(&here.busy, here.threads - 1);
    if (here.threads > 1) {
        pthread_mutex_lock(&here.lock);
        atomic_store(&here.job, (atomic_load(&here.job) / JOBS + 1) * JOBS + here.threads);
        if (here.sleeping) pthread_cond_broadcast(&here.wake);
        pthread_mutex_unlock(&here.lock);
    }
    work(argument, 0);
    unsigned looks = 0;
    while (atomic_load(&here.busy)) look_again(&looks);
}
