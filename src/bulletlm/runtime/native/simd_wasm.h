/* Sixteen-lane vectors and dot products with the 128-bit vectors of WebAssembly.
 *
 * There is no dot product for bytes, only one for pairs of 16-bit integers (i32x4_dot_i16x8). So a 16-bit activation is multiplied as a
 * whole, and the 16 bytes of a tile vector (four rows x four inputs) are used as eight 16-bit lanes: a shift and a mask leave one nibble or
 * byte of each. Every product and sum is exact.
 *
 * There is no fused multiply-add either, so all results equal those of simd_portable.h bit by bit. */

#include <wasm_simd128.h>

typedef struct {
    v128_t v[4]; /* four rows each */
} f32x16;

#define REGISTER_SUMS 2 /* x86-64 has sixteen registers */

#define EACH_VECTOR UNROLL for (int j = 0; j < 4; j++)

static inline f32x16 f32x16_zero(void) {
    f32x16 r;
    EACH_VECTOR r.v[j] = wasm_f32x4_const_splat(0);
    return r;
}
static inline f32x16 f32x16_load(const float *p) {
    f32x16 r;
    EACH_VECTOR r.v[j] = wasm_v128_load(p + 4 * j);
    return r;
}
static inline void f32x16_store(float *p, f32x16 a) { EACH_VECTOR wasm_v128_store(p + 4 * j, a.v[j]); }
static inline f32x16 f32x16_add(f32x16 a, f32x16 b) {
    EACH_VECTOR a.v[j] = wasm_f32x4_add(a.v[j], b.v[j]);
    return a;
}
static inline f32x16 f32x16_from_i16(const int16_t *p) {
    f32x16 r;
    EACH_VECTOR {
        v128_t wide = wasm_i32x4_load16x4(p + 4 * j);
        __asm__("" : "+r"(wide)); /* clang 14 would combine the two conversions to one that WebAssembly does not have, lane by lane */
        r.v[j] = wasm_f32x4_convert_i32x4(wide);
    }
    return r;
}
static inline f32x16 f32x16_fma(f32x16 acc, f32x16 a, float b) {
    const v128_t factor = wasm_f32x4_splat(b);
    EACH_VECTOR acc.v[j] = wasm_f32x4_add(acc.v[j], wasm_f32x4_mul(a.v[j], factor));
    return acc;
}

/* Four float16 numbers. The sign is extended over the high half; shifted by 13, exponent and fraction are where float32 has them, and the
 * mask clears the copies of the sign between. */
static inline v128_t f32x4_from_f16(const uint8_t *p) {
    v128_t bits = wasm_v128_and(wasm_i32x4_shl(wasm_i32x4_load16x4(p), 13), wasm_i32x4_const_splat((int32_t)0x8fffe000));
    return wasm_f32x4_mul(bits, wasm_f32x4_const_splat(0x1p112f));
}
static inline f32x16 f32x16_from_f16(const uint8_t *p) {
    f32x16 r;
    EACH_VECTOR r.v[j] = f32x4_from_f16(p + 8 * j);
    return r;
}

/* A pair of neighbouring 16-bit lanes holds inputs 0 and 2, or 1 and 3, of four rows. The activations are stored in that order, so that
 * such a pair of them is one 32-bit load. */
#define Q16_ORDER(i) (((i) & ~3) | ((i) & 1) << 1 | ((i) >> 1 & 1))

/* acc + weight scales * activation scale * the integer sums, for four rows. */
static inline v128_t add_scaled(v128_t acc, v128_t sums, const uint8_t *scales, v128_t scale) {
    v128_t factor = wasm_f32x4_mul(f32x4_from_f16(scales), scale);
    return wasm_f32x4_add(acc, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sums), factor));
}

/* Not inlined: a browser compiles a small function that is called often to fast code early in the first prompt. */
#define NOT_INLINE __attribute__((noinline))

#define DOT(acc, w, x) ((acc) = wasm_i32x4_add(acc, wasm_i32x4_dot_i16x8(w, x)))
#define PAIR(p) wasm_v128_load32_splat(p)

/* A constant vector in a register: browsers would build one that they know to be constant again for every use. */
static inline v128_t kept(v128_t constant) {
    __asm__("" : "+r"(constant));
    return constant;
}

/* V8 moves arithmetic down to its last use, but no load or store. With the sums in registers it would load all weights and activations of
 * a block before it computes anything, and have no registers for them. So the sums of this struct are in memory: the compilers do not know
 * that no weight is stored there (HIDE), and keep the order. It is 1.2 times as fast. */
struct sums {
    f32x16 scaled;  /* of the blocks so far */
    v128_t part[4]; /* of the block so far, as integers */
};
#define HIDE(pointer) __asm__ volatile("" : "+r"(pointer) : : "memory")

static NOT_INLINE f32x16 dot_bq4(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    (void)turbo; /* q16 holds the 8-bit integers then */
    const v128_t nibble = kept(wasm_i16x8_const_splat(15));
    struct sums memory = {.scaled = f32x16_zero()}, *sums = &memory;
    HIDE(sums);
    for (int32_t b = 0; b < blocks; b++, tile += 256, scales += 32, x++) {
        const v128_t scale = wasm_f32x4_splat(x->scale), offset = wasm_i32x4_splat(x->offset_bq4);
        UNROLL for (int i = 0; i < 4; i++) {
            const int16_t *q = x->q16 + 4 * i;
            const v128_t x0 = PAIR(q), x1 = PAIR(q + 2), x16 = PAIR(q + 16), x17 = PAIR(q + 18);
            EACH_VECTOR {
                const v128_t w = wasm_v128_load(tile + 64 * i + 16 * j);
                v128_t sum = i > 0 ? sums->part[j] : offset;
                DOT(sum, wasm_v128_and(w, nibble), x0);
                DOT(sum, wasm_v128_and(wasm_u16x8_shr(w, 8), nibble), x1);
                DOT(sum, wasm_v128_and(wasm_u16x8_shr(w, 4), nibble), x16);
                DOT(sum, wasm_u16x8_shr(w, 12), x17);
                if (i < 3)
                    sums->part[j] = sum;
                else
                    sums->scaled.v[j] = add_scaled(sums->scaled.v[j], sum, scales + 8 * j, scale);
            }
        }
    }
    HIDE(sums);
    return sums->scaled;
}

/* The weights are stored as unsigned bytes, 128 too high (bq8_xor). */
static NOT_INLINE f32x16 dot_bq8(const uint8_t *tile, const uint8_t *scales, const struct act_block *x, int32_t blocks, bool turbo) {
    (void)turbo;
    const v128_t byte = kept(wasm_i16x8_const_splat(255));
    struct sums memory = {.scaled = f32x16_zero()}, *sums = &memory;
    HIDE(sums);
    for (int32_t b = 0; b < blocks; b++, tile += 512, scales += 32, x++) {
        const v128_t scale = wasm_f32x4_splat(x->scale), offset = wasm_i32x4_splat(x->offset_bq8);
        UNROLL for (int i = 0; i < 8; i += 2) {
            const int16_t *q = x->q16 + 4 * i;
            const v128_t x0 = PAIR(q), x1 = PAIR(q + 2), x4 = PAIR(q + 4), x5 = PAIR(q + 6);
            EACH_VECTOR {
                const v128_t w = wasm_v128_load(tile + 64 * i + 16 * j), next = wasm_v128_load(tile + 64 * (i + 1) + 16 * j);
                v128_t sum = i > 0 ? sums->part[j] : offset;
                DOT(sum, wasm_v128_and(w, byte), x0);
                DOT(sum, wasm_u16x8_shr(w, 8), x1);
                DOT(sum, wasm_v128_and(next, byte), x4);
                DOT(sum, wasm_u16x8_shr(next, 8), x5);
                if (i < 6)
                    sums->part[j] = sum;
                else
                    sums->scaled.v[j] = add_scaled(sums->scaled.v[j], sum, scales + 8 * j, scale);
            }
        }
    }
    HIDE(sums);
    return sums->scaled;
}
