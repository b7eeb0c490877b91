// The two products of a block of 16 or 32 rows by AMX: matrix tiles of 16 rows of 64 bytes, fp32 sums.
// Included by bf16_batch.h only; bf16_dot.h is the same for processors without matrix tiles.
//
// Tiles 0 to 3 are sums, 4 and 5 rows of the left operand, 6 and 7 columns of the right. With two tiles of rows each
// tile that is read is multiplied twice, and the products (16 clocks each) outlast the reads (8).
//
// GCC's intrinsics do not say that they read memory: the fences keep what was written before them there.

AVFLOW_INLINE void compiler_fence() { asm volatile("" ::: "memory"); }

// Matrix tiles belong to a thread; while they are in use the system saves 8 KB more when it switches.
static void begin_products() {
    struct Shapes {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static_assert(sizeof(Shapes) == 64);
    alignas(64) static constexpr Shapes kShapes;
    _tile_loadconfig(&kShapes);
}

static void end_products() { _tile_release(); }

template <int ROW_TILES>
AVFLOW_INLINE void score_block(const uint16_t* q, int deep, const uint32_t* panel, float* s, int lds) {
    constexpr int kStep = kKeyTile * 4;  // bytes between words of one key
    for (int n = 0; n < kKeyTile; n += 32) {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (ROW_TILES == 2) {
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int c = 0; c < deep; c += 32) {
            const uint32_t* b = panel + c / 2 * kKeyTile + n;
            _tile_loadd(4, q + c, deep * 2);
            _tile_loadd(6, b, kStep);
            _tile_loadd(7, b + 16, kStep);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if constexpr (ROW_TILES == 2) {
                _tile_loadd(5, q + 16 * deep + c, deep * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, s + n, lds * 4);
        _tile_stored(1, s + n + 16, lds * 4);
        if constexpr (ROW_TILES == 2) {
            _tile_stored(2, s + 16 * lds + n, lds * 4);
            _tile_stored(3, s + 16 * lds + n + 16, lds * 4);
        }
    }
}

// s [rows, 64] = q [rows, deep] x panel [deep / 2, 64]; rows is 16 or 32.
static __attribute__((noinline)) void scores(const uint16_t* q, int rows, int deep, const uint32_t* panel, float* s,
                                             int lds) {
    compiler_fence();
    rows > 16 ? score_block<2>(q, deep, panel, s, lds) : score_block<1>(q, deep, panel, s, lds);
    compiler_fence();
}

// Scores of up to 16 rows with the keys of a tile that lie `stride` apart, read where they are: s [16, 64] is the
// transpose of keys [64, deep] x turned [deep / 2, 16], which are the queries in pairs. Few rows do not pay for
// transposing every key.
static __attribute__((noinline)) void scores_in_place(const uint32_t* turned, int deep, const uint16_t* keys,
                                                      int64_t stride, const Ahead& ahead, float* s, int lds) {
    alignas(64) float columns[kKeyTile][16];
    compiler_fence();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const int each = (kKeyTile * 32 + deep - 1) / deep;  // rows to fetch beside each step
    for (int c = 0, fetched = 0; c < deep; c += 32) {
        const uint16_t* from = keys + c;
        _tile_loadd(6, turned + c / 2 * 16, 64);
        _tile_loadd(4, from, stride * 2);
        _tile_loadd(5, from + 16 * stride, stride * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(4, from + 32 * stride, stride * 2);
        _tile_loadd(5, from + 48 * stride, stride * 2);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 5, 6);
        for (int i = 0; i < each && fetched < kKeyTile; ++i) ahead.fetch(fetched++);
    }
    _tile_stored(0, columns[0], 64);
    _tile_stored(1, columns[16], 64);
    _tile_stored(2, columns[32], 64);
    _tile_stored(3, columns[48], 64);
    compiler_fence();
    for (int first = 0; first < kKeyTile; first += 16) {
        __m512i r[16];
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) r[j] = _mm512_load_si512(columns[first + j]);
        transpose16(r, s + first, lds);
    }
}

// 16 * COLUMN_TILES columns of o, from `column` on.
template <int ROW_TILES, int COLUMN_TILES>
AVFLOW_INLINE void value_block(const uint16_t* p, int ldp, const Values* values, int tiles, int width, int column,
                               float* o) {
    const int step = width * 4;
    o += column;
    _tile_loadd(0, o, step);
    if constexpr (COLUMN_TILES == 2) _tile_loadd(1, o + 16, step);
    if constexpr (ROW_TILES == 2) _tile_loadd(2, o + 16 * width, step);
    if constexpr (ROW_TILES * COLUMN_TILES == 4) _tile_loadd(3, o + 16 * width + 16, step);
    for (int t = 0; t < tiles; ++t) {
        for (int half = 0; half < 2; ++half) {
            const uint16_t* a = p + values[t].slot * kKeyTile + half * 32;
            const uint32_t* b = values[t].at + half * 16 * width + column;
            _tile_loadd(4, a, ldp * 2);
            _tile_loadd(6, b, step);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (COLUMN_TILES == 2) {
                _tile_loadd(7, b + 16, step);
                _tile_dpbf16ps(1, 4, 7);
            }
            if constexpr (ROW_TILES == 2) {
                _tile_loadd(5, a + 16 * ldp, ldp * 2);
                _tile_dpbf16ps(2, 5, 6);
                if constexpr (COLUMN_TILES == 2) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, o, step);
    if constexpr (COLUMN_TILES == 2) _tile_stored(1, o + 16, step);
    if constexpr (ROW_TILES == 2) _tile_stored(2, o + 16 * width, step);
    if constexpr (ROW_TILES * COLUMN_TILES == 4) _tile_stored(3, o + 16 * width + 16, step);
}

template <int ROW_TILES>
AVFLOW_INLINE void value_rows(const uint16_t* p, int ldp, const Values* values, int tiles, int width, float* o) {
    int column = 0;
    for (; column + 32 <= width; column += 32) value_block<ROW_TILES, 2>(p, ldp, values, tiles, width, column, o);
    if (column < width) value_block<ROW_TILES, 1>(p, ldp, values, tiles, width, column, o);
}

// o [rows, width] += p [rows, tiles * 64] x values [tiles][32, width].
static __attribute__((noinline)) void accumulate(const uint16_t* p, int ldp, int rows, const Values* values, int tiles,
                                                 int width, float* o) {
    compiler_fence();
    rows > 16 ? value_rows<2>(p, ldp, values, tiles, width, o) : value_rows<1>(p, ldp, values, tiles, width, o);
    compiler_fence();
}
