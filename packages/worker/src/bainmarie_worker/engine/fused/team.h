/* A team of threads: they sleep between passes, and wait for each other by looking within one. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "vectors.h"

#define MOST_THREADS 256
#define JOBS 512
#define LOOKS 1000 /* some tens of microseconds */

typedef struct {
    _Alignas(64) atomic_uint next; /* the first piece of this phase that nobody has taken */
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint phase;
    _Alignas(64) atomic_uint job; /* its number times `JOBS`, and how many threads it is for */
    _Alignas(64) atomic_uint busy;
    atomic_uint sleeping;
    unsigned threads, made;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    void (*work)(void *, unsigned);
    void *argument;
} team;

static team here = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

/* What a thread may ask memory for while it waits for the others. */
typedef struct {
    const char *at, *end;
} soon;

#define LINES 8 /* of a cache, between two looks */

/* Returns when `word` is no longer `value`: first by looking, then asleep, for the one that is waited for may need this
 * core. */
static void wait_for_change(atomic_uint *word, unsigned value, soon wanted) {
    for (unsigned looks = 0; looks < LOOKS; looks++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        if (wanted.at < wanted.end)
            for (int i = 0; i < LINES; i++, wanted.at += 64) __builtin_prefetch(wanted.at, 0, 2);
#if defined(__x86_64__)
        else __builtin_ia32_pause();
#endif
    }
    pthread_mutex_lock(&here.lock);
    atomic_fetch_add(&here.sleeping, 1);
    while (atomic_load(word) == value) pthread_cond_wait(&here.wake, &here.lock);
    atomic_fetch_sub(&here.sleeping, 1);
    pthread_mutex_unlock(&here.lock);
}

/* After a change that somebody may wait for. */
static void tell(void) {
    if (!atomic_load(&here.sleeping)) return;
    pthread_mutex_lock(&here.lock);
    pthread_cond_broadcast(&here.wake);
    pthread_mutex_unlock(&here.lock);
}

/* The end of a phase: returns when all threads have come. */
static void meet(soon wanted) {
    const unsigned phase = atomic_load(&here.phase);
    if (atomic_fetch_add(&here.arrived, 1) + 1 == here.threads) {
        atomic_store(&here.arrived, 0);
        atomic_store(&here.next, 0);
        atomic_store(&here.phase, phase + 1);
        tell();
        return;
    }
    wait_for_change(&here.phase, phase, wanted);
}

/* How many of `count` places this thread takes, from `*first` on; 0 when none is left. Shares become smaller to the end,
 * so that nobody waits long for the last one. */
INLINE int64_t take(int64_t count, int64_t most, int64_t *first) {
    unsigned at = atomic_load_explicit(&here.next, memory_order_relaxed);
    int64_t some;
    do {
        if (at >= count) return 0;
        some = (count - at) / (2 * here.threads);
        some = some < 1 ? 1 : some > most ? most : some;
    } while (!atomic_compare_exchange_weak(&here.next, &at, at + (unsigned)some));
    *first = at;
    return some;
}

INLINE int64_t piece(void) { return atomic_fetch_add_explicit(&here.next, 1, memory_order_relaxed); }

static void *member(void *place) {
    const unsigned self = (unsigned)(uintptr_t)place;
    for (unsigned job = 0;;) {
        wait_for_change(&here.job, job, (soon){0});
        job = atomic_load(&here.job);
        if (self >= job % JOBS) continue;
        here.work(here.argument, self);
        if (atomic_fetch_sub(&here.busy, 1) == 1) tell();
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
        atomic_store(&here.job, (atomic_load(&here.job) / JOBS + 1) * JOBS + here.threads);
        tell();
    }
    work(argument, 0);
    for (unsigned busy; (busy = atomic_load(&here.busy));) wait_for_change(&here.busy, busy, (soon){0});
}
