// A few rows times weights in cells, at the speed at which the weights can be read. A block takes a run of tiles of
// columns; its warps take parts of them, each copying cells to a ring of its own, many ahead of the one it multiplies. The
// first are under way before the kernel waits for its inputs. Terms of the rows stand beside each other as the rows of one
// product.
//
// Generated, beside what cells need: ROWS (of x, at most), PARTS (of a column, which divide its cells), PASS (tiles at a
// time), THREADS, STAGES, STAGED; `stage`.

constexpr int WARPS = THREADS / 32;
constexpr int TILES = (N + 7) / 8, SPAN = CELLS / PARTS;
constexpr int LINES = ROWS * TERMS, HEIGHT = (LINES + 15) / 16;
// The odd 16 bytes keep eight lines in different banks.
constexpr int PITCH = KP + 8;
// Few lines leave room for two halves of a cell in one product.
constexpr bool PAIRED = LINES <= 4;
static_assert(PARTS * SPAN == CELLS, "parts are equal");

// 32 elements of eight terms of rows, as products take them: of the term `line(r)` those from `at(r)`, for each r below 8. What is
// beyond the last term is not looked at, whatever it is.
template <class Line, class At>
INLINE uint4 terms(const Args& args, const u16* staged, int m_end, int lane, Line line, At at) {
    if constexpr (STAGED) {
        const int r = lane % 8;
        return matrices(staged + smaller(line(r), LINES - 1) * PITCH + at(r) + lane / 8 * 8);
    }
    const int r = lane / 4, m = line(r) / TERMS;
    u32 words[4] = {};
    if (line(r) < LINES && m < m_end) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float4 four = input4(args, m, at(r) + 8 * i + lane % 4 / 2 * 4);
            float first = lane % 2 ? four.z : four.x, second = lane % 2 ? four.w : four.y;
#pragma unroll
            for (int t = 0; t < TERMS; t++) {
                const u32 word = take_term(first, second);
                words[i] = t == line(r) % TERMS ? word : words[i];
            }
        }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// The terms of one element of a row, where they are staged.
INLINE void stage(float* staged, int m, int k, float x) {
#pragma unroll
    for (int t = 0; t < TERMS; t++) {
        const u16 bits = narrow_bf16(x);
        x -= widen_bf16(bits);
        ((u16*)staged)[(m * TERMS + t) * PITCH + k] = bits;
    }
}

// Of four neighbours at once.
INLINE void stage(float* staged, int m, int k, const float (&four)[4]) {
    float4 x = make_float4(four[0], four[1], four[2], four[3]);
#pragma unroll
    for (int t = 0; t < TERMS; t++) {
        const u32 first = take_term(x.x, x.y);
        *(uint2*)((u16*)staged + (m * TERMS + t) * PITCH + k) = make_uint2(first, take_term(x.z, x.w));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, ROWS == 1 ? 2 : 1) kernel(const __grid_constant__ Args args) {
    extern __shared__ float4 shared[];
    char* const rings = (char*)shared;
    u16* const staged = (u16*)(rings + WARPS * STAGES * CELL);
    float* const sums = (float*)(staged + (STAGED ? LINES * PITCH : 0));
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    char* const ring = rings + warp * (STAGES * CELL);
    const int begin = (int)((i64)TILES * blockIdx.x / gridDim.x);
    const int end = (int)((i64)TILES * (blockIdx.x + 1) / gridDim.x);
    int first = begin, tiles = smaller(end - begin, PASS), units = tiles * (WEIGHTS * PARTS);

    // What this warp copies next: units lie weight by weight, tile by tile, part by part.
    int ahead = units * warp / WARPS, last = units * (warp + 1) / WARPS, left = 0, to = 0;
    const char* from;
    auto copy = [&]() {
        if (ahead < last || left > 0) {
            if (left == 0) {
                const int w = ahead / (tiles * PARTS), at = ahead % (tiles * PARTS);
                from = weight(args, w) + ((i64)first * CELLS + at * SPAN) * CELL + 16 * lane;
                left = SPAN;
                ahead++;
            }
#pragma unroll
            for (int i = 0; i < Codec::CODES; i += 512) copy16(ring + to + i + 16 * lane, from + i);
            if (Codec::GROUPS > 0 && lane < Codec::GROUPS) {
                copy16(ring + to + Codec::CODES + 16 * lane, from + Codec::CODES);
            }
            from += CELL;
            left--;
        }
        to = to + CELL == STAGES * CELL ? 0 : to + CELL;
        end_copies();
    };
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++) copy();
    let_dependents_start();
    const int m_end = smaller(ROWS, rows(args));
    wait_for_inputs();
    if constexpr (STAGED) {
#pragma unroll 1
        for (int m = 0; m < m_end; m++) stage(args, (float*)staged, m);
        // Rows that are not there would be zero times anything, and anything may be no number.
        for (int i = m_end * TERMS * PITCH + threadIdx.x; i < LINES * PITCH; i += THREADS) staged[i] = 0;
        __syncthreads();
    }

    int at = 0;
#pragma unroll 1
    while (true) {
        // What the first output of this thread wants beside its sums is on its way meanwhile.
        const int outputs = tiles * 8 * m_end, held = tiles * 8, done = first * 8;
        Beside beside;
        auto fetch_beside = [&](int o) {
            if (o < outputs && done + o % held < N) fetch(args, o / held, done + o % held, beside);
        };
        fetch_beside(threadIdx.x);
#pragma unroll 1
        for (int unit = units * warp / WARPS; unit < units * (warp + 1) / WARPS; unit++) {
            float acc[HEIGHT][4] = {};
            int k = unit % PARTS * (SPAN * Codec::DEPTH);
#pragma unroll 1
            for (int c = 0; c < SPAN; c++, k += Codec::DEPTH) {
                wait_for_copies<STAGES - 2>();
                __syncwarp();
                copy();
                const char* const cell = ring + at;
                at = at + CELL == STAGES * CELL ? 0 : at + CELL;
                if constexpr (PAIRED) {
                    // The weights come first, of one half above those of the next; behind them the lines at the one, then
                    // at the other. Halves that do not meet are not looked at.
                    const int column = lane / 4;
                    auto line = [](int r) { return r % 4; };
#pragma unroll
                    for (int h = 0; h < HALVES; h += 2) {
                        u32 a[2][4];
                        Codec::decode(cell, lane, h, a[0]);
                        Codec::decode(cell, lane, h + 1, a[1]);
                        const uint4 x = terms(args, staged, m_end, lane, line, [&](int r) { return k + 32 * (h + r / 4); });
                        float fresh[4] = {};
                        float* const part = Codec::GROUPS == 0 ? acc[0] : fresh;
                        multiply(part, a[0][0], a[1][0], a[0][1], a[1][1], x.x, x.y);
                        multiply(part, a[0][2], a[1][2], a[0][3], a[1][3], x.z, x.w);
                        if constexpr (Codec::GROUPS > 0) {
                            const bool late = lane % 4 >= 2;
                            const float scale = scale_of(cell, column, h + late);
                            acc[0][0] = fmaf(scale, late ? part[2] : part[0], acc[0][0]);
                            acc[0][1] = fmaf(scale, late ? part[3] : part[1], acc[0][1]);
                        }
                    }
                    continue;
                }
#pragma unroll
                for (int h = 0; h < HALVES; h++) {
                    u32 b[4];
                    Codec::decode(cell, lane, h, b);
#pragma unroll
                    for (int i = 0; i < HEIGHT; i++) {
                        auto at = [&](int) { return k + 32 * h; };
                        const uint4 low = terms(args, staged, m_end, lane, [&](int r) { return i * 16 + r; }, at);
                        uint4 high = make_uint4(0, 0, 0, 0);
                        if (i * 16 + 8 < LINES) {
                            high = terms(args, staged, m_end, lane, [&](int r) { return i * 16 + 8 + r; }, at);
                        }
                        if constexpr (Codec::GROUPS == 0) {
                            multiply32(acc[i], low, high, b);
                        } else {
                            float part[4] = {};
                            multiply32(part, low, high, b);
                            const float2 scale = scales(cell, lane, h);
#pragma unroll
                            for (int e = 0; e < 4; e++) {
                                acc[i][e] = fmaf(e % 2 ? scale.y : scale.x, part[e], acc[i][e]);
                            }
                        }
                    }
                }
            }
            if constexpr (PAIRED) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float sum = Codec::GROUPS == 0 && lane % 4 >= 2 ? acc[0][2 + e] : acc[0][e];
                    sum += __shfl_xor_sync(ALL, sum, 2);
                    const int line = lane % 4 * 2 + e;
                    if (line < LINES) sums[(unit * LINES + line) * 8 + lane / 4] = sum;
                }
                continue;
            }
#pragma unroll
            for (int i = 0; i < 2 * HEIGHT; i++) {
                const int line = i * 8 + lane / 4;
                float2* const sum = (float2*)(sums + (unit * LINES + line) * 8 + lane % 4 * 2);
                if (line < LINES) *sum = make_float2(acc[i / 2][i % 2 * 2], acc[i / 2][i % 2 * 2 + 1]);
            }
        }
        __syncthreads();
        first += PASS;
        if (first < end) {
            tiles = smaller(end - first, PASS), units = tiles * (WEIGHTS * PARTS);
            ahead = units * warp / WARPS, last = units * (warp + 1) / WARPS, to = at;
#pragma unroll 1
            for (int s = 0; s < STAGES - 1; s++) copy();
        }
#pragma unroll 1
        for (int o = threadIdx.x; o < outputs; o += THREADS) {
            const int n = o % held, m = o / held;
            float acc[WEIGHTS][WIDTH];
            for (int w = 0; w < WEIGHTS; w++) {
                acc[w][0] = 0.0f;
                for (int p = 0; p < PARTS; p++) {
                    const float* sum = sums + (((w * (held / 8) + n / 8) * PARTS + p) * LINES + m * TERMS) * 8 + n % 8;
                    for (int t = TERMS - 1; t >= 0; t--) acc[w][0] += sum[t * 8];
                }
            }
            if (o >= THREADS) fetch_beside(o);
            if (done + n < N) finish(args, m, done + n, acc, beside);
        }
        if (first >= end) return;
        __syncthreads();
    }
}
