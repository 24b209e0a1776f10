// Attention of a few tokens: the keys of a token are split over blocks, those of a block over groups of LANES threads,
// each with a part of the head (Flash-Decoding, Dao et al. 2023). The parts are joined by the blocks of a cluster, which read each
// other's shared memory, or by the last block of a token.
//
// Generated: TOGETHER (heads of one group that a block has), SPLITS, CLUSTER and JOINED (whether a token's blocks are one
// cluster), VECTOR (floats of a load), LANES, THREADS.

constexpr int AT_ONCE = THREADS / LANES;
constexpr int LOADS = (DIM + LANES * VECTOR - 1) / (LANES * VECTOR), WIDTH = LOADS * VECTOR;
constexpr int SETS = HEADS / TOGETHER;
constexpr int PART = TOGETHER * (DIM + 2);

// The lane's elements of a head: VECTOR at `(i * LANES + lane) * VECTOR`, for each i.
INLINE int element(int i, int lane) { return (i / VECTOR * LANES + lane) * VECTOR + i % VECTOR; }

template <class Element> INLINE void load_part(const char* row, int lane, float* to) {
#pragma unroll
    for (int i = 0; i < WIDTH; i += VECTOR) {
        float x[VECTOR] = {};
        const int at = element(i, lane);
        if (at < DIM) Element::load(row, at, x);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) to[i + j] = x[j];
    }
}

// What lies in another block of the cluster where `mine` lies in this one.
INLINE float of_block(const float* mine, int block) {
    float x = 0.0f;
#if __CUDA_ARCH__ >= 900
    asm volatile("{.reg .u32 at; mapa.shared::cluster.u32 at, %1, %2; ld.shared::cluster.f32 %0, [at];}"
                 : "=f"(x)
                 : "r"(address(mine)), "r"(block)
                 : "memory");
#endif
    return x;
}
INLINE void arrive_in_cluster() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
INLINE void wait_for_cluster() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

extern "C" __global__ void CLUSTER __launch_bounds__(THREADS) kernel(const __grid_constant__ Args args) {
    __shared__ float parts[THREADS / 32][TOGETHER][DIM];
    __shared__ Softmax states[THREADS / 32][TOGETHER];
    __shared__ Softmax whole[SPLITS][TOGETHER];
    __shared__ float sums[JOINED ? TOGETHER * DIM : 1];
    __shared__ bool last;
    __shared__ __align__(16) float made[TOGETHER + 2][DIM];
    const int tokens = rows(args), split = blockIdx.x % SPLITS, t = blockIdx.x / SPLITS % tokens;
    const int set = blockIdx.x / SPLITS / tokens, head = set * TOGETHER, group = head / GROUP;
    const int lane = threadIdx.x % LANES, mine = threadIdx.x / LANES, warp = threadIdx.x / 32;
    let_dependents_start();
    int fresh, begin, end;
    float k[WIDTH], v[WIDTH];
    auto fetch = [&](int j) {
        const bool there = j < end && !(MAKES_ROWS && j == fresh);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) k[i] = v[i] = 0.0f;
        if (there) load_part<Row>(key(args, j, group), lane, k);
        if (there) load_part<Row>(value(args, j, group), lane, v);
    };
    auto first_rows = [&]() {
        fresh = fresh_row(args);
        const int low = low_end(args, t), high = high_end(args, t);
        const int share = (larger(high - low, 0) + SPLITS - 1) / SPLITS;
        begin = low + split * share, end = smaller(begin + share, high);
        fetch(begin + mine);
    };
    // Rows of earlier steps are there before what this step computes, and the row of this one is made here.
    const bool early = MAKES_ROWS && given(args, args.p[3]) && given(args, args.p[4]) && given(args, fresh_rows(args));
    if (early) first_rows();
    wait_for_inputs();
    if (!early) first_rows();
    if constexpr (MAKES_QUERY || MAKES_ROWS) {
        for (int i = warp; i < TOGETHER + 2; i += THREADS / 32) {
            const int l = threadIdx.x % 32;
            if (MAKES_QUERY && i < TOGETHER) make_query(args, head + i, l, made[i]);
            if (MAKES_ROWS && i == TOGETHER) make_key(args, group, l, made[i]);
            if (MAKES_ROWS && i == TOGETHER + 1) make_value(args, group, l, made[i]);
        }
        __syncthreads();
        if (MAKES_ROWS && split == 0 && head % GROUP == 0) {
            for (int i = threadIdx.x; i < DIM; i += THREADS) {
                Row::store(key(args, fresh, group), i, made[TOGETHER][i]);
                Row::store(value(args, fresh, group), i, made[TOGETHER + 1][i]);
            }
        }
    }

    float q[TOGETHER][WIDTH], acc[TOGETHER][WIDTH] = {};
    Softmax state[TOGETHER];
#pragma unroll
    for (int h = 0; h < TOGETHER; h++) {
        if constexpr (MAKES_QUERY) {
            load_part<Element_f32>((const char*)made[h], lane, q[h]);
        } else {
            load_part<Query>(query(args, t, head + h), lane, q[h]);
        }
        state[h] = {NONE, 0.0f};
#pragma unroll
        for (int i = 0; i < WIDTH; i++) q[h][i] *= SCALE;
    }
    for (int first = begin; first < end; first += AT_ONCE) {
        const int j = first + mine;
        if (first != begin) fetch(j);
        if (MAKES_ROWS && j == fresh && j < end) {
            load_part<Element_f32>((const char*)made[TOGETHER], lane, k);
            load_part<Element_f32>((const char*)made[TOGETHER + 1], lane, v);
        }
#pragma unroll
        for (int h = 0; h < TOGETHER; h++) {
            float score = 0.0f;
#pragma unroll
            for (int i = 0; i < WIDTH; i++) score = fmaf(q[h][i], k[i], score);
            score = over_lanes<Add>(score, LANES);
            if (j < end) {
                score = bend(score);
                const float before = state[h].peak;
                state[h].peak = larger(before, score);
                const float shrink = state[h].worth(before), p = exp2f(score - state[h].peak);
                state[h].sum = fmaf(state[h].sum, shrink, p);
#pragma unroll
                for (int i = 0; i < WIDTH; i++) acc[h][i] = fmaf(acc[h][i], shrink, p * v[i]);
            }
        }
    }
    // Groups of a warp, then warps, then blocks.
#pragma unroll
    for (int h = 0; h < TOGETHER; h++) {
#pragma unroll
        for (int d = LANES; d < 32; d *= 2) {
            const Softmax other = {__shfl_xor_sync(ALL, state[h].peak, d), __shfl_xor_sync(ALL, state[h].sum, d)};
            const float before = state[h].peak;
            state[h].peak = larger(before, other.peak);
            const float a = state[h].worth(before), b = state[h].worth(other.peak);
            state[h].sum = state[h].sum * a + other.sum * b;
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                acc[h][i] = acc[h][i] * a + __shfl_xor_sync(ALL, acc[h][i], d) * b;
            }
        }
        if (threadIdx.x % 32 < LANES) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                if (element(i, lane) < DIM) parts[warp][h][element(i, lane)] = acc[h][i];
            }
            if (lane == 0) states[warp][h] = state[h];
        }
    }
    __syncthreads();
    float* const mine_out = (float*)args.scratch + (i64)blockIdx.x * PART;
    for (int i = threadIdx.x; i < TOGETHER * DIM; i += THREADS) {
        const int h = i / DIM, d = i % DIM;
        Softmax all = {NONE, 0.0f};
        for (int w = 0; w < THREADS / 32; w++) all.peak = larger(all.peak, states[w][h].peak);
        float sum = 0.0f;
        for (int w = 0; w < THREADS / 32; w++) {
            const float worth = all.worth(states[w][h].peak);
            all.sum += states[w][h].sum * worth;
            sum += parts[w][h][d] * worth;
        }
        if constexpr (SPLITS == 1) {
            Output::store(output(args, t, head + h), d, all.sum > 0.0f ? sum / all.sum : 0.0f);
        } else if constexpr (JOINED) {
            sums[i] = sum;
            if (d == 0) whole[0][h] = all;
        } else {
            mine_out[TOGETHER * 2 + i] = sum;
            if (d == 0) mine_out[h * 2] = all.peak, mine_out[h * 2 + 1] = all.sum;
        }
    }
    if constexpr (JOINED) {
        constexpr int SHARE = (TOGETHER * DIM + SPLITS - 1) / SPLITS;
        arrive_in_cluster();
        wait_for_cluster();
        const int last_of_mine = smaller((split + 1) * SHARE, TOGETHER * DIM);
        for (int i = split * SHARE + threadIdx.x; i < last_of_mine; i += THREADS) {
            const int h = i / DIM, d = i % DIM;
            Softmax others[SPLITS], all = {NONE, 0.0f};
            float theirs[SPLITS], sum = 0.0f;
#pragma unroll
            for (int s = 0; s < SPLITS; s++) {
                others[s] = {of_block(&whole[0][h].peak, s), of_block(&whole[0][h].sum, s)};
                theirs[s] = of_block(sums + i, s);
            }
#pragma unroll
            for (int s = 0; s < SPLITS; s++) all.peak = larger(all.peak, others[s].peak);
#pragma unroll
            for (int s = 0; s < SPLITS; s++) {
                const float worth = all.worth(others[s].peak);
                all.sum += others[s].sum * worth;
                sum += theirs[s] * worth;
            }
            Output::store(output(args, t, head + h), d, all.sum > 0.0f ? sum / all.sum : 0.0f);
        }
        // Nobody leaves while others read.
        arrive_in_cluster();
        wait_for_cluster();
    } else if constexpr (SPLITS > 1) {
        __threadfence();
        __syncthreads();
        u32* const counter = args.counters + set * tokens + t;
        if (threadIdx.x == 0) last = atomicAdd(counter, 1) == SPLITS - 1;
        __syncthreads();
        if (!last) return;
        __threadfence();
        if (threadIdx.x == 0) *counter = 0;
        auto part = [&](int s) {
            return (const float*)args.scratch + (i64)(blockIdx.x - split + s) * PART;
        };
        for (int i = threadIdx.x; i < SPLITS * TOGETHER; i += THREADS) {
            const float* const from = part(i / TOGETHER) + i % TOGETHER * 2;
            whole[i / TOGETHER][i % TOGETHER] = {__ldcg(from), __ldcg(from + 1)};
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TOGETHER * DIM; i += THREADS) {
            const int h = i / DIM, d = i % DIM;
            Softmax all = {NONE, 0.0f};
#pragma unroll
            for (int s = 0; s < SPLITS; s++) all.peak = larger(all.peak, whole[s][h].peak);
            float sum = 0.0f;
#pragma unroll 8
            for (int s = 0; s < SPLITS; s++) {
                const float worth = all.worth(whole[s][h].peak);
                all.sum += whole[s][h].sum * worth;
                sum += __ldcg(part(s) + TOGETHER * 2 + i) * worth;
            }
            Output::store(output(args, t, head + h), d, all.sum > 0.0f ? sum / all.sum : 0.0f);
        }
    }
}
