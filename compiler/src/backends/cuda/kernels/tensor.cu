// Many rows times weights in cells, on the tensor cores. Weights stream through shared memory by asynchronous copies, rows
// through registers, where they are taken apart into terms.
//
// Generated, beside what cells need: TM, TN (rows and columns of a block), WM, WN (warps along them), STAGES.

constexpr int THREADS = 32 * WM * WN;
constexpr int MI = TM / WM / 16, NI = TN / WN / 8, TILES = (N + 7) / 8;
constexpr int FLOATS = TM * 32 / THREADS / 4;

struct Shared {
    // Chunks of eight elements are permuted, so that those of eight rows lie in different banks.
    uint4 terms[2][TERMS][TM][4];
    char weights[STAGES][WEIGHTS][TN / 8][CELL];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Args args) {
    extern __shared__ float4 memory[];
    Shared& shared = *(Shared*)memory;
    const int m_end = rows(args), blocks = (m_end + TM - 1) / TM;
    const int m0 = blockIdx.x % blocks * TM, n0 = blockIdx.x / blocks * TN;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int wm = warp % WM * (TM / WM), wn = warp / WM * NI;
    constexpr int STEPS = CELLS * HALVES;

    auto fetch_weights = [&](int cell) {
        if (cell < CELLS) {
            constexpr int EACH = CELL / 16;
            for (int i = threadIdx.x; i < WEIGHTS * (TN / 8) * EACH; i += THREADS) {
                const int c = i % EACH, tile = i / EACH % (TN / 8), w = i / EACH / (TN / 8);
                // Tiles beyond the last are computed from it and not stored.
                const i64 row = smaller(n0 / 8 + tile, TILES - 1);
                copy16(&shared.weights[cell % STAGES][w][tile][c * 16], weight(args, w) + (row * CELLS + cell) * CELL + c * 16);
            }
        }
        end_copies();
    };
    float4 x[FLOATS];
    auto fetch_input = [&](int step) {
#pragma unroll
        for (int i = 0; i < FLOATS; i++) {
            const int at = threadIdx.x + i * THREADS;
            const int m = m0 + at / 8, k = step * 32 + at % 8 * 4;
            x[i] = m < m_end ? input4(args, m, k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    };
    auto store_input = [&](int step) {
#pragma unroll
        for (int i = 0; i < FLOATS; i++) {
            const int at = threadIdx.x + i * THREADS;
            float v[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
            for (int t = 0; t < TERMS; t++) {
                const u32 first = take_term(v[0], v[1]);
                const int m = at / 8, chunk = at % 8 / 2 ^ m / 2 % 4;
                ((uint2*)&shared.terms[step % 2][t][m][chunk])[at % 2] = make_uint2(first, take_term(v[2], v[3]));
            }
        }
    };

    for (int s = 0; s < STAGES - 1; s++) fetch_weights(s);
    wait_for_inputs();
    let_dependents_start();
    fetch_input(0);
    store_input(0);
    float acc[WEIGHTS][MI][NI][4] = {};
#pragma unroll 1
    for (int cell = 0; cell < CELLS; cell++) {
        // Halves of few bits side by side would take more registers than there are.
#pragma unroll(Codec::GROUPS > 0 ? 1 : HALVES)
        for (int h = 0; h < HALVES; h++) {
            const int step = cell * HALVES + h;
            if (h == 0) wait_for_copies<STAGES - 2>();
            __syncthreads();
            if (h == 0) fetch_weights(cell + STAGES - 1);
            if (step + 1 < STEPS) fetch_input(step + 1);
#pragma unroll
            for (int w = 0; w < WEIGHTS; w++) {
                const char(*const tiles)[CELL] = shared.weights[cell % STAGES][w];
                u32 b[NI][4];
#pragma unroll
                for (int j = 0; j < NI; j++) Codec::decode(tiles[wn + j], lane, h, b[j]);
#pragma unroll
                for (int i = 0; i < MI; i++) {
                    float part[NI][4] = {};
#pragma unroll
                    for (int t = TERMS - 1; t >= 0; t--) { // the smallest first
                        const int m = wm + i * 16 + lane % 8;
                        const uint4(*const rows)[4] = &shared.terms[step % 2][t][m];
                        const int chunk = lane / 8 ^ m / 2 % 4;
                        const uint4 low = matrices(&rows[0][chunk]), high = matrices(&rows[8][chunk]);
#pragma unroll
                        for (int j = 0; j < NI; j++) {
                            multiply32(Codec::GROUPS > 0 ? part[j] : acc[w][i][j], low, high, b[j]);
                        }
                    }
                    if constexpr (Codec::GROUPS > 0) {
#pragma unroll
                        for (int j = 0; j < NI; j++) {
                            const float2 scale = scales(tiles[wn + j], lane, h);
#pragma unroll
                            for (int e = 0; e < 4; e++) {
                                acc[w][i][j][e] = fmaf(e % 2 ? scale.y : scale.x, part[j][e], acc[w][i][j][e]);
                            }
                        }
                    }
                }
            }
            if (step + 1 < STEPS) store_input(step + 1);
        }
    }
    // What the body reads comes for several elements at once: loads do not overtake stores.
#pragma unroll
    for (int i = 0; i < MI * NI; i++) {
        Beside beside[4];
        auto place = [&](int e, int& m, int& n) {
            m = m0 + wm + i / NI * 16 + lane / 4 + e / 2 * 8, n = n0 + (wn + i % NI) * 8 + lane % 4 * 2 + e % 2;
            return m < m_end && n < N;
        };
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int m, n;
            if (place(e, m, n)) fetch(args, m, n, beside[e]);
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int m, n;
            if (!place(e, m, n)) continue;
            float one[WEIGHTS][WIDTH];
#pragma unroll
            for (int w = 0; w < WEIGHTS; w++) one[w][0] = acc[w][i / NI][i % NI][e];
            finish(args, m, n, one, beside[e]);
        }
    }
}
