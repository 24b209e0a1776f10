// How weights are stored: 16 bytes of a row as numbers, or cells as tensor cores take them (`ir::abi::cuda::Cell`).

// 16 bytes of weights, past the caches: each is read once.
INLINE uint4 stream(const char* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// 16 bytes of weights as numbers.
struct F32 {
    static constexpr int BYTES = 4, CHUNK = 4;
    static INLINE void widen(uint4 v, float* to) {
        to[0] = __uint_as_float(v.x);
        to[1] = __uint_as_float(v.y);
        to[2] = __uint_as_float(v.z);
        to[3] = __uint_as_float(v.w);
    }
};
struct BF16 {
    static constexpr int BYTES = 2, CHUNK = 8;
    static INLINE void widen(uint4 v, float* to) {
        const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[2 * i] = __uint_as_float(words[i] << 16);
            to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
};
struct F16 {
    static constexpr int BYTES = 2, CHUNK = 8;
    static INLINE void widen(uint4 v, float* to) {
        const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[2 * i] = widen_f16((u16)words[i]);
            to[2 * i + 1] = widen_f16((u16)(words[i] >> 16));
        }
    }
};

// Cells: `b` is the second operand of two m16n8k16 products, over rows 32 h .. of the cell at `cell`. Codes of few bits become
// bf16 numbers without rounding.
// `bits & mask | base` in one instruction, which takes one constant at most.
template <u32 MASK> INLINE u32 both(u32 bits, u32 base) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(bits), "n"(MASK), "r"(base));
    return d;
}
// Two bf16 numbers, 128 each, in a register of their own.
INLINE u32 hundred_and_28s() {
    u32 d;
    asm("mov.b32 %0, 0x43004300;" : "=r"(d));
    return d;
}
INLINE u32 fma_bf16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

struct CellBF16 {
    static constexpr int DEPTH = 64, CODES = 1024, GROUPS = 0, GROUP = 1;
    static INLINE void decode(const char* cell, int lane, int h, u32* b) {
        const uint4 v = matrices(cell + 512 * h + 16 * lane);
        b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
    }
};
template <int OF> struct Cell8 {
    static constexpr int DEPTH = 64, CODES = 512, GROUP = OF, GROUPS = OF < DEPTH ? DEPTH / OF : 1;
    static INLINE void decode(const char* cell, int lane, int h, u32* b) {
        const uint2 v = *(const uint2*)(cell + 16 * lane + 8 * h);
        const u32 words[2] = {v.x, v.y}, base = hundred_and_28s();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Seven bits above 128, less 128, or 256 where the sign is set.
            const u32 bits = words[i / 2] >> (8 * (i % 2));
            b[i] = fma_bf16x2(both<0x00800080u>(bits, base), 0xbf80bf80u, both<0x007f007fu>(bits, base));
        }
    }
};
// Floats of 8 bits (E4M3) have four bits of exponent where bf16 has eight, and half as far from zero; 2^120 apart, numbers
// below the normal ones included.
template <int OF> struct CellE4M3 : Cell8<OF> {
    static INLINE void decode(const char* cell, int lane, int h, u32* b) {
        const uint2 v = *(const uint2*)(cell + 16 * lane + 8 * h);
        const u32 words[2] = {v.x, v.y};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 word = words[i / 2], sign = (i % 2 ? word : word << 8) & 0x80008000u;
            b[i] = fma_bf16x2(both<0x07f007f0u>(i % 2 ? word >> 4 : word << 4, sign), 0x7b807b80u, 0x80008000u);
        }
    }
};
template <int OF> struct Cell4 {
    static constexpr int DEPTH = 128, CODES = 512, GROUP = OF, GROUPS = OF < DEPTH ? DEPTH / OF : 1;
    static INLINE void decode(const char* cell, int lane, int h, u32* b) {
        const u32 word = *(const u32*)(cell + 16 * lane + 4 * h), base = hundred_and_28s();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Four bits above 128, less 136.
            b[i] = fma_bf16x2(both<0x000f000fu>(word >> (4 * i), base), 0x3f803f80u, 0xc308c308u);
        }
    }
};
