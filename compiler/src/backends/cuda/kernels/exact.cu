// Many rows times matrices [N][KP] in f32, on the ordinary units: for weights that the tensor cores would round.
//
// Generated: K, KP, N, WEIGHTS, Codec; `rows`, `weight`, `input4`, `Beside`, `fetch`, `finish`.

constexpr int SIDE = 64, DEPTH = 16, THREADS = 256;
constexpr int CHUNK = Codec::CHUNK;
static_assert(SIDE * DEPTH == 4 * THREADS, "a thread loads four elements of x");

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Args args) {
    __shared__ float xs[DEPTH][SIDE + 4];
    __shared__ float ws[WEIGHTS][DEPTH][SIDE + 4];
    const int m_end = rows(args), blocks = (m_end + SIDE - 1) / SIDE;
    const int m0 = blockIdx.x % blocks * SIDE, n0 = blockIdx.x / blocks * SIDE;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    wait_for_inputs();
    let_dependents_start();
    float acc[WEIGHTS][4][4] = {};
    for (int k0 = 0; k0 < KP; k0 += DEPTH) {
        {
            const int row = threadIdx.x / (DEPTH / 4), k = threadIdx.x % (DEPTH / 4) * 4;
            const bool there = m0 + row < m_end;
            const float4 x = there ? input4(args, m0 + row, k0 + k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            xs[k][row] = x.x, xs[k + 1][row] = x.y, xs[k + 2][row] = x.z, xs[k + 3][row] = x.w;
        }
        for (int i = threadIdx.x; i < WEIGHTS * SIDE * (DEPTH / CHUNK); i += THREADS) {
            const int c = i % (DEPTH / CHUNK), n = i / (DEPTH / CHUNK) % SIDE, w = i / (DEPTH / CHUNK) / SIDE;
            // Columns beyond the last are computed from it and not stored.
            const i64 row = smaller(n0 + n, N - 1);
            float v[CHUNK];
            Codec::widen(stream(weight(args, w) + (row * KP + k0 + c * CHUNK) * Codec::BYTES), v);
#pragma unroll
            for (int j = 0; j < CHUNK; j++) ws[w][c * CHUNK + j][n] = v[j];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float x[4];
#pragma unroll
            for (int i = 0; i < 4; i++) x[i] = xs[k][ty * 4 + i];
#pragma unroll
            for (int w = 0; w < WEIGHTS; w++) {
                float y[4];
#pragma unroll
                for (int j = 0; j < 4; j++) y[j] = ws[w][k][tx * 4 + j];
#pragma unroll
                for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) acc[w][i][j] = fmaf(x[i], y[j], acc[w][i][j]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int m = m0 + ty * 4 + i, n = n0 + tx * 4;
        Beside beside[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (m < m_end && n + j < N) fetch(args, m, n + j, beside[j]);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float one[WEIGHTS][WIDTH];
#pragma unroll
            for (int w = 0; w < WEIGHTS; w++) one[w][0] = acc[w][i][j];
            if (m < m_end && n + j < N) finish(args, m, n + j, one, beside[j]);
        }
    }
}
