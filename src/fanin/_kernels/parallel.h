/* The one thread pool of the process (parallel.c), without Python in sight. */
#ifndef FANIN_PARALLEL_H
#define FANIN_PARALLEL_H

#include <stddef.h>

/* One task of a job. `worker` is 0 for the calling thread and below the
 * job's thread count for helpers: an index for per-thread scratch memory. */
typedef void (*fanin_task)(void *context, ptrdiff_t index, int worker);

/* Asked now and then, on the calling thread only, whether to stop early;
 * non-zero stops. */
typedef int (*fanin_poll)(void);

/* One call of the library: what its jobs share. */
typedef struct {
    int n_threads;      /* calling thread included */
    int stopped;        /* set once `poll` has said stop */
    double last_poll;   /* seconds on the coarse monotonic clock */
    fanin_poll poll;    /* may be NULL */
    void *error;        /* what a task that failed left for the caller; see _parallel.pyx */
} fanin_call;

void fanin_call_begin(fanin_call *call, int n_threads, fanin_poll poll);

/* Run task(context, i, worker) for every i in [0, n_tasks), on at most
 * call->n_threads threads, the calling one among them, and return when all are
 * done: 0, or -1 if poll or a task stopped the call (those left are then not run).
 * A call belongs to one thread: a task that itself runs tasks begins a call of
 * its own, without a poll. */
int fanin_parallel_for(fanin_call *call, fanin_task task, void *context,
                       ptrdiff_t n_tasks);

/* Whether the call has to stop, asking poll if it is time: for a task that takes
 * long. On the calling thread only. */
int fanin_should_stop(fanin_call *call);

/* The number of worker threads started so far. */
int fanin_pool_size(void);

#endif
