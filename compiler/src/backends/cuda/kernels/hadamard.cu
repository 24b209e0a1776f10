// Rows in shared memory, rotated in place by the threads that wrote them (`ir::ops::Hadamard`): sums and differences of elements
// 1, 2, 4, .. apart, then a product.
extern __shared__ float4 rotated[];

template <int BLOCK, int THREADS> INLINE void hadamard(float* row, int columns, float scale, int lane) {
    auto together = [] {
        if constexpr (THREADS > 32) {
            __syncthreads();
        } else {
            __syncwarp();
        }
    };
    together();
#pragma unroll
    for (int apart = 1; apart < BLOCK; apart *= 2) {
        const float by = 2 * apart == BLOCK ? scale : 1.0f;
        for (int i = lane; i < columns / 2; i += THREADS) {
            float* const pair = row + (i / apart * 2 * apart + i % apart);
            const float a = pair[0], b = pair[apart];
            pair[0] = (a + b) * by, pair[apart] = (a - b) * by;
        }
        together();
    }
}
