/* The addresses of a system CBLAS (-Dblas=NAME); empty when ours is vendored. */
#ifndef FANIN_BLAS_SYMBOLS_H
#define FANIN_BLAS_SYMBOLS_H

#include <stddef.h>
#include <string.h>

#ifdef FANIN_SYSTEM_BLAS
#include <cblas.h>

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
#endif
