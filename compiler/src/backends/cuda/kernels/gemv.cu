// A few rows times matrices [N][KP], at the speed at which the weights can be read. A block takes a run of the matrix'
// rows; its warps take parts of them, each lane 16 bytes a load, UNROLL loads in flight and the next ones under way
// before the last are used. The first are issued before the kernel waits for its inputs.
//
// Generated: K, KP, N, ROWS (of x, at most), WEIGHTS, Codec, UNROLL, PARTS (of a matrix row), PASS (matrix rows at a
// time), THREADS, STAGED; `rows`, `weight`, `input4`, `stage`, `Beside`, `fetch`, `finish`.

constexpr int WARPS = THREADS / 32;
constexpr int CHUNK = Codec::CHUNK, CHUNKS = KP / CHUNK;
constexpr int PLANES = CHUNK / 4;

// Elements `CHUNK * c ..` of row `m` of x.
INLINE void chunk_of_input(const Args& args, const float* staged, int m, int c, float* to) {
#pragma unroll
    for (int p = 0; p < PLANES; p++) {
        float4 v;
        if constexpr (STAGED) {
            // Planes of four, so that neighbouring lanes read neighbouring 16 bytes.
            v = ((const float4*)staged)[(m * PLANES + p) * CHUNKS + c];
        } else {
            v = input4(args, m, c * CHUNK + 4 * p);
        }
        to[4 * p] = v.x, to[4 * p + 1] = v.y, to[4 * p + 2] = v.z, to[4 * p + 3] = v.w;
    }
}

// One element of a row, where they are staged.
INLINE void stage(float* staged, int m, int k, float x) {
    const int i = k / 4;
    staged[((m * PLANES + i % PLANES) * CHUNKS + i / PLANES) * 4 + k % 4] = x;
}

// Four neighbours at once.
INLINE void stage(float* staged, int m, int k, const float (&x)[4]) {
    const int i = k / 4;
    ((float4*)staged)[(m * PLANES + i % PLANES) * CHUNKS + i / PLANES] = make_float4(x[0], x[1], x[2], x[3]);
}

struct Loads {
    uint4 v[WEIGHTS][UNROLL];

    INLINE void issue(const Args& args, int row, int part, int lane) {
#pragma unroll
        for (int w = 0; w < WEIGHTS; w++) {
            const char* at = weight(args, w) + (i64)row * (KP * Codec::BYTES);
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                const int c = (part * UNROLL + u) * 32 + lane;
                const bool inside = CHUNKS % (32 * UNROLL) == 0 || c < CHUNKS;
                v[w][u] = inside ? stream(at + 16 * c) : make_uint4(0, 0, 0, 0);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) kernel(const __grid_constant__ Args args) {
    extern __shared__ float4 shared[];
    float* staged = (float*)shared;
    float* sums = staged + (STAGED ? ROWS * KP : 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int begin = (int)((i64)N * blockIdx.x / gridDim.x);
    const int end = (int)((i64)N * (blockIdx.x + 1) / gridDim.x);
    int units = smaller(end - begin, PASS) * PARTS;

    Loads next;
    if (warp < units) next.issue(args, begin + warp / PARTS, warp % PARTS, lane);
    wait_for_inputs();
    let_dependents_start();
    const int m_end = smaller(ROWS, rows(args));
    if constexpr (STAGED) {
#pragma unroll 1
        for (int m = 0; m < m_end; m++) stage(args, staged, m);
        // Rows that are not there would be zero times anything, and anything may be no number.
        for (int i = m_end * KP + threadIdx.x; i < ROWS * KP; i += THREADS) staged[i] = 0.0f;
        __syncthreads();
    }

#pragma unroll 1
    for (int first = begin; first < end; first += PASS) {
        units = smaller(end - first, PASS) * PARTS;
        // Or the compiler, which knows how many turns there are at most, unrolls them all.
        asm volatile("" : "+r"(units));
        if (first != begin && warp < units) next.issue(args, first + warp / PARTS, warp % PARTS, lane);
#pragma unroll 1
        for (int unit = warp; unit < units; unit += WARPS) {
            const Loads now = next;
            const int then = unit + WARPS;
            if (then < units) next.issue(args, first + then / PARTS, then % PARTS, lane);
            float acc[WEIGHTS][ROWS] = {};
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                const int c = (unit % PARTS * UNROLL + u) * 32 + lane;
                if (CHUNKS % (32 * UNROLL) != 0 && c >= CHUNKS) continue;
                float w[WEIGHTS][CHUNK];
#pragma unroll
                for (int i = 0; i < WEIGHTS; i++) Codec::widen(now.v[i][u], w[i]);
#pragma unroll
                for (int m = 0; m < ROWS; m++) {
                    float x[CHUNK];
                    chunk_of_input(args, staged, STAGED || m < m_end ? m : 0, c, x);
#pragma unroll
                    for (int i = 0; i < WEIGHTS; i++) {
#pragma unroll
                        for (int j = 0; j < CHUNK; j++) acc[i][m] = fmaf(w[i][j], x[j], acc[i][m]);
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < WEIGHTS; i++) {
#pragma unroll
                for (int m = 0; m < ROWS; m++) {
                    const float sum = over_lanes<Add>(acc[i][m]);
                    if (lane == 0) sums[(unit * WEIGHTS + i) * ROWS + m] = sum;
                }
            }
        }
        __syncthreads();
        const int outputs = units / PARTS * m_end;
#pragma unroll 1
        for (int o = threadIdx.x; o < outputs; o += THREADS) {
            const int m = o % m_end, row = o / m_end;
            Beside beside;
            fetch(args, m, first + row, beside);
            float acc[WEIGHTS][WIDTH];
            for (int i = 0; i < WEIGHTS; i++) {
                acc[i][0] = 0.0f;
                for (int p = 0; p < PARTS; p++) {
                    acc[i][0] += sums[((row * PARTS + p) * WEIGHTS + i) * ROWS + m];
                }
            }
            finish(args, m, first + row, acc, beside);
        }
        __syncthreads();
    }
}
