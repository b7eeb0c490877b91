// The softmax of one row of scores in fp32.
// Included by attention_isa.cpp only, inside its per-instruction-set namespace.

// Turns one row's scores s [tiles * 64] into weights and moves its running maximum and sum on.
// scored[t]: which keys have a score; kept[t]: which of them keep their weight (they differ in "zero" semantics only).
AVFLOW_INLINE void softmax_row(float* s, int tiles, const uint64_t* scored, const uint64_t* kept, bool zero, float& top,
                               float& sum, float& alpha) {
    Vec most = splat(kMinusInfinity);
    uint64_t any = 0;
    for (int t = 0; t < tiles; ++t) {
        float* at = s + t * kKeyTile;
        any |= scored[t];
        if (scored[t] == ~uint64_t{0}) {
            for (int j = 0; j < kKeyTile; j += W) most = maximum(most, load(at + j));
        } else {
            for (int j = 0; j < kKeyTile; j += W) {
                const Vec x = select(static_cast<uint32_t>(scored[t] >> j), load(at + j), kMinusInfinity);
                store(at + j, x);
                most = maximum(most, x);
            }
        }
    }
    if (!any) {  // nothing seen in this batch; -inf - -inf below would be NaN
        std::memset(s, 0, sizeof(float) * tiles * kKeyTile);
        alpha = 1.0f;
        return;
    }
    const float now = std::max(top, horizontal_max(most));
    alpha = top == kMinusInfinity ? 0.0f : std::exp2(top - now);
    const Vec base = splat(now);
    Vec total = Vec{};
    for (int j = 0; j < tiles * kKeyTile; j += W) {
        const Vec weight = exp2_nonpositive(load(s + j) - base);
        store(s + j, weight);
        total += weight;
    }
    sum = sum * alpha + horizontal_sum(total);
    top = now;
    if (!zero) return;
    for (int t = 0; t < tiles; ++t) {
        if (kept[t] == scored[t]) continue;
        float* at = s + t * kKeyTile;
        for (int j = 0; j < kKeyTile; j += W) {
            store(at + j, select(static_cast<uint32_t>(kept[t] >> j), load(at + j), 0.0f));
        }
    }
}
