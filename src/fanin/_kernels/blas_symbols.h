/* The addresses of a system CBLAS (-Dblas=NAME); empty when ours is vendored. */
#ifndef FANIN_BLAS_SYMBOLS_H
#define FANIN_BLAS_SYMBOLS_H

#include <stddef.h>
#include <string.h>

#ifdef FANIN_SYSTEM_BLAS
#include <cblas.h>

#if defined(OPENBLAS_USE64BITINT) || defined(MKL_ILP64)
#error "fanin calls BLAS with 32-bit integers; choose that build of the library"
#endif

static const char *fanin_system_blas = FANIN_SYSTEM_BLAS;

static void *fanin_system_symbol(const char *name)
{
    if (strcmp(name, "cblas_sgemm") == 0) return (void *)cblas_sgemm;
    if (strcmp(name, "cblas_dgemm") == 0) return (void *)cblas_dgemm;
    if (strcmp(name, "cblas_sgemv") == 0) return (void *)cblas_sgemv;
    if (strcmp(name, "cblas_dgemv") == 0) return (void *)cblas_dgemv;
    return NULL;
}
#else
static const char *fanin_system_blas = NULL;

static void *fanin_system_symbol(const char *name)
{
    (void)name;
    return NULL;
}
#endif

/* The file that holds a function, or NULL where the system does not say. */
#ifdef _WIN32
static const char *fanin_library_of(void *address)
{
    (void)address;
    return NULL;
}
#else
#include <dlfcn.h>
static const char *fanin_library_of(void *address)
{
    Dl_info found;
    return dladdr(address, &found) != 0 ? found.dli_fname : NULL;
}
#endif
#endif
