/* The errors of the approximations and of the rounding in both libraries, measured and compared with their bounds. docs/kernel.md and
 * docs/training-library.md quote what this prints.
 *
 *     cc -std=gnu11 -O2 -ffp-contract=off [-DTRAIN_AVX512 | -DTRAIN_AVX2] tests/native/check_approx.c -lm -o check && ./check
 *
 * Without an option: the engine, in portable C. With one: the training library with 512-bit or 256-bit vectors, on x86-64 only. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#if !defined(__x86_64__)
#undef TRAIN_AVX512
#undef TRAIN_AVX2
#endif

#if defined(TRAIN_AVX512) || defined(TRAIN_AVX2)
#include "../../src/bulletlm/train/native/trainer.h"

#if defined(TRAIN_AVX2)
#define VPDPBUSD "vpdpbusd" /* not executed here */
#define VPDPWSSD "vpdpwssd"
#endif
#if defined(__clang__)
#if defined(TRAIN_AVX512)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#endif
#elif defined(TRAIN_AVX512)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")
#else
#pragma GCC target("avx2,fma")
#endif

#if defined(TRAIN_AVX512)
#include "../../src/bulletlm/train/native/simd_avx512.h"
#else
#include "../../src/bulletlm/train/native/simd_avx2.h"
#endif

#include "../../src/bulletlm/train/native/rounding.h"
#include "../../src/bulletlm/train/native/matmul.h"
#include "../../src/bulletlm/train/native/exact.h"
#include "../../src/bulletlm/train/native/attention.h"
#include "../../src/bulletlm/train/native/blocks.h"

enum { N = LANES, FIRST_EXP = -87 };
static bool supported(void) {
#if defined(TRAIN_AVX512)
    return cpu_has_avx512_vnni();
#else
    return cpu_has_avx2_fma();
#endif
}
static void exps(const float *x, float *out) { store(out, exp_approx(load(x))); }
static void reciprocals(const float *x, float *out) { store(out, reciprocal(load(x))); }
static void sigmoids(const float *x, float *out) { store(out, sigmoid(load(x))); }
static void bf16s(const float *x, float *out) {
    uint16_t stored[N];
    store_bf16(stored, load(x));
    store(out, load_bf16(stored));
}
#else
#include "../../src/bulletlm/runtime/native/model.h"

#include "../../src/bulletlm/runtime/native/activation.h"

enum { N = 16, FIRST_EXP = -60 };
static bool supported(void) { return true; }
static void exps(const float *x, float *out) {
    for (int i = 0; i < N; i++) out[i] = exp_approx(x[i]);
}
static void silus(const float *x, float *out) {
    float ones[N];
    for (int i = 0; i < N; i++) out[i] = x[i], ones[i] = 1.0f;
    silu_multiply(out, ones, N);
}
#endif

enum { MIN_BITS = 0x10000000 }; /* of 2.5e-29 */

static double exact_reciprocal(double x) { return 1 / x; }
static double exact_sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double exact_silu(double x) { return x / (1 + exp(-x)); }
static double identity(double x) { return x; }

/* The largest relative or absolute error of f over the floats from `low` to `high`, except those next to zero: one in 97 of them. */
static double largest_error(void (*f)(const float *, float *), double (*exact)(double), float low, float high, bool relative) {
    double largest = 0;
    float x[N], y[N];
    int n = 0;
    for (int negative = 0; negative < 2; negative++) {
        for (uint64_t bits = MIN_BITS; bits < 0x7f800000u; bits += 97) {
            const float value = f32_from_bits((uint32_t)bits | (negative ? 0x80000000u : 0));
            if (!(value >= low && value <= high)) continue;
            x[n++] = value;
            if (n < N) continue;
            f(x, y);
            for (n = 0; n < N; n++) {
                const double right = exact((double)x[n]), error = fabs((double)y[n] - right) / (relative ? fabs(right) : 1);
                if (!(error <= largest)) largest = error; /* true for NaN too */
            }
            n = 0;
        }
    }
    return largest;
}

static void report(const char *what, double error, double bound) {
    printf("%-60s %9.2e   bound %.2e\n", what, error, bound);
    CHECK(error <= bound, "%s: %g is more than %g", what, error, bound);
}

static double normal(void) { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()); }

#if defined(TRAIN_AVX512) || defined(TRAIN_AVX2)
enum { ROW = 1024, TRIALS = 2000 };

/* Errors of the three ways of rounding, in steps (1/127 of the largest number of a row), and the mean error: stochastic rounding must
 * be unbiased. Codes must be within +-127 and sums those of the codes. */
static void check_rounding(void) {
    static float x[ROW];
    static int8_t codes[ROW], low_codes[ROW];
    double nearest = 0, stochastic = 0, high_low = 0, bias = 0, low_bias = 0;
    for (int trial = 0; trial < TRIALS; trial++) {
        const double size = pow(10, -8 + 16 * uniform()); /* a few large numbers among small ones, as in gradients */
        for (int i = 0; i < ROW; i++) x[i] = (float)(size * normal() * (i % 64 ? 0.01 : 1));
        const vi max_bits = row_max_bits(x, ROW);
        float scale;
        int32_t sums[2];
        long total = 0, low_total = 0;
        quantize_nearest(x, ROW, codes, &scale, sums);
        for (int i = 0; i < ROW; i++) total += codes[i], nearest = fmax(nearest, fabs((double)x[i] / (double)scale - codes[i]));
        CHECK(total == sums[0], "the sum of nearest codes");
        quantize_stochastic(x, ROW, max_bits, codes, &scale, sums);
        total = 0;
        for (int i = 0; i < ROW; i++) {
            const double error = (double)x[i] / (double)scale - codes[i];
            CHECK(codes[i] != -128, "a code of -128");
            total += codes[i], bias += error / ROW / TRIALS, stochastic = fmax(stochastic, fabs(error));
        }
        CHECK(total == sums[0], "the sum of stochastic codes");
        quantize_high_low(x, ROW, max_bits, codes, low_codes, &scale, sums);
        total = 0;
        for (int i = 0; i < ROW; i++) {
            const double error = (double)x[i] / (double)scale - codes[i] - low_codes[i] / (double)LOW_BYTE_STEPS;
            CHECK(codes[i] != -128 && low_codes[i] != -128, "a code of -128");
            total += codes[i], low_total += low_codes[i], low_bias += error / ROW / TRIALS, high_low = fmax(high_low, fabs(error));
        }
        CHECK(total == sums[0] && low_total == sums[1], "the sums of high and low codes");
    }
    report("rounding to nearest, steps", nearest, 0.5001);
    report("stochastic rounding, steps", stochastic, 1.0001);
    report("stochastic rounding, mean error in steps", fabs(bias), 1e-3);
    report("high and low byte, steps of the high byte", high_low, 1.01 / 254);
    report("high and low byte, mean error in steps of the low byte", fabs(low_bias) * 254, 1e-3);
}

static void check_all(void) {
    report("exp(x) in [-87, 88], relative", largest_error(exps, exp, FIRST_EXP, 88, true), 2.5e-7);
    report("1 / x in [1, 1e38], relative", largest_error(reciprocals, exact_reciprocal, 1, 8e37f, true), 0x1p-22);
    report("sigmoid(x) in [-87, 87], absolute", largest_error(sigmoids, exact_sigmoid, -87, 87, false), 3e-7);
    report("float32 stored as bfloat16, relative", largest_error(bf16s, identity, 1e-30f, 1e30f, true), 0x1p-8);
    check_rounding();
}
#else
/* Rounding of activations in blocks of 32, in steps: to 16 bits in exact mode (a step is 1/32639 of the largest number), to 8 in turbo. */
static void check_rounding(void) {
    for (int turbo = 0; turbo < 2; turbo++) {
        double error = 0;
        for (int trial = 0; trial < 20000; trial++) {
            float x[BLOCK];
            struct act_block block;
            const double size = pow(10, -8 + 16 * uniform());
            for (int i = 0; i < BLOCK; i++) x[i] = (float)(size * normal());
            quantize_blocks(x, &block, BLOCK, turbo);
            for (int i = 0; i < BLOCK; i++) {
                const int q = turbo ? block.high[i] : 256 * block.high[i] + block.low[i];
                error = fmax(error, fabs((double)x[i] / (double)block.scale - q));
            }
        }
        report(turbo ? "activations, turbo, steps of 1/127" : "activations, exact, steps of 1/32639", error, 0.51);
    }
}

static void check_all(void) {
    report("exp(x) in [-60, 88], relative", largest_error(exps, exp, FIRST_EXP, 88, true), 2.5e-7);
    report("silu(x) in [-60, 60], relative", largest_error(silus, exact_silu, -60, 60, true), 0x1p-21);
    check_rounding();
}
#endif

int main(void) {
    (void)exact_reciprocal, (void)exact_sigmoid, (void)exact_silu, (void)identity;
    if (!supported()) {
        printf("this processor does not have the instructions\n");
        return 0;
    }
    check_all();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

#if defined(__clang__) && (defined(TRAIN_AVX512) || defined(TRAIN_AVX2))
#pragma clang attribute pop
#endif
