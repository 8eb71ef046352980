/* One optimizer step on a stretch of the parameter vector; see optimizers.c. */
#ifndef FANIN_OPTIMIZERS_H
#define FANIN_OPTIMIZERS_H

#include "levels.h"

struct fanin_optimizers {
    void (*sgd_f32)(float *theta, const float *gradient, float *velocity, ptrdiff_t n,
                    double learning_rate, double momentum, int nesterov);
    void (*sgd_f64)(double *theta, const double *gradient, double *velocity,
                    ptrdiff_t n, double learning_rate, double momentum, int nesterov);
    void (*adam_f32)(float *theta, const float *gradient, float *first, float *second,
                     ptrdiff_t n, double step, double beta_1, double beta_2,
                     double correction_2, double epsilon);
    void (*adam_f64)(double *theta, const double *gradient, double *first,
                     double *second, ptrdiff_t n, double step, double beta_1,
                     double beta_2, double correction_2, double epsilon);
};

FANIN_DECLARE(optimizers)

#endif
