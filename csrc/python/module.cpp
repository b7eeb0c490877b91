// The module avflow_ext._C: packing, and questions to libavflow. It knows no torch and registers nothing.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/mask.h"
#include "core/plan.h"
#include "cuda/call.h"  // host code: plans for CUDA are made, and emulated, in builds without CUDA too
#include "kernels.h"

namespace py = pybind11;

namespace {

using Int32Array = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

struct Cut {
    avflow::CutRule rule{};
    std::optional<std::vector<int32_t>> streams;  // none: all of them
};

std::vector<avflow::Token> tokens(const Int32Array& columns) {  // [n, 4] or [n, 5]
    const bool known = columns.ndim() == 2 && (columns.shape(1) == 4 || columns.shape(1) == 5);
    if (!known) throw py::value_error("token columns must be [n, 4], or [n, 5] with blocks");
    std::vector<avflow::Token> out(columns.shape(0));
    if (columns.shape(1) == 4) {
        if (!out.empty()) std::memcpy(out.data(), columns.data(), out.size() * sizeof(avflow::Token));
        return out;
    }
    for (size_t i = 0; i < out.size(); ++i) std::memcpy(&out[i], columns.data() + 5 * i, sizeof(avflow::Token));
    return out;
}

std::vector<int32_t> blocks(const Int32Array& columns) {  // none where the columns hold none
    std::vector<int32_t> out;
    if (columns.shape(1) == 4) return out;
    out.resize(columns.shape(0));
    for (size_t i = 0; i < out.size(); ++i) out[i] = columns.data()[5 * i + 4];
    return out;
}

std::vector<int32_t> list(const std::optional<Int32Array>& index) {
    return index ? std::vector<int32_t>(index->data(), index->data() + index->size()) : std::vector<int32_t>{};
}

avflow::Layout layout(const Int32Array& rows, const Int32Array& keys, const Int32Array& streams,
                      const std::vector<Cut>& cuts, const std::optional<Int32Array>& keep_rows,
                      const std::optional<Int32Array>& keep_keys, int64_t q_rows, int64_t k_rows, int32_t groups,
                      int32_t tile_rows, bool zero, const std::optional<int32_t>& latest_order, int64_t most_words,
                      int32_t window, bool window_in_blocks) {
    if (std::max(q_rows, k_rows) > INT32_MAX) {
        throw py::value_error(std::to_string(q_rows) + " rows and " + std::to_string(k_rows) +
                              " keys: the kernels count both in int32; pass fewer at a time");
    }
    if (most_words < 0 || most_words > INT32_MAX) throw py::value_error("most_words lies in 0 .. 2**31 - 1");
    if (tile_rows < 1) throw py::value_error("tile_rows must be at least 1");
    if (streams.ndim() != 2 || streams.shape(1) != 2) throw py::value_error("streams must be [n, 2]: parent, start");
    if (window < 0) throw py::value_error("window is 0 (none) or more");
    avflow::Layout in;
    in.rows = tokens(rows);
    in.keys = tokens(keys);
    in.row_blocks = blocks(rows);
    in.key_blocks = blocks(keys);
    in.window = window;
    in.window_in_blocks = window_in_blocks;
    in.streams.resize(streams.shape(0));
    if (!in.streams.empty()) {
        std::memcpy(in.streams.data(), streams.data(), in.streams.size() * sizeof(avflow::Stream));
    }
    const int32_t count = static_cast<int32_t>(in.streams.size());
    for (const auto& stream : in.streams) {
        if (stream.parent < -1 || stream.parent >= count) throw py::value_error("a parent names no stream");
        if (stream.parent >= 0 && stream.start == INT32_MIN) {
            throw py::value_error("a stream starts at -2**31: no order is smaller, start it later");
        }
    }
    for (const auto* side : {&in.rows, &in.keys}) {
        for (const auto& token : *side) {
            if (token.stream >= count) throw py::value_error("a token names no stream");
            if (token.group < 0 || token.group > 63) throw py::value_error("groups are 0..63");
        }
    }
    in.stream_cuts.resize(count);
    for (const Cut& cut : cuts) {
        const int32_t id = static_cast<int32_t>(in.cuts.size());
        in.cuts.push_back(cut.rule);
        if (!cut.streams) {
            for (auto& ids : in.stream_cuts) ids.push_back(id);
            continue;
        }
        for (const int32_t stream : *cut.streams) {
            if (stream < 0 || stream >= count) throw py::value_error("a cut names no stream");
            in.stream_cuts[stream].push_back(id);
        }
    }
    in.keeps_rows = keep_rows.has_value();
    in.keeps_keys = keep_keys.has_value();
    in.keep_rows = list(keep_rows);
    in.keep_keys = list(keep_keys);
    in.q_rows = static_cast<int32_t>(q_rows);
    in.k_rows = static_cast<int32_t>(k_rows);
    in.groups = groups;
    in.tile_rows = tile_rows;
    in.zero = zero;
    in.latest_order = latest_order;
    in.most_words = most_words;
    return in;
}

// Without a copy: the plan of a sweep inside the media is tens of megabytes.
py::array_t<int32_t> as_array(std::vector<int32_t> words) {
    auto kept = std::make_unique<std::vector<int32_t>>(std::move(words));
    const py::capsule owner(kept.get(), [](void* at) { delete static_cast<std::vector<int32_t>*>(at); });
    const auto* held = kept.release();
    return py::array_t<int32_t>(static_cast<py::ssize_t>(held->size()), held->data(), owner);
}

// What the plan decided for each pair of tiles: 0 skip, 1 partial, 2 full. [row_tiles, key_tiles], for tests and
// drawings.
py::array_t<int32_t> tile_kinds(const Int32Array& packed) {
    const avflow::Problem p = avflow::view(packed.data());
    py::array_t<int32_t> kinds({p.header->row_tiles, p.header->key_tiles});
    auto out = kinds.mutable_unchecked<2>();
    for (int32_t t = 0; t < p.header->row_tiles; ++t) {
        for (int32_t c = 0; c < p.header->key_tiles; ++c) out(t, c) = 0;
        for (int32_t s = p.span_begin[t]; s < p.span_begin[t + 1]; ++s) {
            for (int32_t i = 0; i < p.spans[s].count; ++i) {
                int32_t& kind = out(t, p.spans[s].first + i);
                if (kind) throw py::value_error("two spans of a row tile hold one key tile");
                kind = p.spans[s].kind == avflow::kFull ? 2 : 1;
            }
        }
    }
    return kinds;
}

// How large the plan of a packed problem is.
py::dict plan_size(const Int32Array& packed) {
    const avflow::Problem p = avflow::view(packed.data());
    const avflow::Header& h = *p.header;
    py::dict size;
    size["tile_rows"] = h.tile_rows;
    size["row_tiles"] = h.row_tiles;
    size["key_tiles"] = h.key_tiles;
    size["runs"] = p.run_begin[h.key_tiles];
    size["spans"] = p.span_begin[h.row_tiles];
    size["tiles"] = h.total_tiles;
    return size;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Packs attention problems and tells what the kernels can do; libavflow_torch.so has the operators.";
    m.attr("__version__") = AVFLOW_PYTHON_VERSION;

    py::class_<Cut>(m, "Cut").def(
        py::init([](uint64_t source, uint64_t target, std::optional<std::vector<int32_t>> streams, bool other_items,
                    std::optional<uint64_t> heads, bool cut_self, uint64_t threshold, uint32_t seed) {
            Cut cut;
            cut.rule = {source, target, heads.value_or(avflow::kAllHeads), threshold, seed, other_items, cut_self, 0};
            cut.streams = std::move(streams);
            return cut;
        }),
        py::arg("source"), py::arg("target"), py::arg("streams"), py::arg("other_items"), py::arg("heads"),
        py::arg("cut_self"), py::arg("threshold"), py::arg("seed"));

    m.def(
        "pack",
        [](const Int32Array& rows, const Int32Array& keys, const Int32Array& streams, const std::vector<Cut>& cuts,
           const std::optional<Int32Array>& keep_rows, const std::optional<Int32Array>& keep_keys, int64_t q_rows,
           int64_t k_rows, int32_t groups, int32_t tile_rows, bool zero, const std::optional<int32_t>& latest_order,
           int64_t most_words, int64_t threads, int32_t window, bool window_in_blocks, bool rows_apart) {
            if (threads < 1) throw py::value_error("threads = " + std::to_string(threads) + ": 1 at least");
            avflow::Layout in = layout(rows, keys, streams, cuts, keep_rows, keep_keys, q_rows, k_rows, groups,
                                       tile_rows, zero, latest_order, most_words, window, window_in_blocks);
            in.rows_apart = rows_apart;
            std::vector<int32_t> words;
            {
                py::gil_scoped_release unlocked;
                words = avflow::pack(in, nullptr, threads);
            }
            return as_array(std::move(words));
        },
        py::arg("rows"), py::arg("keys"), py::arg("streams"), py::arg("cuts"), py::arg("keep_rows"),
        py::arg("keep_keys"), py::arg("q_rows"), py::arg("k_rows"), py::arg("groups"), py::arg("tile_rows"),
        py::arg("zero"), py::arg("latest_order"), py::arg("most_words") = int64_t{INT32_MAX}, py::arg("threads") = 1,
        py::arg("window") = 0, py::arg("window_in_blocks") = false, py::arg("rows_apart") = false,
        "The packed problem (int32 words) of token columns rows [n, 4] and keys [m, 4] = (order, group, item, stream), "
        "or [n, 5] with the block in the end, keep lists already applied, and streams [s, 2] = (parent, start). With "
        "latest_order, the rows' order is what a call will say, from the token's own to that. `window` is 0 for none. "
        "rows_apart: of fewer than tile_rows where that parts sequences that share no keys. "
        "ValueError where it would have more than most_words, or threads is not positive.");
    m.def("tile_kinds", &tile_kinds, py::arg("packed"));
    m.def("plan_size", &plan_size, py::arg("packed"));
    m.def(
        "tile_rows",
        [](int32_t heads_per_kv_head, const std::string& kernel) {
            if (heads_per_kv_head < 1) {
                throw py::value_error(std::to_string(heads_per_kv_head) + " query heads of a key head: 1 at least");
            }
            if (kernel == "cpu") return avflow_tile_rows(heads_per_kv_head);
            if (kernel == "cuda") return avflow::cuda::tile_rows(heads_per_kv_head);
            if (kernel == "hopper") return avflow::cuda::wide_tile_rows(heads_per_kv_head);
            throw py::value_error("no kernel named " + kernel + ": cpu, cuda and hopper are known");
        },
        py::arg("heads_per_kv_head"), py::arg("kernel") = "cpu");
    m.def(
        "cuda",
        []() -> py::object {
#ifdef AVFLOW_HAVE_CUDA
            py::dict found;
            found["archs"] = std::string(avflow_cuda_archs());
            const int32_t runtime = avflow_cuda_runtime();
            found["runtime"] = py::make_tuple(runtime / 1000, runtime % 1000 / 10);
            int32_t count = 0;
            const int32_t status = avflow_cuda_device_count(&count);
            found["devices"] = count;
            found["hopper"] = avflow_hopper_tile_rows(1) > 0;
            found["error"] = status == 0 ? py::object(py::none()) : py::str(avflow_cuda_error_text(status));
            return found;
#else
            return py::none();
#endif
        },
        "None where the module was built without CUDA, else the compiled archs and what its own runtime sees.");
    m.def(
        "force_tall",
        []([[maybe_unused]] bool force) {
#ifdef AVFLOW_HAVE_CUDA
            avflow_tall_force(force);
#endif
        },
        py::arg("force"),
        "Whether the tall CUDA kernel takes plans of large tiles also where the Hopper kernel runs; for tests and "
        "measurements.");
    m.attr("KEY_TILE") = avflow::kKeyTile;
    m.def("cpu_isa", [] { return std::string(avflow_cpu_isa()); });
    m.def(
        "set_cpu_isa",
        [](const std::string& name) {
            if (!avflow_set_cpu_isa(name.c_str())) {
                throw py::value_error("this build or this processor has no path named " + name +
                                      "; built are: " + avflow_cpu_isas());
            }
        },
        py::arg("name"));
    m.def("cpu_isas", [] {
        std::istringstream names(avflow_cpu_isas());
        return std::vector<std::string>(std::istream_iterator<std::string>(names), {});
    });
}
