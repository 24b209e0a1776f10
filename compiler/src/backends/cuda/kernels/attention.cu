// What both attention kernels share: operands and the softmax's exponent.
//
// Generated: HEADS, GROUPS, DIM, Q_PITCH, KV_PITCH (elements between rows), SCALE, CAP, OUT; Query, Row (of keys and values) and
// Output, as which elements are stored; `rows`. Operands: q, k, v, lo, hi, and last, at OUT, out.

constexpr int GROUP = HEADS / GROUPS;
constexpr float LOG2E = 1.4426950408889634f;

INLINE const char* query(const Args& args, int t, int head) {
    return args.p[0] + ((i64)t * Q_PITCH + head * DIM) * Query::SIZE;
}
INLINE char* key(const Args& args, i64 row, int group) { return args.p[1] + (row * KV_PITCH + group * DIM) * Row::SIZE; }
INLINE char* value(const Args& args, i64 row, int group) { return args.p[2] + (row * KV_PITCH + group * DIM) * Row::SIZE; }
INLINE int low_end(const Args& args, int t) { return larger(((const int*)args.p[3])[t], 0); }
INLINE int high_end(const Args& args, int t) { return ((const int*)args.p[4])[t]; }
INLINE char* output(const Args& args, int t, int head) {
    return args.p[OUT] + ((i64)t * HEADS + head) * DIM * Output::SIZE;
}

// Whether an operand came with the step: it can be read before the kernel waits.
INLINE bool given(const Args& args, const char* p) { return p >= args.inputs && p < (const char*)args.dims; }

// A scaled score in units of ln 2, so that its weight is a power of two.
INLINE float bend(float score) {
    if constexpr (CAP > 0.0f) return CAP * LOG2E * tanhf(score * (1.0f / CAP));
    return score * LOG2E;
}

// A softmax in progress (Milakov and Gimelshein 2018): the largest score, and the sum of 2^(score - peak).
struct Softmax {
    float peak, sum;

    // What sums up to another peak are worth beside this one's.
    INLINE float worth(float other) const { return other == peak ? 1.0f : exp2f(other - peak); }
};
constexpr float NONE = -3.4e38f;
