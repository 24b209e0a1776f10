// What feeds the tensor cores: copies to shared memory, products of bf16, and f32 numbers as sums of bf16 numbers: of three to the last bit.

INLINE void copy16(const void* to, const char* from) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(address(to)), "l"(from));
}
// Zeros, unless `there`.
INLINE void copy16_or_zero(const void* to, const char* from, bool there) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(address(to)), "l"(from), "r"(there ? 16 : 0));
}
INLINE void end_copies() { asm volatile("cp.async.commit_group;"); }
template <int PENDING> INLINE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

INLINE void multiply(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit numbers, as products take them: each lane says where a row of one lies.
INLINE uint4 matrices(const void* row) {
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address(row)));
    return v;
}

// Those of matrices whose columns lie as rows.
INLINE uint4 turned(const void* row) {
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address(row)));
    return v;
}

// Two floats as a word of two bf16, the first in the low half.
INLINE u32 pair(float first, float second) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}
// Takes the next term off two floats.
INLINE u32 take_term(float& first, float& second) {
    const u32 word = pair(first, second);
    first -= __uint_as_float(word << 16);
    second -= __uint_as_float(word & 0xffff0000u);
    return word;
}

// 16 rows times 16 elements of COUNT pairs of eight columns, of up to three terms: all products that f32 would see, the smallest
// first. Sums are taken in turns, since one waits for its last product.
template <int A, int COUNT, int B> INLINE void multiply_terms(float (*c)[4], const uint4 (&a)[A], const uint4 (&b)[COUNT][B]) {
#pragma unroll
    for (int both = 2; both >= 0; both--) {
#pragma unroll
        for (int t = 0; t <= both; t++) {
            if (t >= A || both - t >= B) continue;
            const uint4 x = a[t];
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const uint4 y = b[i][both - t];
                multiply(c[2 * i], x.x, x.y, x.z, x.w, y.x, y.y);
                multiply(c[2 * i + 1], x.x, x.y, x.z, x.w, y.z, y.w);
            }
        }
    }
}
