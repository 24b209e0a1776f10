// What every kernel may use. No headers: NVRTC's builtins and inline PTX alone. Arguments are `struct Args`, generated:
// operands, then the symbols' values, counters (zero between launches), scratch memory, and the step's inputs, which end
// where the symbols' values begin.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

constexpr u32 ALL = 0xffffffffu;

#define INLINE __device__ __forceinline__

// A matrix in memory, as copies of its tiles want it (`CUtensorMap`).
struct __align__(64) TensorMap {
    u64 words[16];
};

// Programmatic dependent launch: a kernel may start before those it depends on have ended. It reads weights, symbols and
// nothing else before `wait_for_inputs`, and writes nothing.
INLINE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
INLINE void let_dependents_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

INLINE u32 address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Elements: narrow floats are widened when loaded and rounded to even when stored.
INLINE float widen_bf16(u32 low) { return __uint_as_float(low << 16); }
INLINE float widen_f16(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
INLINE u16 narrow_bf16(float x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
INLINE u16 narrow_f16(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
INLINE float round_bf16(float x) { return widen_bf16(narrow_bf16(x)); }
INLINE float round_f16(float x) { return widen_f16(narrow_f16(x)); }

INLINE float load_f32(const char* p, i64 i) { return ((const float*)p)[i]; }
INLINE int load_i32(const char* p, i64 i) { return ((const int*)p)[i]; }
INLINE float load_bf16(const char* p, i64 i) { return widen_bf16(((const u16*)p)[i]); }
INLINE float load_f16(const char* p, i64 i) { return widen_f16(((const u16*)p)[i]); }
INLINE bool load_bool(const char* p, i64 i) { return p[i] != 0; }
INLINE void store_f32(char* p, i64 i, float x) { ((float*)p)[i] = x; }
INLINE void store_i32(char* p, i64 i, int x) { ((int*)p)[i] = x; }
INLINE void store_bf16(char* p, i64 i, float x) { ((u16*)p)[i] = narrow_bf16(x); }
INLINE void store_f16(char* p, i64 i, float x) { ((u16*)p)[i] = narrow_f16(x); }
INLINE void store_bool(char* p, i64 i, bool x) { p[i] = x; }

// Four neighbours from element `i` on: at once where they lie so.
INLINE float4 four_f32(const char* p) { return *(const float4*)p; }
INLINE float4 four_bf16(const char* p) {
    const uint2 v = *(const uint2*)p;
    return make_float4(widen_bf16(v.x), __uint_as_float(v.x & 0xffff0000u), widen_bf16(v.y), __uint_as_float(v.y & 0xffff0000u));
}
INLINE float4 four_f16(const char* p) {
    const uint2 v = *(const uint2*)p;
    return make_float4(widen_f16((u16)v.x), widen_f16((u16)(v.x >> 16)), widen_f16((u16)v.y), widen_f16((u16)(v.y >> 16)));
}
INLINE int4 four_i32(const char* p) { return *(const int4*)p; }
INLINE uchar4 four_bool(const char* p) { return *(const uchar4*)p; }
INLINE void store_four_f32(char* p, const float (&x)[4]) { *(float4*)p = make_float4(x[0], x[1], x[2], x[3]); }
INLINE void store_four_i32(char* p, const int (&x)[4]) { *(int4*)p = make_int4(x[0], x[1], x[2], x[3]); }
INLINE void store_four_bool(char* p, const bool (&x)[4]) { *(uchar4*)p = make_uchar4(x[0], x[1], x[2], x[3]); }
INLINE void store_four_bf16(char* p, const float (&x)[4]) {
    const u32 low = narrow_bf16(x[0]) | (u32)narrow_bf16(x[1]) << 16;
    *(uint2*)p = make_uint2(low, narrow_bf16(x[2]) | (u32)narrow_bf16(x[3]) << 16);
}
INLINE void store_four_f16(char* p, const float (&x)[4]) {
    const u32 low = narrow_f16(x[0]) | (u32)narrow_f16(x[1]) << 16;
    *(uint2*)p = make_uint2(low, narrow_f16(x[2]) | (u32)narrow_f16(x[3]) << 16);
}
#define FOURS(DTYPE, T, BYTES)                                            \
    INLINE void load_##DTYPE(const char* p, i64 i, T(&x)[4]) {            \
        p += i * BYTES;                                                   \
        if (((u64)p & (4 * BYTES - 1)) == 0) {                            \
            const auto v = four_##DTYPE(p);                               \
            x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;               \
            return;                                                       \
        }                                                                 \
        _Pragma("unroll") for (int e = 0; e < 4; e++) x[e] = load_##DTYPE(p, e); \
    }                                                                     \
    INLINE void load_##DTYPE(const char* p, i64 i, T(&x)[1]) { x[0] = load_##DTYPE(p, i); } \
    INLINE void store_##DTYPE(char* p, i64 i, const T(&x)[1]) { store_##DTYPE(p, i, x[0]); } \
    INLINE void store_##DTYPE(char* p, i64 i, const T(&x)[4]) {           \
        p += i * BYTES;                                                   \
        if (((u64)p & (4 * BYTES - 1)) == 0) return store_four_##DTYPE(p, x); \
        _Pragma("unroll") for (int e = 0; e < 4; e++) store_##DTYPE(p, e, x[e]); \
    }                                                                     \
    struct Element_##DTYPE {                                              \
        static constexpr int SIZE = BYTES;                          \
        template <class X> static INLINE void load(const char* p, i64 i, X& x) { load_##DTYPE(p, i, x); } \
        template <class X> static INLINE void store(char* p, i64 i, const X& x) { store_##DTYPE(p, i, x); } \
    };
FOURS(f32, float, 4)
FOURS(i32, int, 4)
FOURS(bf16, float, 2)
FOURS(f16, float, 2)
FOURS(bool, bool, 1)

INLINE float larger(float a, float b) { return a > b ? a : b; }
INLINE int larger(int a, int b) { return a > b ? a : b; }
INLINE float smaller(float a, float b) { return a < b ? a : b; }
INLINE int smaller(int a, int b) { return a < b ? a : b; }

// Sine and cosine, reduced in f64 (Cody and Waite 1980) so that the positions of long sequences keep their digits, and
// without the table that the library's functions keep in local memory. Polynomials of Cephes `sin.c`.
INLINE float quarter(double r, bool odd) {
    const double z = r * r;
    double s = 1.58962301576546568060e-10, c = -1.13585365213876817300e-11;
    s = fma(s, z, -2.50507477628578072866e-8), c = fma(c, z, 2.08757008419747316778e-9);
    s = fma(s, z, 2.75573136213857245213e-6), c = fma(c, z, -2.75573141792967388112e-7);
    s = fma(s, z, -1.98412698295895385996e-4), c = fma(c, z, 2.48015872888517045348e-5);
    s = fma(s, z, 8.33333333332211858878e-3), c = fma(c, z, -1.38888888888730564116e-3);
    s = fma(s, z, -1.66666666666666307295e-1), c = fma(c, z, 4.16666666666665929218e-2);
    s = fma(s * z, r, r), c = fma(c, z * z, fma(-0.5, z, 1.0));
    return (float)(odd ? c : s);
}
INLINE float turn(float x, int shift) {
    const double n = rint((double)x * 0.63661977236758134308);
    const double r = fma(n, -6.12323399573676603587e-17, fma(n, -1.57079632679489655800, (double)x));
    const int q = (int)((i64)n + shift) & 3;
    const float y = quarter(r, q & 1);
    return q & 2 ? -y : y;
}
INLINE float sine(float x) { return turn(x, 0); }
INLINE float cosine(float x) { return turn(x, 1); }

// Reductions in fixed trees. `Row` is the threads that share a row: 1, 32, or a whole block.
struct Add {
    template <class T> static INLINE T join(T a, T b) { return a + b; }
};
struct Max {
    template <class T> static INLINE T join(T a, T b) { return larger(a, b); }
};
template <class Op, class T> INLINE T join(T sum, T x) { return Op::join(sum, x); }
template <class Op, class T> INLINE T join(T sum, const T (&x)[4]) {
    return Op::join(sum, Op::join(Op::join(x[0], x[1]), Op::join(x[2], x[3])));
}
template <class Op, class T> INLINE T over_lanes(T x, int lanes = 32) {
    for (int d = lanes / 2; d > 0; d /= 2) x = Op::join(x, __shfl_xor_sync(ALL, x, d));
    return x;
}
template <class Op, int THREADS, class T> INLINE T over_row(T x) {
    if constexpr (THREADS == 1) return x;
    x = over_lanes<Op>(x);
    if constexpr (THREADS > 32) {
        __shared__ T warps[THREADS / 32];
        __syncthreads();
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
        __syncthreads();
        x = over_lanes<Op>(warps[threadIdx.x % (THREADS / 32)], THREADS / 32);
    }
    return x;
}

// What codes of BITS bits stand for, for a row in memory (`ir::ops::FakeQuantize`), by the threads that wrote it.
template <int BITS, int GROUP, int THREADS> INLINE void round_to_codes(float* row, int groups, int lane) {
    constexpr float MOST = (1 << (BITS - 1)) - 1;
    if constexpr (THREADS > 32) {
        __syncthreads();
    } else {
        __syncwarp();
    }
    for (int g = lane; g < groups; g += THREADS) {
        float* const x = row + g * GROUP;
        float peak = 0.0f;
#pragma unroll 1
        for (int i = 0; i < GROUP; i++) peak = x[i] != x[i] ? x[i] : larger(peak, fabsf(x[i]));
        const float to_code = MOST / peak, scale = to_code > 3.4028235e38f ? 0.0f : peak / MOST;
#pragma unroll 1
        for (int i = 0; i < GROUP; i++) x[i] = scale == 0.0f ? 0.0f : scale * rintf(x[i] * to_code);
    }
}
