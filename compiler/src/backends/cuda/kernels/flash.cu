// Attention of many tokens: a block has ROWS queries (tokens times the heads of one group) and walks over the keys that
// any of them attends to, in tiles in shared memory (FlashAttention, Dao et al. 2022), in f32.
//
// Generated: TOKENS (of a block), KEYS (of a tile).

constexpr int THREADS = 256, ROWS = 64, PITCH = DIM + 1;
constexpr int COLUMNS = KEYS / 16, WIDTH = (DIM + 15) / 16;

struct Shared {
    float q[ROWS][PITCH], k[KEYS][PITCH], v[KEYS][PITCH], p[ROWS][KEYS + 1];
    int low[TOKENS], high[TOKENS];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Args args) {
    extern __shared__ float4 memory[];
    Shared& shared = *(Shared*)memory;
    const int tokens = rows(args), blocks = (tokens + TOKENS - 1) / TOKENS;
    const int t0 = blockIdx.x % blocks * TOKENS, group = blockIdx.x / blocks;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    wait_for_inputs();
    let_dependents_start();

    for (int i = threadIdx.x; i < ROWS * DIM; i += THREADS) {
        const int r = i / DIM, t = t0 + r / GROUP;
        const bool there = r < TOKENS * GROUP && t < tokens;
        shared.q[r][i % DIM] = there ? query(args, t, group * GROUP + r % GROUP)[i % DIM] * SCALE : 0.0f;
    }
    for (int i = threadIdx.x; i < TOKENS; i += THREADS) {
        shared.low[i] = t0 + i < tokens ? low_end(args, t0 + i) : 0;
        shared.high[i] = t0 + i < tokens ? high_end(args, t0 + i) : 0;
    }
    __syncthreads();
    int first = 0x7fffffff, end = 0;
    for (int i = 0; i < TOKENS; i++) {
        if (shared.low[i] < shared.high[i]) {
            first = smaller(first, shared.low[i]), end = larger(end, shared.high[i]);
        }
    }
    int low[4], high[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int token = (ty * 4 + i) / GROUP;
        low[i] = token < TOKENS ? shared.low[token] : 0;
        high[i] = token < TOKENS ? shared.high[token] : 0;
    }
    float acc[4][WIDTH] = {};
    Softmax state[4];
#pragma unroll
    for (int i = 0; i < 4; i++) state[i] = {NONE, 0.0f};

    for (int j0 = first; j0 < end; j0 += KEYS) {
        __syncthreads();
        for (int i = threadIdx.x; i < KEYS * DIM; i += THREADS) {
            const int j = i / DIM, d = i % DIM;
            shared.k[j][d] = j0 + j < end ? key(args, j0 + j, group)[d] : 0.0f;
            shared.v[j][d] = j0 + j < end ? value(args, j0 + j, group)[d] : 0.0f;
        }
        __syncthreads();
        float s[4][COLUMNS] = {};
#pragma unroll 4
        for (int d = 0; d < DIM; d++) {
            float q[4], k[COLUMNS];
#pragma unroll
            for (int i = 0; i < 4; i++) q[i] = shared.q[ty * 4 + i][d];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) k[c] = shared.k[c * 16 + tx][d];
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) s[i][c] = fmaf(q[i], k[c], s[i][c]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float peak = NONE;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int j = j0 + c * 16 + tx;
                s[i][c] = j >= low[i] && j < high[i] ? bend(s[i][c]) : NONE;
                peak = larger(peak, s[i][c]);
            }
            const float before = state[i].peak;
            state[i].peak = larger(before, over_lanes<Max>(peak, 16));
            float sum = 0.0f;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const float p = s[i][c] == NONE ? 0.0f : exp2f(s[i][c] - state[i].peak);
                sum += p;
                shared.p[ty * 4 + i][c * 16 + tx] = p;
            }
            const float shrink = state[i].worth(before);
            state[i].sum = fmaf(state[i].sum, shrink, over_lanes<Add>(sum, 16));
#pragma unroll
            for (int w = 0; w < WIDTH; w++) acc[i][w] *= shrink;
        }
        __syncthreads();
#pragma unroll 4
        for (int j = 0; j < KEYS; j++) {
            float p[4];
#pragma unroll
            for (int i = 0; i < 4; i++) p[i] = shared.p[ty * 4 + i][j];
#pragma unroll
            for (int w = 0; w < WIDTH; w++) {
                const int d = w * 16 + tx;
                const float v = DIM % 16 == 0 || d < DIM ? shared.v[j][d] : 0.0f;
#pragma unroll
                for (int i = 0; i < 4; i++) acc[i][w] = fmaf(p[i], v, acc[i][w]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = ty * 4 + i, t = t0 + r / GROUP;
        if (r >= TOKENS * GROUP || t >= tokens) continue;
        float* const out = output(args, t, group * GROUP + r % GROUP);
        const float scale = state[i].sum > 0.0f ? 1.0f / state[i].sum : 0.0f;
#pragma unroll
        for (int w = 0; w < WIDTH; w++) {
            if (w * 16 + tx < DIM) out[w * 16 + tx] = acc[i][w] * scale;
        }
    }
}
