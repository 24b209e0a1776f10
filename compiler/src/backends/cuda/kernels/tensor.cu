// Many rows times bf16 matrices [N][KP] on the tensor cores. An f32 input is the sum of TERMS bf16 numbers, of three to
// its last bit, so that as many products give what f32 arithmetic would; weights stream through shared memory by
// asynchronous copies.
//
// Generated: K, KP, N, WEIGHTS, TERMS, TM, TN (rows and columns of a block), WM, WN (warps along them), STAGES; `rows`,
// `weight`, `input4`, `finish`.

constexpr int THREADS = 32 * WM * WN;
constexpr int DEPTH = 32, PITCH = DEPTH + 8; // 80 bytes: eight rows of ldmatrix meet eight different banks
constexpr int MI = TM / WM / 16, NI = TN / WN / 8;
constexpr int FLOATS = TM * DEPTH / THREADS / 4;

struct Shared {
    u16 terms[2][TERMS][TM][PITCH];
    u16 weights[STAGES][WEIGHTS][TN][PITCH];
};

INLINE u32 address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

INLINE void matrices4(u32* to, const u16* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address(from)));
}
INLINE void multiply(float* c, const u32* a, const u32* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Two floats as a word of two bf16, the first in the low half.
INLINE u32 pair(float first, float second) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}

extern "C" __global__ void __launch_bounds__(THREADS) kernel(const __grid_constant__ Args args) {
    extern __shared__ float4 memory[];
    Shared& shared = *(Shared*)memory;
    const int m_end = rows(args), blocks = (m_end + TM - 1) / TM;
    const int m0 = blockIdx.x % blocks * TM, n0 = blockIdx.x / blocks * TN;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int wm = warp % WM * (TM / WM), wn = warp / WM * (TN / WN);
    constexpr int STEPS = KP / DEPTH;

    auto fetch_weights = [&](int step) {
        if (step < STEPS) {
            for (int i = threadIdx.x; i < WEIGHTS * TN * (DEPTH / 8); i += THREADS) {
                const int c = i % (DEPTH / 8), n = i / (DEPTH / 8) % TN, w = i / (DEPTH / 8) / TN;
                // Columns beyond the last are computed from it and not stored.
                const i64 row = smaller(n0 + n, N - 1);
                const char* from = weight(args, w) + (row * KP + step * DEPTH + c * 8) * 2;
                asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(
                                 address(&shared.weights[step % STAGES][w][n][c * 8])),
                             "l"(from));
            }
        }
        asm volatile("cp.async.commit_group;");
    };
    float4 x[FLOATS];
    auto fetch_input = [&](int step) {
#pragma unroll
        for (int i = 0; i < FLOATS; i++) {
            const int at = threadIdx.x + i * THREADS;
            const int m = m0 + at / (DEPTH / 4), k = step * DEPTH + at % (DEPTH / 4) * 4;
            x[i] = m < m_end ? input4(args, m, k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    };
    auto store_input = [&](int step) {
#pragma unroll
        for (int i = 0; i < FLOATS; i++) {
            const int at = threadIdx.x + i * THREADS;
            const int m = at / (DEPTH / 4), k = at % (DEPTH / 4) * 4;
            float v[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
            for (int t = 0; t < TERMS; t++) {
                u32 words[2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    words[j] = pair(v[2 * j], v[2 * j + 1]);
                    v[2 * j] -= __uint_as_float(words[j] << 16);
                    v[2 * j + 1] -= __uint_as_float(words[j] & 0xffff0000u);
                }
                *(uint2*)&shared.terms[step % 2][t][m][k] = make_uint2(words[0], words[1]);
            }
        }
    };

    for (int s = 0; s < STAGES - 1; s++) fetch_weights(s);
    wait_for_inputs();
    let_dependents_start();
    fetch_input(0);
    store_input(0);
    float acc[WEIGHTS][MI][NI][4] = {};
    for (int step = 0; step < STEPS; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
        __syncthreads();
        fetch_weights(step + STAGES - 1);
        if (step + 1 < STEPS) fetch_input(step + 1);
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            u32 a[TERMS][MI][4];
#pragma unroll
            for (int t = 0; t < TERMS; t++) {
#pragma unroll
                for (int i = 0; i < MI; i++) {
                    const int row = wm + i * 16 + lane % 16, column = k + lane / 16 * 8;
                    matrices4(a[t][i], &shared.terms[step % 2][t][row][column]);
                }
            }
#pragma unroll
            for (int w = 0; w < WEIGHTS; w++) {
#pragma unroll
                for (int j = 0; j < NI; j += 2) {
                    u32 b[4];
                    const int row = wn + j * 8 + lane % 8 + lane / 16 * 8, column = k + lane / 8 % 2 * 8;
                    matrices4(b, &shared.weights[step % STAGES][w][row][column]);
#pragma unroll
                    for (int t = TERMS - 1; t >= 0; t--) { // the smallest first
#pragma unroll
                        for (int i = 0; i < MI; i++) {
                            multiply(acc[w][i][j], a[t][i], b);
                            multiply(acc[w][i][j + 1], a[t][i], b + 2);
                        }
                    }
                }
            }
        }
        if (step + 1 < STEPS) store_input(step + 1);
    }
#pragma unroll
    for (int i = 0; i < MI; i++) {
#pragma unroll
        for (int j = 0; j < NI; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int m = m0 + wm + i * 16 + lane / 4 + e / 2 * 8;
                const int n = n0 + wn + j * 8 + lane % 4 * 2 + e % 2;
                float one[WEIGHTS];
#pragma unroll
                for (int w = 0; w < WEIGHTS; w++) one[w] = acc[w][i][j][e];
                if (m < m_end && n < N) finish(args, m, n, one);
            }
        }
    }
}
