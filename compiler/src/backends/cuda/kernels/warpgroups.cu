// Many rows times weights in cells by warpgroups (`wgmma`), each 64 columns of the weights by all rows of the block: the
// weights are the first operand, since its rows are as many whatever the tile. Weights and rows of bf16 come by asynchronous
// copies, rows of f32 through registers, where they are taken apart into terms. Sums leave through shared memory, so that
// neighbours are stored together.
//
// Generated, beside what cells need: TM (rows of a block), STAGES, ROW (bytes between rows); `wgmma`, `rows_to_copy`.

constexpr int THREADS = 256, GROUPS_OF_8 = 16, COLUMNS = 128 / WEIGHTS, TILES = (N + 7) / 8;
// Elements of a row that are multiplied between barriers.
constexpr int STEP = TERMS == 1 ? 64 : 32, CHUNKS = STEP / 8;
constexpr int CELL_STEPS = Codec::DEPTH / STEP, STEPS = KP / STEP;
// Products that may still run while the next are prepared. Scales need their sums.
constexpr int RUNNING = Codec::GROUPS == 0 ? 1 : 0;
constexpr int AHEAD = STAGES - 1 - RUNNING;
constexpr int PITCH = 132;

struct Shared {
    // Rows of a step, whose chunks of 8 elements are permuted as products expect it where rows are of so many bytes.
    uint4 x[STAGES][TERMS][TM][CHUNKS];
    char weights[STAGES][GROUPS_OF_8][CELL];
};

// Where a matrix lies in shared memory: that of the weights in 8 x 8 blocks of 128 bytes, the next along k right behind; that of
// the rows in rows of a step.
INLINE u64 weights_at(const void* at) { return (u64)(address(at) >> 4) | (u64)(128 >> 4) << 16 | (u64)(CELL >> 4) << 32; }
INLINE u64 rows_at(const void* at) {
    return (u64)(address(at) >> 4) | (u64)1 << 16 | (u64)(STEP * 2 * 8 >> 4) << 32 | (u64)(STEP == 64 ? 1 : 2) << 62;
}
INLINE int permuted(int m, int chunk) { return STEP == 64 ? chunk ^ m % 8 : chunk ^ m / 2 % 4; }
INLINE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> INLINE void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Eight neighbours of a row, rounded to bf16.
INLINE uint4 eight(const Args& args, int m, int k) {
    const float4 a = input4(args, m, k), b = input4(args, m, k + 4);
    return make_uint4(pair(a.x, a.y), pair(a.z, a.w), pair(b.x, b.y), pair(b.z, b.w));
}
// What was stored to shared memory is seen by products of whoever passes the next barrier.
INLINE void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Args args) {
    extern __shared__ __align__(1024) float4 memory[];
    Shared& shared = *(Shared*)memory;
    const int m_end = rows(args), blocks = (m_end + TM - 1) / TM;
    const int m0 = blockIdx.x % blocks * TM, tile0 = blockIdx.x / blocks * (COLUMNS / 8);
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32 * 2;
    // The warpgroup's first, known to be the same in all its threads.
    const int mine = __shfl_sync(ALL, threadIdx.x / 128 * 8, 0);

    auto fetch_weights = [&](int step) {
        if (step % CELL_STEPS != 0 || step >= STEPS) return;
        const int cell = step / CELL_STEPS;
        constexpr int EACH = CELL / 16;
#pragma unroll
        for (int i = threadIdx.x; i < GROUPS_OF_8 * EACH; i += THREADS) {
            // Tiles beyond the last are computed from it and not stored.
            const int g = i / EACH, tile = smaller(tile0 + g / WEIGHTS, TILES - 1);
            const char* const from = weight(args, g % WEIGHTS) + ((i64)tile * CELLS + cell) * CELL;
            copy16(&shared.weights[cell % STAGES][g][i % EACH * 16], from + i % EACH * 16);
        }
    };
    const char* const copied = rows_to_copy(args);
    auto fetch_rows = [&](int step) {
        if (TERMS > 1 || step >= STEPS) return;
#pragma unroll
        for (int i = 0; i < TM * CHUNKS / THREADS; i++) {
            const int at = threadIdx.x + i * THREADS, m = m0 + at / CHUNKS, k = step * STEP + at % CHUNKS * 8;
            uint4* const to = &shared.x[step % STAGES][0][at / CHUNKS][permuted(at / CHUNKS, at % CHUNKS)];
            if (copied) {
                const bool there = m < m_end && k < K;
                copy16_or_zero(to, copied + (there ? (i64)m * ROW + k * 2 : 0), there);
            } else {
                *to = m < m_end ? eight(args, m, k) : make_uint4(0, 0, 0, 0);
            }
        }
    };
    constexpr int EIGHTS = TM * CHUNKS / THREADS;
    float4 x[TERMS > 1 ? EIGHTS : 1][2];
    auto load_rows = [&](int step) {
        if (TERMS == 1 || step >= STEPS) return;
#pragma unroll
        for (int i = 0; i < EIGHTS; i++) {
            const int at = threadIdx.x + i * THREADS, m = m0 + at / CHUNKS, k = step * STEP + at % CHUNKS * 8;
            const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            x[i][0] = m < m_end ? input4(args, m, k) : zero;
            x[i][1] = m < m_end ? input4(args, m, k + 4) : zero;
        }
    };
    auto store_rows = [&](int step) {
        if (TERMS == 1 || step >= STEPS) return;
#pragma unroll
        for (int i = 0; i < EIGHTS; i++) {
            const int at = threadIdx.x + i * THREADS;
            float4 a = x[i][0], b = x[i][1];
#pragma unroll
            for (int t = 0; t < TERMS; t++) {
                const u32 first = take_term(a.x, a.y), second = take_term(a.z, a.w), third = take_term(b.x, b.y);
                shared.x[step % STAGES][t][at / CHUNKS][permuted(at / CHUNKS, at % CHUNKS)] =
                    make_uint4(first, second, third, take_term(b.z, b.w));
            }
        }
    };

#pragma unroll
    for (int s = 0; s < AHEAD; s++) fetch_weights(s);
    wait_for_inputs();
    let_dependents_start();
    load_rows(0);
    store_rows(0);
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
        fetch_rows(s);
        end_copies();
    }
    float acc[TM / 2] = {};
#pragma unroll 1
    for (int step = 0; step < STEPS; step++) {
        wait_for_copies<AHEAD - 1>();
        show_to_products();
        __syncthreads();
        fetch_weights(step + AHEAD);
        fetch_rows(step + AHEAD);
        end_copies();
        load_rows(step + 1);
        const char(*const cells)[CELL] = shared.weights[step / CELL_STEPS % STAGES];
        const uint4(*const terms)[TM][CHUNKS] = shared.x[step % STAGES];
        const int half = step % CELL_STEPS * (STEP / 32);
        if constexpr (Codec::GROUPS == 0) {
            begin_products();
#pragma unroll
            for (int k = 0; k < STEP / 16; k++) {
                const u64 w = weights_at(cells[mine] + half * 512 + k * 256);
#pragma unroll
                for (int t = TERMS - 1; t >= 0; t--) wgmma(acc, w, rows_at(&terms[t][0][2 * k]), true);
            }
            end_products();
        } else {
#pragma unroll
            for (int h = 0; h < STEP / 32; h++) {
                u32 low[4], high[4];
                Codec::decode(cells[group], lane, half + h, low);
                Codec::decode(cells[group + 1], lane, half + h, high);
                float part[TM / 2];
                begin_products();
#pragma unroll
                for (int k = 0; k < 2; k++) {
#pragma unroll
                    for (int t = TERMS - 1; t >= 0; t--) {
                        const u32 w[4] = {low[2 * k], high[2 * k], low[2 * k + 1], high[2 * k + 1]};
                        wgmma(part, w, rows_at(&terms[t][0][4 * h + 2 * k]), k > 0 || t < TERMS - 1);
                    }
                }
                end_products();
                wait_for_products<0>();
                const float first = scale_of(cells[group], lane / 4, half + h);
                const float second = scale_of(cells[group + 1], lane / 4, half + h);
#pragma unroll
                for (int i = 0; i < TM / 2; i++) acc[i] = fmaf(i % 4 < 2 ? first : second, part[i], acc[i]);
            }
        }
        store_rows(step + 1);
        wait_for_products<RUNNING>();
    }
    wait_for_products<0>();
    wait_for_copies<0>();
    __syncthreads();
    float* const sums = (float*)memory;
#pragma unroll
    for (int i = 0; i < TM / 2; i++) {
        sums[(i / 4 * 8 + lane % 4 * 2 + i % 2) * PITCH + (group + i / 2 % 2) * 8 + lane / 4] = acc[i];
    }
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < TM * COLUMNS; i += THREADS) {
        const int m = i / COLUMNS, column = i % COLUMNS, n = tile0 * 8 + column;
        float one[WEIGHTS];
#pragma unroll
        for (int w = 0; w < WEIGHTS; w++) one[w] = sums[m * PITCH + (column / 8 * WEIGHTS + w) * 8 + column % 8];
        if (m0 + m < m_end && n < N) finish(args, m0 + m, n, one);
    }
}
