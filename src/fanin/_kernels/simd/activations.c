/* Activation functions and their derivatives, fused with the bias.
 *
 * Design
 * a) With t = |z|, e = exp(-t) and max(z, 0) written z+:
 *      logistic    1 / (1 + exp(-z)), the denominator scaled so that it does not
 *                  overflow before the result is 0
 *      tanh        sign(z) (1 - E) / (1 + E), E = exp(-2t) = 2^n (1 + q) taken apart,
 *                  so that 1 - E = (1 - 2^n) - 2^n q has no cancellation near 0
 *      relu        z+, keeping NaN
 *      leaky_relu  z > 0 ? z : slope z              (Maas, Hannun & Ng 2013)
 *      elu         z > 0 ? z : alpha expm1(z)       (Clevert, Unterthiner & Hochreiter
 *                  2016)
 *      selu        scale elu(z), the fixed point of mean 0 and variance 1 (Klambauer,
 *                  Unterthiner, Mayr & Hochreiter 2017, equation 2)
 *      softplus    log(1 + exp z) = z+ + log1p(e)
 *      silu        z logistic(z) = z+ - t e / (1 + e)   (Elfwing, Uchibe & Doya 2018)
 *      gelu        z Phi(z) = z+ - t Q(t)           (Hendrycks & Gimpel 2016)
 *      gelu_tanh   z logistic(u) = z+ - t e / (1 + e) with e = exp(-|u|),
 *                  u = 2 sqrt(2/pi) (z + 0.044715 z^3), which is their formula
 *                  z/2 (1 + tanh(u/2)) without its cancellation
 *    The subtractions from z+ are exact in sign and cost half a place: what is
 *    subtracted is at most half of z. For z < 0 it is the result, with all its digits.
 * b) Q(t) = Phi(-t) = exp(-t^2/2) R(t), where R(t) = erfcx(t / sqrt 2) / 2, Mills'
 *    ratio over sqrt(2 pi), falls smoothly from 1/2 like 1/t. One rational function,
 *    of the smallest greatest relative error, serves the whole half-line to where the
 *    result is 0: degrees 4 over 5 on [0, 14.6] in float32 (2^-27.3), 9 over 10 on
 *    [0, 39.5] in float64 (2^-54.1); Remez's exchange to 60 digits. R is a Stieltjes
 *    function, so all coefficients are positive, and nothing cancels. A polynomial
 *    needs (t - k) / (t + k) for its argument and twice the degree (Shepherd &
 *    Laframboise 1981); Cody's (1969) forms need a branch. t^2/2 is taken in two
 *    words: its rounding error is an error of the result, times t^2/2.
 * c) Derivatives are taken from the activation's value where that determines them, so
 *    z need not be stored: logistic a(1-a), tanh 1-a^2, relu [a > 0] (0 at the kink, as
 *    usual), leaky_relu slope there, elu a + alpha for a <= 0, selu likewise, softplus
 *    1 - exp(-a). silu and gelu are not monotone: they take z. So do leaky_relu and elu
 *    with a negative parameter. The derivative of z s(z) with an s(z) = 1 - s(-z) is
 *    h(t) = s(-t) - t s'(t) at z = -t and 1 - h(t) at z = t.
 * d) Each function reads and writes its tile once, while the matrix product that
 *    made it is still in cache: 2 * itemsize bytes a value, plus the bias row. The
 *    bias is added first, to so many rows as stay in the L1 cache: a loop for each
 *    function with and without one would double the code for no time. `apply` is for
 *    arrays larger than a cache: it reads ahead and can write past it (stream.h).
 * e) Three functions of float32 that are applied most have loops of their own for
 *    AVX-512 and AVX2, with shorter forms of the same formulas: activations_lanes.h.
 *
 * Cost: 20 to 35 operations and one division a value (gelu 45, and 60 in float64;
 * softplus a second division for log1p): in AVX-512 up to twice what two words of
 * float32 take to come from memory.
 */
#include "activations.h"
#include "activations_lanes.h"
#include "exp_inline.h"
#include "stream.h"

#include <math.h>

/* R(t) = above / below. */
static inline float mills_above_f32(float t)
{
    float p = 0.004124138039f;
    p = p * t + 0.04068586603f;
    p = p * t + 0.1833911091f;
    p = p * t + 0.4385052025f;
    return p * t + 0.5f;
}

static inline float mills_below_f32(float t)
{
    float p = 0.0103375623f;
    p = p * t + 0.1019907147f;
    p = p * t + 0.4698824584f;
    p = p * t + 1.203150511f;
    p = p * t + 1.674895406f;
    return p * t + 1.0f;
}

static inline double mills_above_f64(double t)
{
    double p = 1.3914200842351918e-06;
    p = p * t + 3.738240728859047e-05;
    p = p * t + 0.0004918278522769125;
    p = p * t + 0.004099057099412448;
    p = p * t + 0.023668254708149518;
    p = p * t + 0.09784921361718148;
    p = p * t + 0.28966621094208983;
    p = p * t + 0.5945128333198336;
    p = p * t + 0.775195605698711;
    return p * t + 0.5;
}

static inline double mills_below_f64(double t)
{
    double p = 3.487772925043221e-06;
    p = p * t + 9.370379908130162e-05;
    p = p * t + 0.001236317373886029;
    p = p * t + 0.010368516212925422;
    p = p * t + 0.06055337093290542;
    p = p * t + 0.2553589988439476;
    p = p * t + 0.782982489635211;
    p = p * t + 1.7158777850109443;
    p = p * t + 2.562678649786026;
    p = p * t + 2.348275772200277;
    return p * t + 1.0;
}

#define T float
#define U uint32_t
#define NAME(x) x##_f32
#define ABS fabsf
#define COPYSIGN copysignf
#define EXP(x) fanin_exp_##x##_f32
#define EXPM1 fanin_expm1_negative_f32
#define LOG1P fanin_log1p_unit_f32
#define LOGISTIC fanin_logistic_of_minus_f32
#define UNDO FANIN_UNDO_F32
#define HALF_MASK 0xfffff000u
#define SILU_BOUND 110.0f
#define GELU_TANH_BOUND 11.0f
#define GELU_BOUND 14.6f
#define SELU_SCALE 1.05070098735548049f
#define SELU_ALPHA 1.67326324235437728f
#define BLOCK 2048
#define CHUNK 256
#define PER_LINE 16
#define IN_LANES FANIN_IN_LANES
#include "activations_body.h"

#define T double
#define U uint64_t
#define NAME(x) x##_f64
#define ABS fabs
#define COPYSIGN copysign
#define EXP(x) fanin_exp_##x##_f64
#define EXPM1 fanin_expm1_negative_f64
#define LOG1P fanin_log1p_unit_f64
#define LOGISTIC fanin_logistic_of_minus_f64
#define UNDO FANIN_UNDO_F64
#define HALF_MASK 0xfffffffff8000000u
#define SILU_BOUND 752.5
#define GELU_TANH_BOUND 21.6
#define GELU_BOUND 39.0
#define SELU_SCALE 1.05070098735548049
#define SELU_ALPHA 1.67326324235437728
#define BLOCK 1024
#define CHUNK 128
#define PER_LINE 8
#define IN_LANES 0
#include "activations_body.h"

const struct fanin_activations FANIN_AT_LEVEL(fanin_activations) = {
    .forward_f32 = forward_f32,
    .forward_f64 = forward_f64,
    .backward_f32 = backward_f32,
    .backward_f64 = backward_f64,
    .apply_f32 = apply_f32,
    .apply_f64 = apply_f64,
};
