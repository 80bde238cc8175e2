/* Mathematical functions, for WebAssembly (math.c). */
#ifndef MATH_H
#define MATH_H

#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()
#define isnan(x) __builtin_isnan(x)
#define isfinite(x) __builtin_isfinite(x)

static inline double sqrt(double x) { return __builtin_sqrt(x); } /* an instruction */
double exp(double x);
double pow(double x, double y); /* for x > 0 */
double cos(double x);
double sin(double x);
float nextafterf(float x, float to);

#endif
