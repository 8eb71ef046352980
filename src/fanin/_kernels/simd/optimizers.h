/* One optimizer step on a stretch of the parameter vector; see optimizers.c. */
#ifndef FANIN_OPTIMIZERS_H
#define FANIN_OPTIMIZERS_H

#include "levels.h"

/* What one step does. The numbers come from the optimizer, factor and decayed from
 * the caller of the kernel. */
struct fanin_update {
    int kind;
    double rate;          /* adam: learning rate / (1 - beta_1^t) */
    double beta_1;        /* sgd, rmsprop: momentum */
    double beta_2;
    double correction_2;  /* sqrt(1 - beta_2^t) */
    double epsilon;
    double keep;          /* what decay leaves of a weight; 1: no decay */
    double max_norm;      /* of the whole gradient; 0: any */
    double max_value;     /* of an entry's absolute value; infinity: any */
    double factor;        /* the gradient is multiplied by it */
    void *first;          /* sgd, rmsprop: velocity, NULL without momentum */
    void *second;
    void *third;          /* rmsprop: mean, NULL if not centered; adam: greatest second */
    const ptrdiff_t *decayed;  /* starts and stops of what decays, in order */
    ptrdiff_t n_decayed;       /* stretches in decayed; -1: everything decays */
};

#define FANIN_OPTIMIZER(NAME)                                                         \
    void (*NAME##_f32)(float *theta, const float *gradient, float *first,             \
                       float *second, float *third, ptrdiff_t n, double keep,         \
                       const struct fanin_update *u);                                 \
    void (*NAME##_f64)(double *theta, const double *gradient, double *first,          \
                       double *second, double *third, ptrdiff_t n, double keep,       \
                       const struct fanin_update *u);

struct fanin_optimizers {
    FANIN_OPTIMIZER(sgd)
    FANIN_OPTIMIZER(nesterov)
    FANIN_OPTIMIZER(rmsprop)
    FANIN_OPTIMIZER(adam)
    double (*square_f32)(const float *gradient, ptrdiff_t n, double scale);
    double (*square_f64)(const double *gradient, ptrdiff_t n, double scale);
};

FANIN_DECLARE(optimizers)

#endif
