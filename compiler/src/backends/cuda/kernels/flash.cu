// Attention of many tokens: a block has ROWS queries (tokens times the heads of one group), 16 for each warp, and walks over the keys
// that any of them attends to, in tiles in shared memory (FlashAttention-2, Dao 2023). Queries, keys, values and probabilities are sums
// of bf16 numbers, of three to f32's last bit, of one where they are stored so; products below f32's last bit are left out.
//
// Generated: TOKENS (of a block), KEYS (of a tile), Q_TERMS, KV_TERMS.

constexpr int ROWS = 64;
// Warps that share 16 queries, each with its part of the elements of a head, as far as registers go.
constexpr int PARTS = DIM > 128 ? 2 : 1, THREADS = 128 * PARTS;
// Elements of a head, padded with zeros, and between rows; the odd 16 bytes keep eight rows in different banks.
constexpr int PART = (DIM + 16 * PARTS - 1) / (16 * PARTS) * 16, WIDE = PART * PARTS, PITCH = WIDE + 8;


// Pairs of eight keys, and of eight elements, whose sums take turns.
constexpr int TURNS = KEYS >= 32 ? 2 : 1, WIDTHS = PART % 32 == 0 ? 2 : 1;

// Whether keys and values are copied as they are, a tile ahead.
constexpr bool COPIED = KV_TERMS == 1 && DIM % 8 == 0 && KV_PITCH % 8 == 0;
constexpr int TILES = COPIED ? 2 : 1;
// Terms of probabilities: where values were rounded, of what they multiply too.
constexpr int P_TERMS = KV_TERMS == 1 ? 2 : 3;

struct Shared {
    u16 q[Q_TERMS][ROWS][PITCH], k[TILES][KV_TERMS][KEYS][PITCH], v[TILES][KV_TERMS][KEYS][PITCH];
    int low[TOKENS], high[TOKENS];
};

// Four neighbours of a row at `from`, zero where there are none.
template <class Element> INLINE float4 four(const char* from, int d, bool there) {
    float x[4] = {};
    if (DIM % 4 == 0) {
        if (there && d < DIM) Element::load(from, d, x);
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float one[1];
            if (there && d + e < DIM) Element::load(from, d + e, one), x[e] = one[0];
        }
    }
    return make_float4(x[0], x[1], x[2], x[3]);
}
// Their terms, each in its plane.
template <int TERMS, int COUNT> INLINE void put(u16 (&to)[TERMS][COUNT][PITCH], int row, int d, float4 x) {
#pragma unroll
    for (int t = 0; t < TERMS; t++) {
        const u32 first = take_term(x.x, x.y);
        *(uint2*)&to[t][row][d] = make_uint2(first, take_term(x.z, x.w));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) kernel(const __grid_constant__ Args args) {
    extern __shared__ float4 memory[];
    Shared& shared = *(Shared*)memory;
    const int tokens = rows(args), blocks = (tokens + TOKENS - 1) / TOKENS;
    // The last tokens have the most keys: they go first.
    const int t0 = (blocks - 1 - blockIdx.x % blocks) * TOKENS, group = blockIdx.x / blocks;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = warp / PARTS * 16, first_d = warp % PARTS * PART;
    wait_for_inputs();
    let_dependents_start();

#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * WIDE / 4; i += THREADS) {
        const int r = i / (WIDE / 4), d = i % (WIDE / 4) * 4, t = t0 + r / GROUP;
        const bool there = r < TOKENS * GROUP && t < tokens;
        put(shared.q, r, d, four<Query>(query(args, there ? t : 0, group * GROUP + r % GROUP), d, there));
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
    // Of the two rows whose sums this thread has.
    int low[2], high[2];
    Softmax state[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int token = (first_row + lane / 4 + 8 * i) / GROUP;
        low[i] = token < TOKENS ? shared.low[token] : 0;
        high[i] = token < TOKENS ? shared.high[token] : 0;
        state[i] = {NONE, 0.0f};
    }
    float acc[PART / 8][4] = {};

    const bool copied = COPIED && (((u64)args.p[1] | (u64)args.p[2]) & 15) == 0;
    auto load = [&](int j0, int tile) {
        if (copied) {
#pragma unroll 4
            for (int i = threadIdx.x; i < KEYS * WIDE / 8; i += THREADS) {
                const int j = i / (WIDE / 8), d = i % (WIDE / 8) * 8;
                const bool there = j0 + j < end && d < DIM;
                copy16_or_zero(&shared.k[tile][0][j][d], key(args, there ? j0 + j : first, group) + (there ? 2 * d : 0), there);
                copy16_or_zero(&shared.v[tile][0][j][d], value(args, there ? j0 + j : first, group) + (there ? 2 * d : 0), there);
            }
            return;
        }
#pragma unroll 4
        for (int i = threadIdx.x; i < KEYS * WIDE / 4; i += THREADS) {
            const int j = i / (WIDE / 4), d = i % (WIDE / 4) * 4;
            const bool there = j0 + j < end;
            put(shared.k[tile], j, d, four<Row>(key(args, there ? j0 + j : first, group), d, there));
            put(shared.v[tile], j, d, four<Row>(value(args, there ? j0 + j : first, group), d, there));
        }
    };
    if (TILES > 1 && first < end) load(first, 0);
    end_copies();
    int tile = 0;
#pragma unroll 1
    for (int j0 = first; j0 < end; j0 += KEYS, tile = (tile + 1) % TILES) {
        __syncthreads();
        if constexpr (TILES > 1) {
            if (j0 + KEYS < end) load(j0 + KEYS, tile ^ 1);
            end_copies();
            wait_for_copies<1>();
        } else {
            load(j0, 0);
        }
        __syncthreads();
        float s[KEYS / 8][4] = {};
#pragma unroll 2
        for (int d = 0; d < WIDE; d += 16) {
            uint4 q[Q_TERMS];
#pragma unroll
            for (int t = 0; t < Q_TERMS; t++) q[t] = matrices(&shared.q[t][first_row + lane % 16][d + lane / 16 * 8]);
#pragma unroll
            for (int j = 0; j < KEYS / 16; j += TURNS) {
                uint4 k[TURNS][KV_TERMS];
#pragma unroll
                for (int i = 0; i < TURNS * KV_TERMS; i++) {
                    const int row = (j + i / KV_TERMS) * 16 + lane / 16 * 8 + lane % 8;
                    k[i / KV_TERMS][i % KV_TERMS] = matrices(&shared.k[tile][i % KV_TERMS][row][d + lane / 8 % 2 * 8]);
                }
                multiply_terms(&s[2 * j], q, k);
            }
        }
        float shrink[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float peak = NONE;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& x = s[j][2 * i + e];
                    const int at = j0 + j * 8 + lane % 4 * 2 + e;
                    x = at >= low[i] && at < high[i] ? bend(x * SCALE) : NONE;
                    peak = larger(peak, x);
                }
            }
            const float before = state[i].peak;
            state[i].peak = larger(before, over_lanes<Max>(peak, 4));
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& x = s[j][2 * i + e];
                    x = x == NONE ? 0.0f : exp2f(x - state[i].peak);
                    sum += x;
                }
            }
            shrink[i] = state[i].worth(before);
            state[i].sum = fmaf(state[i].sum, shrink[i], over_lanes<Add>(sum, 4));
        }
#pragma unroll
        for (int d = 0; d < PART / 8; d++) {
#pragma unroll
            for (int e = 0; e < 4; e++) acc[d][e] *= shrink[e / 2];
        }
#pragma unroll
        for (int j = 0; j < KEYS; j += 16) {
            uint4 p[P_TERMS];
            float(&left)[4] = s[j / 8];
            float(&right)[4] = s[j / 8 + 1];
#pragma unroll
            for (int t = 0; t < P_TERMS; t++) {
                p[t].x = take_term(left[0], left[1]), p[t].y = take_term(left[2], left[3]);
                p[t].z = take_term(right[0], right[1]), p[t].w = take_term(right[2], right[3]);
            }
#pragma unroll
            for (int d = 0; d < PART / 16; d += WIDTHS) {
                uint4 v[WIDTHS][KV_TERMS];
#pragma unroll
                for (int i = 0; i < WIDTHS * KV_TERMS; i++) {
                    const int column = first_d + (d + i / KV_TERMS) * 16 + lane / 16 * 8;
                    v[i / KV_TERMS][i % KV_TERMS] = turned(&shared.v[tile][i % KV_TERMS][j + lane % 16][column]);
                }
                // In sums of their own: what tensor cores add to a large sum they cut off.
                float part[2 * WIDTHS][4] = {};
                multiply_terms(part, p, v);
#pragma unroll
                for (int i = 0; i < 8 * WIDTHS; i++) acc[2 * d + i / 4][i % 4] += part[i / 4][i % 4];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int r = first_row + lane / 4 + 8 * i, t = t0 + r / GROUP;
        if (r >= TOKENS * GROUP || t >= tokens) continue;
        char* const out = output(args, t, group * GROUP + r % GROUP);
        const float scale = state[i].sum > 0.0f ? 1.0f / state[i].sum : 0.0f;
#pragma unroll
        for (int d = 0; d < PART / 8; d++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int at = first_d + d * 8 + lane % 4 * 2 + e;
                if (at < DIM) Output::store(out, at, acc[d][2 * i + e] * scale);
            }
        }
    }
}
