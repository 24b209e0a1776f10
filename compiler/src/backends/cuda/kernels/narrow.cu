// Attention of many tokens whose queries, keys and values are stored as bf16, to which probabilities are rounded too, as frameworks do
// that run models in it. A block has QUERIES (tokens times the heads of one group) and walks over the keys that any of them
// attends to, in tiles in shared memory, copied one ahead (FlashAttention-2, Dao 2023).
//
// Generated: QUERIES and TOKENS (of a block), KEYS (of a tile). How tiles lie and are multiplied: narrow_warps.cu, or
// narrow_warpgroup.cu. A thread has parts of two rows of SETS sets.

// What scores are multiplied by to be exponents of two.
constexpr float UNIT = CAP > 0.0f ? 1.0f : SCALE * LOG2E;
// Below every score. What a row does not attend to has less.
constexpr float LOWEST = -1e30f;
constexpr int MOST = 0x7fffffff;

struct Tile {
    Rows<KEYS> k, v;
};
// Keys that any row attends to, and that all do, of those that are multiplied together.
struct Reach {
    int any, any_end, all, all_end;
};
struct Shared {
    Tile tiles[2];
    // Queries lie where the second tile will, if they leave for registers before it comes.
    Rows<KEPT ? 8 : QUERIES> q;
    int low[TOKENS], high[TOKENS];
    Reach reach[THREADS / 32];
};
static_assert(!KEPT || QUERIES <= 2 * KEYS, "queries fit a tile");

INLINE float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Where a thread's e-th number of a row is among its sums of two rows, eight apart.
INLINE constexpr int place(int half, int e) { return e / 2 * 4 + half * 2 + e % 2; }

// Rows to shared memory: `from` says where row r + more is. Zeros where there are none.
template <int COUNT, class From> INLINE void copy_rows(Rows<COUNT>& to, int there, bool aligned, From from) {
    if (!aligned) {
        // Read here, so that nothing of this branch is known before and kept in registers.
        int thread;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
#pragma unroll 1
        for (int i = thread; i < COUNT * WIDE; i += THREADS) {
            const int r = i / WIDE, d = i % WIDE;
            to.at(r, d / 8)[d % 8] = r < there && d < DIM ? ((const u16*)from(0, r))[d] : 0;
        }
        return;
    }
    constexpr int CHUNKS = WIDE / 8, STEP = THREADS / CHUNKS;
    constexpr bool EVEN = THREADS % CHUNKS == 0 && COUNT % STEP == 0;
    const int mine = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    u16* const first = to.at(mine, chunk);
#pragma unroll
    for (int r = 0; r < COUNT; r += STEP) {
        if (EVEN || (mine < STEP && r + mine < COUNT)) {
            static_assert(STEP % Rows<COUNT>::PERIOD == 0, "rows that a thread copies are permuted alike");
            const bool known = r + mine < there && (DIM == WIDE || chunk < DIM / 8);
            copy16_or_zero(first + r * Rows<COUNT>::PITCH, from(r, mine) + 16 * chunk, known);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) kernel(const __grid_constant__ Args args) {
    extern __shared__ __align__(1024) float4 memory[];
    Shared& shared = *(Shared*)memory;
    const int tokens = rows(args), blocks = (tokens + TOKENS - 1) / TOKENS;
    // The last tokens have the most keys: they go first.
    const int t0 = (blocks - 1 - blockIdx.x / GROUPS) * TOKENS, group = blockIdx.x % GROUPS;
    const int lane = threadIdx.x % 32;
    wait_for_inputs();
    let_dependents_start();

    const bool aligned = (((u64)args.p[0] | (u64)args.p[1] | (u64)args.p[2]) & 15) == 0;
    Rows<QUERIES>& q = *(Rows<QUERIES>*)(KEPT ? (void*)&shared.tiles[1] : &shared.q);
    copy_rows(q, smaller(TOKENS, tokens - t0) * GROUP, aligned,
              [&](int r, int more) { return query(args, t0 + (r + more) / GROUP, group * GROUP + (r + more) % GROUP); });
    int first = MOST, latest = 0, end = 0;
    Reach reach = {MOST, 0, 0, MOST};
    for (int i = lane; i < TOKENS; i += 32) {
        const bool there = t0 + i < tokens;
        const int low = there ? low_end(args, t0 + i) : 0, high = there ? high_end(args, t0 + i) : 0;
        if (threadIdx.x < 32) shared.low[i] = low, shared.high[i] = high;
        if (low < high) first = smaller(first, low), latest = larger(latest, low), end = larger(end, high);
        if (!there || (ALONE && (i < first_row(0) / GROUP || i > (first_row(SETS - 1) + 15) / GROUP))) continue;
        if (low < high) reach.any = smaller(reach.any, low), reach.any_end = larger(reach.any_end, high);
        reach.all = larger(reach.all, low), reach.all_end = smaller(reach.all_end, high);
    }
    first = __reduce_min_sync(ALL, first), end = __reduce_max_sync(ALL, end);
    shared.reach[threadIdx.x / 32] = {__reduce_min_sync(ALL, reach.any), __reduce_max_sync(ALL, reach.any_end),
                                      __reduce_max_sync(ALL, reach.all), __reduce_min_sync(ALL, reach.all_end)};

    auto load = [&](Tile& tile, int j0) {
        const char *const k = key(args, j0, group), *const v = value(args, j0, group);
        constexpr i64 PITCH = KV_PITCH * Row::SIZE;
        copy_rows(tile.k, end - j0, aligned, [&](int j, int more) { return k + more * PITCH + j * PITCH; });
        copy_rows(tile.v, end - j0, aligned, [&](int j, int more) { return v + more * PITCH + j * PITCH; });
    };
    // Where the next tile begins that any row attends to: rows of several sequences may be far apart.
    const bool together = __reduce_max_sync(ALL, latest) == first;
    auto next = [&](int j) {
        if (together) return j;
        int found = MOST;
        for (int i = lane; i < TOKENS; i += 32) {
            if (shared.high[i] > j) found = smaller(found, larger(shared.low[i], j));
        }
        return __reduce_min_sync(ALL, found);
    };
    if (first < end) load(shared.tiles[0], first);
    end_copies();
    wait_for_copies<0>();
    __syncthreads();
    Kept kept;
    kept.take(q);
    // Sums of two rows of each set, the largest scores of these, and what their weights sum up to in this thread.
    float acc[SETS][WIDE / 2] = {}, peak[SETS][2], sum[SETS][2] = {};
#pragma unroll
    for (int r = 0; r < 2 * SETS; r++) peak[r / 2][r % 2] = LOWEST;

    int turn = 0;
#pragma unroll 1
    for (int j0 = first, then; j0 < end; j0 = then, turn ^= 1) {
        const Tile& tile = shared.tiles[turn];
        wait_for_copies<0>();
        show_copies();
        __syncthreads();
        then = next(j0 + KEYS);
        if (then < end) load(shared.tiles[turn ^ 1], then);
        end_copies();
        const Reach reach = shared.reach[threadIdx.x / 32];
        // By a vote, so that lanes are known to stay together.
        if (ALONE && __all_sync(ALL, j0 + KEYS <= reach.any || j0 >= reach.any_end)) continue;
        float s[SETS][KEYS / 2] = {};
        scores(s, kept, q, tile.k);
        if constexpr (CAP > 0.0f) {
#pragma unroll
            for (int e = 0; e < SETS * KEYS / 2; e++) {
                float& x = s[e / (KEYS / 2)][e % (KEYS / 2)];
                x = bend(x * SCALE);
            }
        }
        if (j0 < reach.all || j0 + KEYS > reach.all_end) {
#pragma unroll
            for (int r = 0; r < 2 * SETS; r++) {
                const int token = (first_row(r / 2) + r % 2 * 8 + lane / 4) / GROUP;
                const int low = token < TOKENS ? shared.low[token] : 0, high = token < TOKENS ? shared.high[token] : 0;
#pragma unroll
                for (int e = 0; e < KEYS / 4; e++) {
                    const int key = j0 + e / 2 * 8 + lane % 4 * 2 + e % 2;
                    if (key < low || key >= high) s[r / 2][place(r % 2, e)] = -__int_as_float(0x7f800000);
                }
            }
        }
        // A row's peak stays until scores pass it by so much that weights grow large: few tiles change what was summed.
        float top[SETS][2];
        bool passed = false;
#pragma unroll
        for (int r = 0; r < 2 * SETS; r++) {
            float some[2] = {peak[r / 2][r % 2], peak[r / 2][r % 2]};
#pragma unroll
            for (int e = 0; e < KEYS / 4; e++) some[e % 2] = fmaxf(some[e % 2], s[r / 2][place(r % 2, e)]);
            float x = fmaxf(some[0], some[1]);
            x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
            x = fmaxf(x, __shfl_xor_sync(ALL, x, 2));
            top[r / 2][r % 2] = x;
            if ((x - peak[r / 2][r % 2]) * UNIT > 8.0f) passed = true;
        }
        if (__any_sync(ALL, passed)) {
#pragma unroll
            for (int r = 0; r < 2 * SETS; r++) {
                const float shrink = power_of_two((peak[r / 2][r % 2] - top[r / 2][r % 2]) * UNIT);
                peak[r / 2][r % 2] = top[r / 2][r % 2];
                sum[r / 2][r % 2] *= shrink;
#pragma unroll
                for (int e = 0; e < WIDE / 4; e++) acc[r / 2][place(r % 2, e)] *= shrink;
            }
        }
#pragma unroll
        for (int r = 0; r < 2 * SETS; r++) {
            const float from = -peak[r / 2][r % 2] * UNIT;
#pragma unroll
            for (int e = 0; e < KEYS / 4; e++) {
                float& x = s[r / 2][place(r % 2, e)];
                x = power_of_two(fmaf(x, UNIT, from));
                sum[r / 2][r % 2] += x;
            }
        }
        add_values(acc, s, tile.v);
    }
#pragma unroll
    for (int r = 0; r < 2 * SETS; r++) {
        const int row = first_row(r / 2) + r % 2 * 8 + lane / 4, t = t0 + row / GROUP, odd = lane % 2;
        const bool there = row < TOKENS * GROUP && t < tokens;
        char* const out = output(args, there ? t : 0, group * GROUP + row % GROUP);
        const float total = over_lanes<Add>(sum[r / 2][r % 2], 4), scale = total > 0.0f ? __fdividef(1.0f, total) : 0.0f;
#pragma unroll
        for (int d = 0; d < WIDE / 4; d += 4) {
            // Lanes trade pairs with their neighbours, so that each has four elements that lie together.
            float x[4];
#pragma unroll
            for (int e = 0; e < 4; e++) x[e] = acc[r / 2][place(r % 2, d + e)] * scale;
            const float a = __shfl_xor_sync(ALL, odd ? x[0] : x[2], 1), b = __shfl_xor_sync(ALL, odd ? x[1] : x[3], 1);
            const float four[4] = {odd ? a : x[0], odd ? b : x[1], odd ? x[2] : a, odd ? x[3] : b};
            const int at = (d / 2 + odd) * 8 + lane % 4 / 2 * 4;
            if (there && at < DIM) Output::store(out, at, four);
        }
    }
}
