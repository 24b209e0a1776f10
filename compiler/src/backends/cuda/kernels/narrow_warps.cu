// Attention's products by warps (`mma.sync`), each with queries of its own.

constexpr int THREADS = 128, SETS = QUERIES / 64;
// Elements of a head, padded with zeros.
constexpr int WIDE = (DIM + 15) / 16 * 16;
// Blocks that a multiprocessor has registers for. Whether warps multiply by themselves, and whether queries stay in registers.
constexpr int RESIDENT = SETS == 1 && WIDE <= 128 ? 3 : 2;
constexpr bool ALONE = true, KEPT = SETS * WIDE <= 128;

template <int COUNT> struct Rows {
    // Elements between rows, of which the odd 16 bytes keep eight in different banks. All lie alike.
    static constexpr int PITCH = WIDE + 8, PERIOD = 1;
    u16 x[COUNT][PITCH];
    // Eight elements of a row.
    INLINE u16* at(int row, int chunk) { return &x[row][8 * chunk]; }
    INLINE const u16* at(int row, int chunk) const { return &x[row][8 * chunk]; }
};

// The first of a set's 16 rows that this warp has.
INLINE int first_row(int set) { return threadIdx.x / 32 * (16 * SETS) + 16 * set; }
INLINE uint4 queries(const Rows<QUERIES>& q, int set, int d) {
    const int lane = threadIdx.x % 32;
    return matrices(q.at(first_row(set) + lane % 16, 2 * d + lane / 16));
}
struct Kept {
    uint4 x[KEPT ? WIDE / 16 : 1][SETS];
    INLINE void take(const Rows<QUERIES>& q) {
        if constexpr (!KEPT) return;
#pragma unroll
        for (int i = 0; i < WIDE / 16 * SETS; i++) x[KEPT ? i / SETS : 0][i % SETS] = queries(q, i % SETS, i / SETS);
    }
};
INLINE void show_copies() {}

INLINE void scores(float (&s)[SETS][KEYS / 2], const Kept& kept, const Rows<QUERIES>& q, const Rows<KEYS>& keys) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int d = 0; d < WIDE / 16; d++) {
        uint4 a[SETS];
#pragma unroll
        for (int i = 0; i < SETS; i++) a[i] = KEPT ? kept.x[KEPT ? d : 0][i] : queries(q, i, d);
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            const uint4 k = matrices(keys.at(16 * j + lane / 16 * 8 + lane % 8, 2 * d + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < SETS; i++) {
                multiply(&s[i][8 * j], a[i].x, a[i].y, a[i].z, a[i].w, k.x, k.y);
                multiply(&s[i][8 * j + 4], a[i].x, a[i].y, a[i].z, a[i].w, k.z, k.w);
            }
        }
    }
}
INLINE void add_values(float (&acc)[SETS][WIDE / 2], const float (&s)[SETS][KEYS / 2], const Rows<KEYS>& values) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        u32 p[SETS][4];
#pragma unroll
        for (int e = 0; e < 4 * SETS; e++) p[e / 4][e % 4] = pair(s[e / 4][8 * j + e % 4 * 2], s[e / 4][8 * j + e % 4 * 2 + 1]);
#pragma unroll
        for (int d = 0; d < WIDE / 16; d++) {
            const uint4 v = turned(values.at(16 * j + lane % 16, 2 * d + lane / 16));
#pragma unroll
            for (int i = 0; i < SETS; i++) {
                multiply(&acc[i][8 * d], p[i][0], p[i][1], p[i][2], p[i][3], v.x, v.y);
                multiply(&acc[i][8 * d + 4], p[i][0], p[i][1], p[i][2], p[i][3], v.z, v.w);
            }
        }
    }
}
