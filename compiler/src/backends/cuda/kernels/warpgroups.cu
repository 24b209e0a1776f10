// Many rows times weights in cells by warpgroups, each 64 columns of the weights by all rows of the block. Weights come by
// asynchronous copies, rows through registers, where they are taken apart into terms. Sums leave through shared memory, so
// that neighbours are stored together.
//
// Generated, beside what cells need: TM (rows of a block), STAGES; `wgmma`, WIDTH of `finish`.

constexpr int THREADS = 256, GROUPS_OF_8 = 16, COLUMNS = 128 / WEIGHTS, TILES = (N + 7) / 8;
// Elements of a row that are multiplied between barriers.
constexpr int STEP = 32, CHUNKS = STEP / 8;
constexpr int CELL_STEPS = Codec::DEPTH / STEP, STEPS = KP / STEP;
// Products that may still run while the next are prepared. Scales need their sums.
constexpr int RUNNING = Codec::GROUPS == 0 ? 1 : 0;
constexpr int AHEAD = STAGES - 1 - RUNNING;
constexpr int PITCH = 132;

struct Shared {
    // Rows of a step, whose chunks of 8 elements are permuted as products expect it.
    uint4 x[STAGES][TERMS][TM][CHUNKS];
    char weights[STAGES][GROUPS_OF_8][CELL];
};

INLINE int permuted(int m, int chunk) { return chunk ^ m / 2 % 4; }
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
    constexpr int EIGHTS = TM * CHUNKS / THREADS;
    float4 x[EIGHTS][2];
    auto load_rows = [&](int step) {
        if (step >= STEPS) return;
#pragma unroll
        for (int i = 0; i < EIGHTS; i++) {
            const int at = threadIdx.x + i * THREADS, m = m0 + at / CHUNKS, k = step * STEP + at % CHUNKS * 8;
            const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            x[i][0] = m < m_end ? input4(args, m, k) : zero;
            x[i][1] = m < m_end ? input4(args, m, k + 4) : zero;
        }
    };
    auto store_rows = [&](int step) {
        if (step >= STEPS) return;
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
        end_copies();
    }
    float acc[TM / 2] = {};
#pragma unroll 1
    for (int step = 0; step < STEPS; step++) {
        wait_for_copies<AHEAD - 1>();
        show_to_products();
        __syncthreads();
        fetch_weights(step + AHEAD);
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
                for (int t = TERMS - 1; t >= 0; t--) wgmma(acc, w, rows_at<2 * STEP>(&terms[t][0][2 * k]), true);
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
                        wgmma(part, w, rows_at<2 * STEP>(&terms[t][0][4 * h + 2 * k]), k > 0 || t < TERMS - 1);
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
    // What the body reads comes for several turns at once: loads do not overtake stores.
    constexpr int TURNS = TM * COLUMNS / (WIDTH * THREADS), BATCH = TURNS < 8 ? TURNS : 8;
    static_assert(TURNS % BATCH == 0, "batches are whole");
#pragma unroll 1
    for (int turn = 0; turn < TURNS; turn += BATCH) {
        Beside beside[BATCH];
        auto place = [&](int i, int& m, int& column) {
            const int at = ((turn + i) * THREADS + threadIdx.x) * WIDTH;
            m = at / COLUMNS, column = at % COLUMNS;
            return m0 + m < m_end && tile0 * 8 + column < N;
        };
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int m, column;
            if (place(i, m, column)) fetch(args, m0 + m, tile0 * 8 + column, beside[i]);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int m, column;
            if (!place(i, m, column)) continue;
            float one[WEIGHTS][WIDTH];
#pragma unroll
            for (int w = 0; w < WEIGHTS; w++) {
                const float* const sum = sums + m * PITCH + (column / 8 * WEIGHTS + w) * 8 + column % 8;
#pragma unroll
                for (int j = 0; j < WIDTH; j++) one[w][j] = sum[j];
            }
            finish(args, m0 + m, tile0 * 8 + column, one, beside[i]);
        }
    }
}
