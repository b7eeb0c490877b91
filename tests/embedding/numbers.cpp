// Run in an emulator of another processor (make aarch64): attention and gathers on every path of the CPU against sums
// in double, in every type. Prints how many numbers of each path are wrong.
#include <avflow/avflow.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int kKeys = 300, kHeads = 6, kKeyHeads = 2;
int wrong = 0;

void expect(bool right, const char* what) {
    if (right) return;
    if (++wrong < 9) std::fprintf(stderr, "%s: %s\n", what, avflow_last_error());
}

uint16_t bf16_of(float x) {  // of numbers, to nearest
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float of_bf16(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

float of_f16(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const float x = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(fraction, -24);
    return half & 0x8000 ? -x : x;
}

// Random numbers in a type, and what they are.
struct Numbers {
    std::vector<float> are;
    std::vector<char> bytes;
    int type;

    Numbers(int64_t n, int32_t type, uint32_t seed) : are(n), bytes(n * (type == AVFLOW_F32 ? 4 : 2)), type(type) {
        for (int64_t i = 0; i < n; ++i) {
            seed = seed * 1664525 + 1013904223;
            set(i, static_cast<float>(seed >> 8) / (1 << 22) - 2.0f);
        }
    }
    void set(int64_t i, float x) {
        if (type == AVFLOW_F32) {
            std::memcpy(&bytes[i * 4], &x, 4);
        } else {
            // A half of 11 bits: what is left of x / 2^-9 is dropped, and a normal number below 4 is put together.
            const int exponent = x == 0 ? -14 : std::max(-14, std::ilogb(x));
            const int fraction = static_cast<int>(std::ldexp(std::fabs(x), 10 - exponent));
            const int half = fraction < 1024 ? fraction : (exponent + 15) << 10 | (fraction & 1023);
            const uint16_t bits = type == AVFLOW_BF16 ? bf16_of(x) : static_cast<uint16_t>(half | (x < 0 ? 0x8000 : 0));
            std::memcpy(&bytes[i * 2], &bits, 2);
        }
        are[i] = get(i);
    }
    float get(int64_t i) const {
        if (type == AVFLOW_F32) {
            float x;
            std::memcpy(&x, &bytes[i * 4], 4);
            return x;
        }
        uint16_t bits;
        std::memcpy(&bits, &bytes[i * 2], 2);
        return type == AVFLOW_BF16 ? of_bf16(bits) : of_f16(bits);
    }
};

constexpr float kWithin[] = {2e-5f, 2e-2f, 4e-3f};  // by type: f32, bf16, f16

// The last `rows` of kKeys tokens; the second ten of every forty are seen by none of the later groups' rows.
void attend(int rows, int depth, int32_t type, bool kept) {
    std::vector<int32_t> order(kKeys), group(kKeys), keep;
    for (int i = 0; i < kKeys; ++i) {
        order[i] = i, group[i] = i / 10 % 4;
        if (i % 7 != 3) keep.push_back(i);
    }
    AvflowCut cut{};
    cut.source = 2, cut.target = ~uint64_t{2}, cut.heads = AVFLOW_ALL, cut.threshold = AVFLOW_EVERY_EDGE;
    AvflowLayout layout{};
    layout.size = sizeof layout;
    layout.rows = {rows, &order[kKeys - rows], &group[kKeys - rows], nullptr, nullptr};
    layout.keys = {kKeys, order.data(), group.data(), nullptr, nullptr};
    layout.cuts = &cut, layout.n_cuts = 1;
    if (kept) layout.keep_keys = keep.data(), layout.n_keep_keys = static_cast<int64_t>(keep.size());
    AvflowPlan* plan = nullptr;
    expect(avflow_plan_create(&layout, AVFLOW_CPU, kHeads, kKeyHeads, nullptr, &plan) == AVFLOW_OK, "plan");

    const Numbers q(rows * kHeads * depth, type, 1), k(kKeys * kKeyHeads * depth, type, 2);
    Numbers v(kKeys * kKeyHeads * depth, type, 3), out(q.are.size(), type, 4);
    std::vector<float> lse(rows * kHeads);
    AvflowAttend call{};
    call.size = sizeof call;
    call.plan = plan;
    call.q = q.bytes.data(), call.k = k.bytes.data(), call.v = v.bytes.data(), call.out = out.bytes.data();
    call.lse = lse.data();
    call.q_row = kHeads * depth, call.q_head = call.k_head = call.v_head = depth;
    call.k_row = call.v_row = kKeyHeads * depth;
    call.batch = 1, call.slots = kKeys, call.head_dim = depth, call.type = type;
    call.scale = 1 / std::sqrt(static_cast<float>(depth));
    expect(avflow_attend_workspace(&call, &call.workspace_bytes) == AVFLOW_OK, "workspace");
    call.workspace = std::aligned_alloc(64, (call.workspace_bytes + 63) / 64 * 64);
    expect(avflow_attend(&call) == AVFLOW_OK, "attend");
    std::free(call.workspace);
    avflow_plan_destroy(plan);

    std::vector<double> weights(kKeys), sums(depth);
    for (int at = 0; at < rows * kHeads; ++at) {
        const int row = kKeys - rows + at / kHeads, kv_head = at % kHeads / (kHeads / kKeyHeads);
        double total = 0;
        sums.assign(depth, 0);
        for (int j = 0; j <= row; ++j) {
            if ((group[j] == 1 && group[row] != 1) || (kept && j % 7 == 3)) continue;
            const int64_t key = (j * kKeyHeads + kv_head) * static_cast<int64_t>(depth);
            double score = 0;
            for (int c = 0; c < depth; ++c) score += static_cast<double>(q.are[at * depth + c]) * k.are[key + c];
            const double weight = std::exp(score * call.scale);
            total += weight;
            for (int c = 0; c < depth; ++c) sums[c] += weight * v.are[key + c];
        }
        expect(std::fabs(lse[at] - std::log(total)) < 1e-4, "lse");
        for (int c = 0; c < depth; ++c) {
            expect(std::fabs(out.get(at * depth + c) - sums[c] / total) < kWithin[type], "out");
        }
    }
}

void gather(int32_t type) {
    constexpr int n = 9, m = 4, width = 83;
    const Numbers x(n * width, type, 5), weight(width, type, 6);
    Numbers kept(m * width, type, 7), normed = kept;
    const int32_t keep[m] = {-1, 0, 4, 8};
    AvflowNorm norm{};
    norm.size = sizeof norm;
    norm.x = x.bytes.data(), norm.weight = weight.bytes.data(), norm.keep = keep;
    norm.kept = kept.bytes.data(), norm.normed = normed.bytes.data();
    norm.n = n, norm.m = m, norm.width = norm.x_row = width, norm.eps = 1e-6f, norm.type = type;
    expect(avflow_gather_norm(&norm) == AVFLOW_OK, "norm");
    for (int i = 0; i < m; ++i) {
        const float* row = keep[i] < 0 ? nullptr : &x.are[keep[i] * width];
        double squares = 0;
        for (int c = 0; row && c < width; ++c) squares += static_cast<double>(row[c]) * row[c];
        const double factor = 1 / std::sqrt(squares / width + norm.eps);
        for (int c = 0; c < width; ++c) {
            const float value = row ? row[c] : 0;
            expect(kept.get(i * width + c) == value, "kept");
            expect(std::fabs(normed.get(i * width + c) - value * factor * weight.are[c]) < 2 * kWithin[type], "normed");
        }
    }
}

}  // namespace

int main() {
    AvflowCapabilities can{};
    can.size = sizeof can;
    expect(avflow_capabilities(&can) == AVFLOW_OK, "capabilities");
    const std::string built = can.cpu_built;
    for (size_t at = 0; at < built.size();) {
        const std::string path = built.substr(at, built.find(' ', at) - at);
        at += path.size() + 1;
        if (avflow_force_cpu(path.c_str()) != AVFLOW_OK) continue;
        for (const int32_t type : {AVFLOW_F32, AVFLOW_BF16, AVFLOW_F16}) {
            for (const int depth : {8, 24, 40, 64, 128}) {
                for (const int rows : {1, 3, 70}) attend(rows, depth, type, depth == 40);
            }
            gather(type);
        }
        std::printf("%s: %d wrong\n", path.c_str(), wrong);
    }
    return wrong != 0;
}
