// Products with weights in cells on the tensor cores: m16n8k16, of which a cell is the second operand. Scales come after the
// sum. An f32 input is the sum of TERMS bf16 numbers, of three to its last bit.
//
// Generated: K, KP, N, WEIGHTS, TERMS, Codec; `rows`, `weight`, `input4`, `Beside`, `fetch`, `finish`.

constexpr int HALVES = Codec::DEPTH / 32, CELL = Codec::CODES + 16 * Codec::GROUPS, CELLS = KP / Codec::DEPTH;

// The scales of columns 2 t and 2 t + 1 for elements 32 h .. of a cell.
INLINE float2 scales(const char* cell, int lane, int h) {
    const int group = Codec::GROUPS > 1 ? h * 32 / Codec::GROUP : 0;
    const u32 both = *(const u32*)(cell + Codec::CODES + (lane % 4 * Codec::GROUPS + group) * 4);
    return make_float2(widen_f16((u16)both), widen_f16((u16)(both >> 16)));
}

// That of column `j`.
INLINE float scale_of(const char* cell, int j, int h) {
    const int group = Codec::GROUPS > 1 ? h * 32 / Codec::GROUP : 0;
    return widen_f16(*(const u16*)(cell + Codec::CODES + ((j / 2 * Codec::GROUPS + group) * 2 + j % 2) * 2));
}

// Rows `low` and `high` (eight apart, eight elements each) times 32 elements of eight columns.
INLINE void multiply32(float* c, uint4 low, uint4 high, const u32* b) {
    multiply(c, low.x, high.x, low.y, high.y, b[0], b[1]);
    multiply(c, low.z, high.z, low.w, high.w, b[2], b[3]);
}
