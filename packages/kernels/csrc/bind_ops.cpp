// Matrices and corrections over memory that somebody else owns: buffers of PyTorch (src/ternary_kernels/torch_ops.py),
// mapped files (src/ternary_kernels/packed).
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include "arrays.h"
#include "bindings.h"
#include "low_rank.h"
#include "matrix.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tk {
namespace {

std::shared_ptr<Matrix> from_parts(Array<uint8_t> data, Array<float> row_scales, Array<uint16_t> group_scales, int64_t rows, int64_t cols,
                                   int64_t group, const std::string& format, bool has_minimums) {
    auto matrix = std::make_shared<Matrix>(parse_format(format), rows, cols, group, has_minimums, Matrix::LayoutOnly{});
    matrix->data = borrow("data", data, matrix->row_blocks * matrix->block_bytes);
    matrix->row_scales = borrow("row_scales", row_scales, matrix->num_row_scales());
    matrix->group_scales = borrow("group_scales", group_scales, matrix->num_group_scales());
    return matrix;
}

std::shared_ptr<Matrix> in_slab(const std::shared_ptr<Matrix>& matrix) {
    return matrix->is_small() && matrix->data.is_borrowed() ? std::make_shared<Matrix>(matrix->copy()) : matrix;
}

std::shared_ptr<LowRank> low_rank_from_parts(Array<float> down, Array<float> up, int64_t rows, int64_t cols, int64_t rank) {
    constexpr int64_t most = int64_t{1} << 31;  // products of two do not overflow
    if (rows < 1 || cols < 1 || rank < 1 || rows > most || cols > most || rank > most)
        throw std::invalid_argument("a correction of " + std::to_string(rows) + " x " + std::to_string(cols) + " of rank " +
                                    std::to_string(rank));
    return std::make_shared<LowRank>(rows, cols, rank, borrow("down", down, rank * cols), borrow("up", up, rank * rows));
}

nb::tuple parts(nb::handle self) {
    auto& matrix = nb::cast<Matrix&>(self);
    const auto blocks = static_cast<size_t>(matrix.row_blocks);
    return nb::make_tuple(view(matrix.data, {blocks, static_cast<size_t>(matrix.block_bytes)}, self),
                          view(matrix.row_scales, {static_cast<size_t>(matrix.num_row_scales())}, self),
                          view(matrix.group_scales, {blocks, static_cast<size_t>(matrix.planes() * matrix.num_groups), size_t{kRowBlock}}, self));
}

nb::tuple low_rank_parts(nb::handle self) {
    auto& pair = nb::cast<LowRank&>(self);
    const auto rank = static_cast<size_t>(pair.rank);
    return nb::make_tuple(view(pair.down, {rank, static_cast<size_t>(pair.cols)}, self),
                          view(pair.up, {rank, static_cast<size_t>(pair.rows)}, self));
}

std::tuple<int64_t, int64_t, int64_t> packed_shape(int64_t rows, int64_t cols, int64_t group, const std::string& format) {
    const Matrix matrix(parse_format(format), rows, cols, group, false, Matrix::LayoutOnly{});
    return {matrix.row_blocks, matrix.block_bytes, matrix.num_groups};
}

}  // namespace

void bind_ops(nb::module_& module) {
    nb::borrow<nb::class_<Matrix>>(nb::type<Matrix>())
        .def_static("from_parts", &from_parts, nb::keep_alive<0, 1>(), nb::keep_alive<0, 2>(), nb::keep_alive<0, 3>(),
                    "data"_a.noconvert(), "row_scales"_a.noconvert(), "group_scales"_a.noconvert(), "rows"_a, "cols"_a, "group_size"_a, "format"_a,
                    "has_minimums"_a = false,
                    R"(A matrix over arrays as `parts` gives them, without copying; they stay alive with it.

Raises:
    ValueError: a size does not fit, or an array does not begin at a multiple of 64 bytes.)")
        .def("in_slab", &in_slab, R"(A small matrix over memory that others own as a copy in a slab of large pages; any other as it is.

What the copy was made of need not live on.)")
        .def("parts", &parts, R"(Views of the packed data, alive with the matrix; read only where it does not own them.

Returns:
    data uint8 [row blocks, bytes of a block], row_scales float32 [row blocks * 16] (complex: the scales of the planes) and group_scales
    uint16 [row blocks, groups, 16], the bits of float16 (no groups: empty; with minimums: scales of all groups, then
    minimums).)");
    nb::borrow<nb::class_<LowRank>>(nb::type<LowRank>())
        .def_static("from_parts", &low_rank_from_parts, nb::keep_alive<0, 1>(), nb::keep_alive<0, 2>(), "down"_a.noconvert(),
                    "up"_a.noconvert(), "rows"_a, "cols"_a, "rank"_a,
                    R"(A correction over arrays as `parts` gives them, without copying; they stay alive with it.

Raises:
    ValueError: a size does not fit, or an array does not begin at a multiple of 64 bytes.)")
        .def("parts", &low_rank_parts, R"(Views of the factors, alive with the correction.

Returns:
    down float32 [rank, cols] and up float32 [rank, rows].)");
    module.def("packed_shape", &packed_shape, "rows"_a, "cols"_a, "group_size"_a, "format"_a,
               "(row blocks, bytes of a block, groups of a padded row) of a matrix; ValueError where the format has none.");
}

}  // namespace tk
