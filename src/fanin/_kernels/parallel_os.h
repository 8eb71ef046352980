/* What the thread pool needs of the operating system: POSIX threads, or their
 * Windows equivalents under the same names. */
#ifndef FANIN_PARALLEL_OS_H
#define FANIN_PARALLEL_OS_H

#if defined(_MSC_VER)
#include <intrin.h>
#endif

static inline void fanin_pause(void)
{
#if defined(_MSC_VER)
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

typedef void (*fanin_thread_main)(void *);

#ifdef _WIN32

#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <process.h>
#include <stdlib.h>

typedef SRWLOCK fanin_mutex;
typedef CONDITION_VARIABLE fanin_cond;
typedef INIT_ONCE fanin_once;
#define FANIN_ONCE_INIT INIT_ONCE_STATIC_INIT

#define fanin_mutex_init(m) InitializeSRWLock(m)
#define fanin_mutex_lock(m) AcquireSRWLockExclusive(m)
#define fanin_mutex_unlock(m) ReleaseSRWLockExclusive(m)
#define fanin_cond_init(c) InitializeConditionVariable(c)
#define fanin_cond_signal(c) WakeConditionVariable(c)
#define fanin_cond_broadcast(c) WakeAllConditionVariable(c)
#define fanin_cond_wait(c, m) SleepConditionVariableSRW(c, m, INFINITE, 0)
#define fanin_cond_wait_ms(c, m, ms) SleepConditionVariableSRW(c, m, ms, 0)
#define fanin_atfork_child(f) ((void)(f))

static inline void fanin_yield(void) {}
static inline int fanin_current_cpu(void) { return -1; }
static inline void fanin_leave_cpu(int cpu) { (void)cpu; }

static BOOL CALLBACK fanin_once_call(PINIT_ONCE once, PVOID f, PVOID *unused)
{
    (void)once;
    (void)unused;
    ((void (*)(void))f)();
    return TRUE;
}

static inline void fanin_call_once(fanin_once *once, void (*f)(void))
{
    InitOnceExecuteOnce(once, fanin_once_call, (PVOID)f, NULL);
}

static inline double fanin_coarse_seconds(void)
{
    return (double)GetTickCount64() * 1e-3;
}

static inline double fanin_fine_seconds(void)
{
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    return (double)now.QuadPart / (double)frequency.QuadPart;
}

struct fanin_thread_start_arguments {
    fanin_thread_main main;
    void *argument;
};

static unsigned __stdcall fanin_thread_entry(void *raw)
{
    struct fanin_thread_start_arguments start =
        *(struct fanin_thread_start_arguments *)raw;
    free(raw);
    start.main(start.argument);
    return 0;
}

static inline int fanin_thread_start(fanin_thread_main main, void *argument)
{
    struct fanin_thread_start_arguments *start = malloc(sizeof *start);
    if (start == NULL) {
        return -1;
    }
    start->main = main;
    start->argument = argument;
    uintptr_t handle = _beginthreadex(NULL, 8u << 20, fanin_thread_entry, start,
                                      STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (handle == 0) {
        free(start);
        return -1;
    }
    CloseHandle((HANDLE)handle);
    return 0;
}

#else /* POSIX */

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif
#include <signal.h>
#include <stdlib.h>
#include <time.h>

typedef pthread_mutex_t fanin_mutex;
typedef pthread_cond_t fanin_cond;
typedef pthread_once_t fanin_once;
#define FANIN_ONCE_INIT PTHREAD_ONCE_INIT

#define fanin_mutex_init(m) pthread_mutex_init(m, NULL)
#define fanin_mutex_lock(m) pthread_mutex_lock(m)
#define fanin_mutex_unlock(m) pthread_mutex_unlock(m)
#define fanin_cond_init(c) pthread_cond_init(c, NULL)
#define fanin_cond_signal(c) pthread_cond_signal(c)
#define fanin_cond_broadcast(c) pthread_cond_broadcast(c)
#define fanin_cond_wait(c, m) pthread_cond_wait(c, m)
#define fanin_call_once(once, f) pthread_once(once, f)
#define fanin_atfork_child(f) pthread_atfork(NULL, NULL, f)

static inline double fanin_coarse_seconds(void)
{
    struct timespec now;
#ifdef CLOCK_MONOTONIC_COARSE
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline double fanin_fine_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline void fanin_yield(void)
{
#ifdef __linux__
    sched_yield();
#endif
}

/* The CPU that this thread runs on, or -1 if the system does not say. */
static inline int fanin_current_cpu(void)
{
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
}

/* If this thread runs on that CPU, move it to another that it may use. */
static inline void fanin_leave_cpu(int cpu)
{
#ifdef __linux__
    cpu_set_t allowed, others;
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getcpu() != cpu
        || sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return;
    }
    others = allowed;
    CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) {
        sched_setaffinity(0, sizeof allowed, &allowed);
    }
#else
    (void)cpu;
#endif
}

/* A time-out may come late or early (the wall clock can be set): callers loop. */
static inline void fanin_cond_wait_ms(fanin_cond *cond, fanin_mutex *mutex, long ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(cond, mutex, &until);
}

struct fanin_thread_start_arguments {
    fanin_thread_main main;
    void *argument;
};

static void *fanin_thread_entry(void *raw)
{
    struct fanin_thread_start_arguments start =
        *(struct fanin_thread_start_arguments *)raw;
    free(raw);
    start.main(start.argument);
    return NULL;
}

/* Detached, with the stack that BLAS kernels expect (macOS and musl give
 * secondary threads far less). Signals sent to the process stay with the threads
 * that were there before; those that an instruction raises in a worker itself are
 * let through, so that a crash there is reported like any other. */
static inline int fanin_thread_start(fanin_thread_main main, void *argument)
{
    struct fanin_thread_start_arguments *start = malloc(sizeof *start);
    if (start == NULL) {
        return -1;
    }
    start->main = main;
    start->argument = argument;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, (size_t)8 << 20);
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    sigdelset(&blocked, SIGTRAP);
    sigdelset(&blocked, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);   /* the thread inherits it */
    pthread_t thread;
    int failed = pthread_create(&thread, &attributes, fanin_thread_entry, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (failed) {
        free(start);
        return -1;
    }
    return 0;
}

#endif
#endif
