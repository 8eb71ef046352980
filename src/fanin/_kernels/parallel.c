/* Design: the thread pool
 *
 * a) One pool per process, shared by every kernel and every calling thread.
 *    A call publishes a *job* (a task function and a number of tasks), works on
 *    it itself, and idle workers join in. A call therefore never waits for a
 *    worker to start: with the pool busy or gone it does all the work alone.
 *    That also makes two concurrent calls safe, and nested calls harmless.
 * b) Tasks are handed out by an atomic counter. Which thread runs a task is
 *    arbitrary; what a task computes depends on its index only. Results that
 *    must not depend on the number of threads follow from that.
 * c) The operations of a network's pass follow one another within microseconds,
 *    and waking a thread costs a hundred. So a worker that runs out of work spins
 *    for a while before it sleeps, and a caller whose helper is late spins longer:
 *    it is about to publish the next job. Past the first 50 us they yield between
 *    two looks. Spins are measured by the clock: one pause instruction takes from 10
 *    to 140 cycles, depending on the CPU.
 *    A worker that was woken on its caller's CPU moves to another one. In a virtual
 *    machine Linux takes a halted CPU for one that the host has preempted, and would
 *    rather queue the worker behind its caller for milliseconds. For the same
 *    reason a caller that has woken a worker yields once.
 * d) fork: the child has no workers and must not touch the parent's locks.
 *    An atfork handler gives it a fresh pool, which grows again on demand. A
 *    signal handler that runs inside poll may fork in the middle of a job; in
 *    the child that job has lost its helpers, and stops.
 * e) Workers block signals, so that Ctrl-C reaches the interpreter's main
 *    thread; that thread polls between its tasks, every 50 ms, and stops the
 *    job. Tasks are meant to last well under 100 ms.
 * f) What a task wrote is visible to the caller once the job is done: a helper
 *    leaves with a release of `active`, which the caller acquires.
 *
 * Cost: publishing and finishing a job is two uncontended lock operations and,
 * if the workers are asleep, one wake-up.
 */
#include "parallel.h"
#include "parallel_os.h"

#include <stdatomic.h>
#include <stdlib.h>

#define MAX_WORKERS 255
#define SPIN_SECONDS 50e-6    /* before a thread yields now and then */
#define IDLE_SECONDS 200e-6   /* before a worker without work sleeps */
#define WAIT_SECONDS 10e-3    /* before a caller whose helpers are late sleeps */
#define SPIN_PAUSES 32        /* between two looks at the clock */
#define POLL_SECONDS 0.05

typedef struct job {
    fanin_task task;
    void *context;
    ptrdiff_t n_tasks;
    atomic_ptrdiff_t next;    /* the next task to hand out */
    atomic_int active;        /* helpers inside the job */
    int max_helpers;
    int helpers;              /* helpers that ever joined; guarded by the lock */
    int cpu;                  /* where the caller was when it published the job */
    struct job *below;        /* the stack of published jobs; guarded */
} job;

typedef struct {
    fanin_mutex lock;
    fanin_cond work;          /* workers sleep here */
    fanin_cond done;          /* callers whose helpers are late sleep here */
    job *jobs;                /* guarded */
    int n_workers;            /* guarded */
    int n_asleep;             /* guarded */
    atomic_uint published;    /* counts jobs, so that a spinner sees a new one */
} pool_t;

/* Written by pool_start and, in a child that has one thread, after a fork. */
static pool_t *pool;
static fanin_once pool_once = FANIN_ONCE_INIT;

static pool_t *pool_new(void)
{
    pool_t *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL) {
        return NULL;
    }
    fanin_mutex_init(&fresh->lock);
    fanin_cond_init(&fresh->work);
    fanin_cond_init(&fresh->done);
    return fresh;
}

/* The old pool leaks on purpose: its locks may be held by threads that do not
 * exist in the child. */
static void after_fork_in_child(void) { pool = pool_new(); }

static void pool_start(void)
{
    pool = pool_new();
    fanin_atfork_child(after_fork_in_child);
}

/* A round of a spin that began at *began (0.0 at first): 0 when it has lasted. Past
 * the first SPIN_SECONDS it lets others have the CPU in between. */
static int spin(double *began, double seconds)
{
    double now = fanin_fine_seconds();
    if (*began == 0.0) {
        *began = now;
    }
    if (now - *began >= SPIN_SECONDS) {
        fanin_yield();
    }
    return now - *began < seconds;
}

static void run_tasks(job *work, int worker)
{
    for (;;) {
        ptrdiff_t i = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
        if (i >= work->n_tasks) {
            return;
        }
        work->task(work->context, i, worker);
    }
}

/* A published job with tasks left and room for a helper; the lock is held. */
static job *find_job(pool_t *p)
{
    for (job *work = p->jobs; work != NULL; work = work->below) {
        if (work->helpers < work->max_helpers
            && atomic_load_explicit(&work->next, memory_order_relaxed)
                   < work->n_tasks) {
            return work;
        }
    }
    return NULL;
}

static void worker_main(void *argument)
{
    pool_t *p = argument;
    int woken = 1;
    fanin_mutex_lock(&p->lock);
    for (;;) {
        job *work = find_job(p);
        if (work != NULL) {
            int worker = ++work->helpers;
            atomic_fetch_add_explicit(&work->active, 1, memory_order_relaxed);
            int cpu = work->cpu;
            fanin_mutex_unlock(&p->lock);
            if (woken) {
                fanin_leave_cpu(cpu);
                woken = 0;
            }
            run_tasks(work, worker);
            fanin_mutex_lock(&p->lock);
            /* After this decrement the job's caller may return and the job,
             * which lives on its stack, be gone. */
            if (atomic_fetch_sub_explicit(&work->active, 1, memory_order_release)
                == 1) {
                fanin_cond_broadcast(&p->done);
            }
            continue;
        }
        unsigned seen = atomic_load_explicit(&p->published, memory_order_relaxed);
        fanin_mutex_unlock(&p->lock);
        double began = 0.0;
        while (atomic_load_explicit(&p->published, memory_order_relaxed) == seen
               && spin(&began, IDLE_SECONDS)) {
            for (int i = 0; i < SPIN_PAUSES
                 && atomic_load_explicit(&p->published, memory_order_relaxed) == seen;
                 i++) {
                fanin_pause();
            }
        }
        fanin_mutex_lock(&p->lock);
        if (atomic_load_explicit(&p->published, memory_order_relaxed) == seen) {
            p->n_asleep++;
            fanin_cond_wait(&p->work, &p->lock);
            p->n_asleep--;
            woken = 1;
        }
    }
}

void fanin_call_begin(fanin_call *call, int n_threads, fanin_poll poll)
{
    call->n_threads = n_threads < 1 ? 1 : n_threads;
    call->stopped = 0;
    call->poll = poll;
    call->error = NULL;
    call->last_poll = poll == NULL ? 0.0 : fanin_coarse_seconds();
}

/* Whether the call has to stop. `p` is the pool its job was published to, or
 * NULL; a fork since then, in which the helpers were lost, stops it too. */
static int should_stop(fanin_call *call, pool_t *p)
{
    if (!call->stopped && call->poll != NULL) {
        double now = fanin_coarse_seconds();
        if (now - call->last_poll >= POLL_SECONDS) {
            call->stopped = call->poll() != 0;
            call->last_poll = fanin_coarse_seconds();
        }
    }
    if (p != NULL && p != pool) {
        call->stopped = 1;
    }
    return call->stopped;
}

int fanin_should_stop(fanin_call *call) { return should_stop(call, NULL); }

/* Publish the job, start missing workers, wake sleeping ones. */
static void publish(pool_t *p, job *work)
{
    fanin_mutex_lock(&p->lock);
    while (p->n_workers < work->max_helpers && p->n_workers < MAX_WORKERS
           && fanin_thread_start(worker_main, p) == 0) {
        p->n_workers++;
    }
    work->below = p->jobs;
    p->jobs = work;
    atomic_fetch_add_explicit(&p->published, 1, memory_order_release);
    int wake = work->max_helpers < p->n_asleep ? work->max_helpers : p->n_asleep;
    for (int i = 0; i < wake; i++) {
        fanin_cond_signal(&p->work);
    }
    fanin_mutex_unlock(&p->lock);
    if (wake > 0) {
        fanin_yield();    /* let one that waits for this CPU run, and leave it */
    }
}

/* Take the job off the stack: nobody joins it from here on. */
static void withdraw(pool_t *p, job *work)
{
    fanin_mutex_lock(&p->lock);
    job **link = &p->jobs;
    while (*link != work) {
        link = &(*link)->below;
    }
    *link = work->below;
    fanin_mutex_unlock(&p->lock);
}

static void wait_for_helpers(pool_t *p, job *work, fanin_call *call)
{
    double began = 0.0;
    do {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            if (atomic_load_explicit(&work->active, memory_order_acquire) == 0) {
                return;
            }
            fanin_pause();
        }
    } while (spin(&began, WAIT_SECONDS));
    fanin_mutex_lock(&p->lock);
    while (atomic_load_explicit(&work->active, memory_order_acquire) != 0) {
        fanin_cond_wait_ms(&p->done, &p->lock, 50);
        fanin_mutex_unlock(&p->lock);   /* poll takes the interpreter's lock */
        if (should_stop(call, p)) {
            if (p != pool) {
                return;
            }
            atomic_store_explicit(&work->next, work->n_tasks, memory_order_relaxed);
        }
        fanin_mutex_lock(&p->lock);
    }
    fanin_mutex_unlock(&p->lock);
}

/* All tasks on the calling thread. */
static int run_alone(fanin_call *call, fanin_task task, void *context,
                     ptrdiff_t n_tasks)
{
    for (ptrdiff_t i = 0; i < n_tasks; i++) {
        if (should_stop(call, NULL)) {
            return -1;
        }
        task(context, i, 0);
    }
    return call->stopped ? -1 : 0;
}

int fanin_parallel_for(fanin_call *call, fanin_task task, void *context,
                       ptrdiff_t n_tasks)
{
    if (call->stopped) {
        return -1;
    }
    if (n_tasks <= 1 || call->n_threads == 1) {
        return run_alone(call, task, context, n_tasks);
    }
    fanin_call_once(&pool_once, pool_start);
    pool_t *p = pool;
    if (p == NULL) {
        return run_alone(call, task, context, n_tasks);
    }
    job work = {
        .task = task, .context = context, .n_tasks = n_tasks, .cpu = fanin_current_cpu()};
    atomic_init(&work.next, 0);
    atomic_init(&work.active, 0);
    work.max_helpers =
        (n_tasks < call->n_threads ? (int)n_tasks : call->n_threads) - 1;
    publish(p, &work);
    for (;;) {
        if (should_stop(call, p)) {
            if (p != pool) {
                return -1;
            }
            atomic_store_explicit(&work.next, n_tasks, memory_order_relaxed);
            break;
        }
        ptrdiff_t i = atomic_fetch_add_explicit(&work.next, 1, memory_order_relaxed);
        if (i >= n_tasks) {
            break;
        }
        task(context, i, 0);
    }
    withdraw(p, &work);
    wait_for_helpers(p, &work, call);
    return call->stopped ? -1 : 0;
}

int fanin_pool_size(void)
{
    fanin_call_once(&pool_once, pool_start);
    pool_t *p = pool;
    if (p == NULL) {
        return 0;
    }
    fanin_mutex_lock(&p->lock);
    int n = p->n_workers;
    fanin_mutex_unlock(&p->lock);
    return n;
}
