// Products by warpgroups (`wgmma`), whose first operand are the weights, since its rows are as many whatever the tile. Operands are
// said by where they lie in shared memory: weights in 8 x 8 blocks of 128 bytes, the next along k right behind.

// An address within the block: in a cluster addresses say the block too.
INLINE u64 place_of(const void* at) { return (address(at) & 0x3ffff) >> 4; }
INLINE u64 weights_at(const void* at) { return place_of(at) | (u64)(128 >> 4) << 16 | (u64)(CELL >> 4) << 32; }
// Rows of so many bytes, 64 or 128, within which chunks of 16 are permuted.
template <int BYTES> INLINE u64 rows_at(const void* at) {
    return place_of(at) | (u64)1 << 16 | (u64)(BYTES * 8 >> 4) << 32 | (u64)(BYTES == 128 ? 1 : 2) << 62;
}
INLINE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> INLINE void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
