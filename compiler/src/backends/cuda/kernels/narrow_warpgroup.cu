// Attention's products by warpgroups (`wgmma`), 64 queries each, with keys and values where they lie in shared memory.
//
// Generated: `wgmma_keys`, `wgmma_values`, which turns what lies in rows.

constexpr int THREADS = 2 * QUERIES, SETS = 1, WIDE = DIM;
// Blocks that a multiprocessor has registers for. Whether warps multiply by themselves, and whether queries stay in registers: NVRTC 13.0
// gives those of a first operand that lives on to another product as well.
constexpr int RESIDENT = 256 / QUERIES;
constexpr bool ALONE = false, KEPT = false;

template <int COUNT> struct Rows {
    // Panels of 64 elements, 128 bytes, within which chunks of 8 are permuted as products expect it, every eighth row alike.
    static constexpr int PITCH = 64, PERIOD = 8;
    u16 x[WIDE / 64][COUNT][64];
    INLINE u16* at(int row, int chunk) { return &x[chunk / 8][row][(chunk % 8 ^ row % 8) * 8]; }
    INLINE const u16* at(int row, int chunk) const { return &x[chunk / 8][row][(chunk % 8 ^ row % 8) * 8]; }
};

struct Kept {
    INLINE void take(const Rows<QUERIES>&) {}
};

// The first of the 16 rows that this warp has.
INLINE int first_row(int) { return threadIdx.x / 32 * 16; }
// What was copied to shared memory is seen by products of whoever passes the next barrier.
INLINE void show_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Matrices in shared memory, as words to which distances can be added: 16 elements of rows; 16 rows that are to be turned, of which
// eight lie together in 1024 bytes, and each panel.
template <int COUNT> INLINE u64 rows_at(const Rows<COUNT>& rows, int row, int d) {
    return rows_at<128>(&rows.x) + (d / 4 * COUNT * 128 + row * 128 + d % 4 * 32) / 16;
}
INLINE u64 values_at(const Rows<KEYS>& values, int row) {
    const u64 first = place_of(&values.x) | (u64)(KEYS * 128 / 16) << 16 | (u64)(1024 / 16) << 32 | (u64)1 << 62;
    return first + row * 128 / 16;
}
// Sums are not read before products have ended.
template <int COUNT> INLINE void finish_products(float (&sums)[COUNT]) {
    end_products();
    wait_for_products<0>();
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

INLINE void scores(float (&s)[SETS][KEYS / 2], const Kept&, const Rows<QUERIES>& q, const Rows<KEYS>& keys) {
    // Known to be the same in all threads of the warpgroup.
    const int group = __shfl_sync(ALL, threadIdx.x / 128, 0);
    begin_products();
#pragma unroll
    for (int d = 0; d < WIDE / 16; d++) {
        wgmma_keys(s[0], rows_at(q, 64 * group, d), rows_at(keys, 0, d), d > 0);
    }
    finish_products(s[0]);
}
INLINE void add_values(float (&acc)[SETS][WIDE / 2], const float (&s)[SETS][KEYS / 2], const Rows<KEYS>& values) {
    u32 p[KEYS / 16][4];
#pragma unroll
    for (int e = 0; e < KEYS / 4; e++) p[e / 4][e % 4] = pair(s[0][2 * e], s[0][2 * e + 1]);
    begin_products();
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) wgmma_values(acc[0], p[j], values_at(values, 16 * j), true);
    finish_products(acc[0]);
}
