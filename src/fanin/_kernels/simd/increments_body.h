/* One row of increments, for arguments up to a limit; see increments.c.
 *
 * EXPM1, LOG1P, TANH, RECIPROCAL (of 1 + u) and DELTA_PHI are those of the range. */

/* out = f(z + c in) - f(z); returns how far an argument went beyond a kink. `out` may
 * be `in`. */
static inline double NAME(row)(double *out, double c, const double *in, ptrdiff_t n,
                               const double *FANIN_RESTRICT z,
                               const double *FANIN_RESTRICT t1,
                               const double *FANIN_RESTRICT t2, int activation,
                               double parameter)
{
    double far = 0.0, scale = 1.0;
    switch (activation) {
    case FANIN_LOGISTIC:
        EACH({
            double e = EXPM1(d);
            y = t2[j] * e * RECIPROCAL(t1[j] * e);
        })
        break;
    case FANIN_TANH:
        EACH({
            double t = TANH(d);
            y = t2[j] * t * RECIPROCAL(t1[j] * t);
        })
        break;
    case FANIN_SOFTPLUS:
        EACH({ y = LOG1P(t1[j] * EXPM1(d)); })
        break;
    case FANIN_SILU:
        EACH({
            double e = EXPM1(d);
            double moved = t2[j] * e * RECIPROCAL(t1[j] * e);
            y = z[j] * moved + d * (t1[j] + moved);
        })
        break;
    case FANIN_GELU:
        EACH({
            double moved = DELTA_PHI(z[j], d, t2[j]);
            y = z[j] * moved + d * (t1[j] + moved);
        })
        break;
    case FANIN_GELU_TANH:
        EACH({
            double x = within(z[j], 40.0);
            double e = EXPM1(GELU_TANH_SLOPE * d
                             * (1.0 + GELU_TANH_CUBE * (3.0 * x * (x + d) + d * d)));
            double moved = t2[j] * e * RECIPROCAL(t1[j] * e);
            y = z[j] * moved + d * (t1[j] + moved);
        })
        break;
    case FANIN_SELU:
        scale = SELU_SCALE;
        parameter = SELU_ALPHA;
        /* fall through */
    case FANIN_ELU:
        KINKED({ y = scale * (up + t1[j] * EXPM1(d - up)); })
        /* With alpha = 1 the slope on both sides is 1. */
        far = activation == FANIN_ELU && parameter == 1.0 ? 0.0 : far;
        break;
    default: /* relu, leaky_relu */
        parameter = activation == FANIN_RELU ? 0.0 : parameter;
        KINKED({ y = up + parameter * (d - up); })
        break;
    }
    return far;
}

/* Losses of single values: returns the sum over the columns. */
static double NAME(values)(const double *FANIN_RESTRICT D, ptrdiff_t n,
                           const double *FANIN_RESTRICT t0,
                           const double *FANIN_RESTRICT t1,
                           const double *FANIN_RESTRICT t2, double sum, int loss,
                           double parameter, double *far)
{
    double total = 0.0;
    switch (loss) {
    case FANIN_DELTA_SQUARED:
        SUM({ total += d * (2.0 * t0[j] + d); })
        break;
    case FANIN_DELTA_SLOPES:
        for (ptrdiff_t j = 0; j < n; j++) {
            double d = D[j], r = t0[j];
            double up = fmax(d, -r) - fmax(-r, 0.0);
            double beyond = fabs(up - (r > 0.0 ? d : 0.0));
            *far = beyond > *far ? beyond : *far;
            total += t1[j] * up + t2[j] * (d - up);
        }
        break;
    case FANIN_DELTA_HUBER:
        for (ptrdiff_t j = 0; j < n; j++) {
            total += huber(t0[j], D[j], parameter);
        }
        break;
    case FANIN_DELTA_POISSON:
        SUM({ total += d * t1[j] + t0[j] * SECOND(d); })
        break;
    default: /* FANIN_DELTA_LOGIT */
        SUM({
            double turned = t2[j] * d;
            total += sum * LOG1P(t0[j] * EXPM1(turned)) - t1[j] * turned;
        })
        break;
    }
    return total;
}

/* The same of a softmax's row, whose increments are taken from the reference's. */
static double NAME(softmax)(const double *FANIN_RESTRICT D, ptrdiff_t n,
                            const double *FANIN_RESTRICT p,
                            const double *FANIN_RESTRICT target, double sum,
                            double shift)
{
    double total = 0.0, grown = 0.0;
    _Pragma("omp simd reduction(+:total,grown)")
    for (ptrdiff_t j = 0; j < n; j++) {
        double d = D[j] - shift;
        grown += p[j] * EXPM1(d);
        total += target[j] * d;
    }
    return sum * LOG1P(grown) - total;
}

#undef NAME
#undef EXPM1
#undef LOG1P
#undef TANH
#undef RECIPROCAL
#undef DELTA_PHI
#undef SECOND
