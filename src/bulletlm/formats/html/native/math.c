/* Mathematical functions for WebAssembly, the same in every browser. Relative errors are below 2^-52; those of pow, which are multiplied by
 * the position of a token, below 2^-53 before the result is rounded, because it computes with pairs of doubles. */

#include <math.h>
#include <stdint.h>
#include <string.h>

static double from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^n for -1022 <= n <= 1023 */
static double power_of_two(int32_t n) { return from_bits((uint64_t)(n + 1023) << 52); }

/* x * 2^n, also where the result is subnormal or infinite. */
static double scale(double x, int32_t n) {
    if (n > 1023) return x * power_of_two(1023) * power_of_two(n - 1023 < 1023 ? n - 1023 : 1023);
    if (n < -1022) return x * power_of_two(n + 1022 > -1022 ? n + 1022 : -1022) * power_of_two(-1022);
    return x * power_of_two(n);
}

/* The nearest integer, as a double, for |x| < 2^51. */
static double nearest(double x) { return x + 0x1.8p52 - 0x1.8p52; }

#define LN2 0x1.62e42fefa39efp-1
#define LN2_HIGH 0x1.62e42fee00000p-1 /* 21 zero bits at the end, so that its product with a small integer is exact */
#define LN2_LOW 0x1.a39ef35793c76p-33

/* x = n ln(2) + r, |r| <= ln(2) / 2, e^r by its Taylor polynomial of degree 13; the first terms are added last, to a sum of which
 * only the last bit may be wrong. */
double exp(double x) {
    if (x != x) return x;
    if (x > 710.0) return INFINITY;
    if (x < -746.0) return 0.0;
    const double n = nearest(x / LN2), high = x - n * LN2_HIGH, low = n * LN2_LOW, r = high - low;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    return scale(1.0 + (high + (r * r * p - low)), (int32_t)n);
}

/* A number as the sum of two doubles, the second below half a unit of the first (Dekker 1971). */
struct pair {
    double high, low;
};

static struct pair quick_sum(double a, double b) { /* |a| >= |b| */
    const double high = a + b;
    return (struct pair){high, b - (high - a)};
}

static struct pair sum(double a, double b) {
    const double high = a + b, part = high - a;
    return (struct pair){high, (a - (high - part)) + (b - part)};
}

static struct pair product(double a, double b) {
    const double a_split = a * 0x1.0000002p27, a_high = a_split - (a_split - a), a_low = a - a_high;
    const double b_split = b * 0x1.0000002p27, b_high = b_split - (b_split - b), b_low = b - b_high;
    const double high = a * b;
    return (struct pair){high, ((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low};
}

static struct pair add(struct pair a, struct pair b) {
    const struct pair high = sum(a.high, b.high);
    return quick_sum(high.high, high.low + a.low + b.low);
}

static struct pair multiply(struct pair a, struct pair b) {
    const struct pair high = product(a.high, b.high);
    return quick_sum(high.high, high.low + a.high * b.low + a.low * b.high);
}

/* e^x for |x| < 700: the Taylor polynomial of e^(r / 256), squared eight times. */
static struct pair exp_pair(struct pair x) {
    const struct pair ln2 = {LN2, 0x1.abc9e3b39803fp-56};
    const double n = nearest(x.high / LN2);
    struct pair r = add(x, multiply((struct pair){-n, 0}, ln2));
    r.high /= 256, r.low /= 256;
    struct pair p = {1, 0};
    for (int i = 12; i > 0; i--) {
        /* 1 + r / i * p, with the quotient corrected by its remainder */
        const struct pair t = multiply(r, p);
        const double q = t.high / i;
        const struct pair back = product(q, i);
        p = add((struct pair){1, 0}, quick_sum(q, ((t.high - back.high) - back.low + t.low) / i));
    }
    for (int i = 0; i < 8; i++) p = multiply(p, p);
    return (struct pair){scale(p.high, (int32_t)n), scale(p.low, (int32_t)n)};
}

/* The natural logarithm of a positive finite number, by Newton's method on exp: y + x / e^y - 1 doubles the correct digits in each step. */
static struct pair log_pair(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    struct pair y = {((double)(bits >> 52) - 1023 + (double)(bits & 0xfffffffffffffu) * 0x1p-52) * LN2, 0};
    for (int i = 0; i < 7; i++) {
        const struct pair e = exp_pair((struct pair){-y.high, -y.low});
        y = add(y, add(multiply(e, (struct pair){x, 0}), (struct pair){-1, 0}));
    }
    return y;
}

double pow(double x, double y) {
    const struct pair logarithm = log_pair(x), power = exp_pair(multiply(logarithm, (struct pair){y, 0}));
    return power.high + power.low;
}

/* x = k pi/2 + r; r as a pair, k modulo 4 as the result. pi/2 as three doubles, so that nothing is lost for the largest angle, 2^41. */
static int32_t reduce(double x, struct pair *r) {
    const double k = nearest(x * 0x1.45f306dc9c883p-1);
    const struct pair first = product(k, -0x1.921fb54442d18p0), second = product(k, -0x1.1a62633145c07p-54);
    struct pair rest = add((struct pair){x + first.high, first.low}, second);
    *r = add(rest, (struct pair){k * 0x1.f1976b7ed8fbcp-110, 0});
    return (int32_t)((int64_t)k & 3);
}

/* sin(r) and cos(r) for |r| <= pi / 4 by their Taylor polynomials; the low part of r enters by its derivative. */
static double sin_near_0(struct pair r) {
    const double x = r.high, square = x * x;
    double p = -1.0 / 1307674368000.0;
    p = p * square + 1.0 / 6227020800.0;
    p = p * square - 1.0 / 39916800.0;
    p = p * square + 1.0 / 362880.0;
    p = p * square - 1.0 / 5040.0;
    p = p * square + 1.0 / 120.0;
    p = p * square - 1.0 / 6.0;
    return x + (x * square * p + r.low * (1.0 - 0.5 * square));
}

static double cos_near_0(struct pair r) {
    const double x = r.high, square = x * x;
    double p = 1.0 / 20922789888000.0;
    p = p * square - 1.0 / 87178291200.0;
    p = p * square + 1.0 / 479001600.0;
    p = p * square - 1.0 / 3628800.0;
    p = p * square + 1.0 / 40320.0;
    p = p * square - 1.0 / 720.0;
    p = p * square + 1.0 / 24.0;
    const double half = 0.5 * square, one = 1.0 - half;
    return one + ((1.0 - one - half) + (square * square * p - x * r.low));
}

static double sine_of_quarter(int32_t quarter, struct pair r) {
    const double value = quarter & 1 ? cos_near_0(r) : sin_near_0(r);
    return quarter & 2 ? -value : value;
}

double sin(double x) {
    struct pair r;
    const int32_t quarter = reduce(x, &r);
    return sine_of_quarter(quarter, r);
}

double cos(double x) {
    struct pair r;
    const int32_t quarter = reduce(x, &r);
    return sine_of_quarter(quarter + 1, r);
}

/* For `to` below x, as select_top in sampling.c needs it, and the other direction by symmetry. */
float nextafterf(float x, float to) {
    if (x != x || to != to) return x + to;
    if (x == to) return to;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) == 0) {
        bits = to > 0 ? 1 : 0x80000001;
    } else if ((x < to) == (x > 0)) {
        bits++;
    } else {
        bits--;
    }
    memcpy(&x, &bits, sizeof bits);
    return x;
}
