// Many rows of bf16 times weights in cells by warpgroups, each 64 columns of the weights by all rows of a tile. One warp copies ahead
// into a ring, two warpgroups multiply what has arrived (as CUTLASS's warp-specialised kernels do). The blocks of a cluster take
// neighbouring columns: each copies its part of the rows, to all of them. A block takes tile after tile, and the ring goes on
// meanwhile. Sums leave through shared memory, so that neighbours are stored together.
//
// Generated, beside what cells need: TM (rows of a tile), STAGES, BLOCKS (of a cluster), ACROSS (tiles, over all columns); `wgmma`,
// WIDTH of `finish`; in Args `maps`, of the rows and of each weight.

constexpr int CONSUMERS = 256, THREADS = CONSUMERS + 128;
constexpr int COLUMNS = 128 / WEIGHTS;
// Elements whose rows lie together, 128 bytes each, in a stage.
constexpr int PANEL = 64, PANELS = Codec::DEPTH / PANEL;
// Tiles of a weight that a warpgroup has; they lie together.
constexpr int EACH = 8 / WEIGHTS;
constexpr u32 STAGE = TM * Codec::DEPTH * 2 + 16 * CELL;
// Rows that leave together, and floats from one to the next: eight of them lie in different banks.
constexpr int LEAVE = 32, PITCH = 68;

struct Shared {
    // Chunks of 8 elements are permuted as copies and products permute them where rows are of 128 bytes.
    uint4 x[STAGES][PANELS][TM][8];
    char weights[STAGES][2][WEIGHTS][(EACH * CELL + 127) / 128 * 128];
    float sums[2][LEAVE][PITCH];
    u64 full[STAGES], empty[STAGES];
};

INLINE void expect(u64& barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(&barrier)), "r"(bytes) : "memory");
}
INLINE void wait(u64& barrier, u32 parity) {
    u32 done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(address(&barrier)), "r"(parity)
                     : "memory");
    } while (!done);
}
// Tells a block of the cluster.
INLINE void arrive(u64& barrier, int block) {
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(
                     address(&barrier)),
                 "r"(block)
                 : "memory");
}
// A tile from (i, j, k) on, where PARTS is above 1 to the same place in so many blocks of the cluster.
template <int PARTS> INLINE void copy_tile(void* to, const TensorMap& map, int i, int j, int k, u64& barrier) {
    if constexpr (PARTS > 1) {
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
                     "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(address(to)),
                     "l"(&map), "r"(i), "r"(j), "r"(k), "r"(address(&barrier)), "h"((u16)((1 << PARTS) - 1))
                     : "memory");
    } else {
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
                         address(to)),
                     "l"(&map), "r"(i), "r"(j), "r"(k), "r"(address(&barrier))
                     : "memory");
    }
}
INLINE void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
INLINE void meet_warpgroup(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Args args) {
    extern __shared__ __align__(1024) float4 memory[];
    Shared& shared = *(Shared*)memory;
    const int lane = threadIdx.x % 32, group = __shfl_sync(ALL, threadIdx.x / 128, 0);
    int rank = 0;
    if constexpr (BLOCKS > 1) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    const int m_end = rows(args), blocks = (m_end + TM - 1) / TM;
    // Tiles of the cluster: the block of rows varies fastest.
    const int first = blockIdx.x / BLOCKS, clusters = gridDim.x / BLOCKS, all = blocks * (ACROSS / BLOCKS);
    const int count = (all - first + clusters - 1) / clusters;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(&shared.full[s])));
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(&shared.empty[s])), "n"(CONSUMERS / 32 * BLOCKS));
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    meet_cluster();
    let_dependents_start();

    if (group == CONSUMERS / 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == CONSUMERS) {
            auto copy_weights = [&](int i, int slot) {
                expect(shared.full[slot], STAGE);
                const int tile = ((first + i / CELLS * clusters) / blocks * BLOCKS + rank) * (COLUMNS / 8);
#pragma unroll
                for (int g = 0; g < 2; g++) {
#pragma unroll
                    for (int w = 0; w < WEIGHTS; w++) {
                        void* const to = shared.weights[slot][g][w];
                        copy_tile<1>(to, args.maps[1 + w], 0, i % CELLS, tile + g * EACH, shared.full[slot]);
                    }
                }
            };
            const int steps = count * CELLS;
#pragma unroll 1
            for (int i = 0; i < smaller(STAGES, steps); i++) copy_weights(i, i);
            wait_for_inputs();
            int slot = 0;
            u32 parity = 1;
#pragma unroll 1
            for (int i = 0; i < steps; i++) {
                if (i >= STAGES) {
                    wait(shared.empty[slot], parity);
                    copy_weights(i, slot);
                }
                const int m0 = (first + i / CELLS * clusters) % blocks * TM, m = rank * (TM / BLOCKS);
#pragma unroll
                for (int p = 0; p < PANELS; p++) {
                    const int k = i % CELLS * Codec::DEPTH + p * PANEL;
                    copy_tile<BLOCKS>(shared.x[slot][p][m], args.maps[0], k, m0 + m, 0, shared.full[slot]);
                }
                if (++slot == STAGES) slot = 0, parity ^= 1;
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        wait_for_inputs();
        const int warp = threadIdx.x / 32, thread = threadIdx.x % 128;
        int slot = 0;
        u32 parity = 0;
        // What the body reads comes for several turns at once, ahead of what is stored: loads do not overtake stores.
        constexpr int WIDE = COLUMNS / 2, TURNS = LEAVE * WIDE / (WIDTH * 128);
        static_assert(TURNS * WIDTH * 128 == LEAVE * WIDE, "turns are whole");
#pragma unroll 1
        for (int t = 0; t < count; t++) {
            const int place = first + t * clusters, m0 = place % blocks * TM;
            const int n0 = (place / blocks * BLOCKS + rank) * COLUMNS + group * WIDE;
            auto leaves = [&](int part, int turn, int& m, int& column) {
                const int at = (turn * 128 + thread) * WIDTH;
                m = part * LEAVE + at / WIDE, column = at % WIDE;
                return m0 + m < m_end && n0 + column < N;
            };
            Beside beside[2][TURNS];
            auto fetch_part = [&](int part) {
#pragma unroll
                for (int turn = 0; turn < TURNS; turn++) {
                    int m, column;
                    if (leaves(part, turn, m, column)) fetch(args, m0 + m, n0 + column, beside[part % 2][turn]);
                }
            };
            float acc[TM / 2] = {};
#pragma unroll 1
            for (int cell = 0; cell < CELLS; cell++) {
                wait(shared.full[slot], parity);
                const auto& weights = shared.weights[slot][group];
                if constexpr (Codec::GROUPS == 0) {
                    begin_products();
#pragma unroll
                    for (int k = 0; k < Codec::DEPTH / 16; k++) {
                        wgmma(acc, weights_at(weights[0] + k * 256), rows_at<2 * PANEL>(&shared.x[slot][k / 4][0][k % 4 * 2]), true);
                    }
                    end_products();
                    wait_for_products<1>();
                    // The products before these are done.
                    if (cell > 0 && lane < BLOCKS) arrive(shared.empty[slot == 0 ? STAGES - 1 : slot - 1], lane);
                } else {
                    const char* const own = weights[warp % 4 * 2 / EACH] + warp % 4 * 2 % EACH * CELL;
                    // A warpgroup of eight weights has a tile of each.
                    const char* const next = EACH > 1 ? own + CELL : weights[warp % 4 * 2 + 1];
#pragma unroll
                    for (int h = 0; h < Codec::DEPTH / 32; h++) {
                        u32 low[4], high[4];
                        Codec::decode(own, lane, h, low);
                        Codec::decode(next, lane, h, high);
                        float part[TM / 2];
                        begin_products();
#pragma unroll
                        for (int k = 0; k < 2; k++) {
                            const u32 w[4] = {low[2 * k], high[2 * k], low[2 * k + 1], high[2 * k + 1]};
                            wgmma(part, w, rows_at<2 * PANEL>(&shared.x[slot][h / 2][0][h % 2 * 4 + 2 * k]), k > 0);
                        }
                        end_products();
                        wait_for_products<0>();
                        const float one = scale_of(own, lane / 4, h), two = scale_of(next, lane / 4, h);
#pragma unroll
                        for (int i = 0; i < TM / 2; i++) acc[i] = fmaf(i % 4 < 2 ? one : two, part[i], acc[i]);
                    }
                    __syncwarp();
                    if (lane < BLOCKS) arrive(shared.empty[slot], lane);
                }
                if (++slot == STAGES) slot = 0, parity ^= 1;
            }
            fetch_part(0);
            if constexpr (Codec::GROUPS == 0) {
                wait_for_products<0>();
                if (lane < BLOCKS) arrive(shared.empty[slot == 0 ? STAGES - 1 : slot - 1], lane);
            }
            float(*const sums)[PITCH] = shared.sums[group];
#pragma unroll
            for (int part = 0; part < TM / LEAVE; part++) {
                meet_warpgroup(group);
#pragma unroll
                for (int i = 0; i < LEAVE / 2; i++) {
                    sums[i / 4 * 8 + lane % 4 * 2 + i % 2][(warp % 4 * 2 + i / 2 % 2) * 8 + lane / 4] = acc[part * (LEAVE / 2) + i];
                }
                if (part + 1 < TM / LEAVE) fetch_part(part + 1);
                meet_warpgroup(group);
#pragma unroll
                for (int turn = 0; turn < TURNS; turn++) {
                    int m, column;
                    if (!leaves(part, turn, m, column)) continue;
                    float one[WEIGHTS][WIDTH];
#pragma unroll
                    for (int w = 0; w < WEIGHTS; w++) {
                        const float* const sum = &sums[m % LEAVE][(w * EACH + column / 8) * 8 + column % 8];
#pragma unroll
                        for (int j = 0; j < WIDTH; j++) one[w][j] = sum[j];
                    }
                    finish(args, m0 + m, n0 + column, one, beside[part % 2][turn]);
                }
            }
        }
    }
    // Nobody leaves while others may still copy to it, or tell it.
    meet_cluster();
}
