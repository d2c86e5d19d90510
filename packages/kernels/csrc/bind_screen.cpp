// Screens of heads (screen.h): packed from a head, or over memory that somebody else owns, such as a mapped file.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>

#include "arrays.h"
#include "bindings.h"
#include "screen_bounds.h"
#include "shared_pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace tk {
namespace {

void check_matrix(const char* name, const Matrix& matrix, Format format) {
    if (matrix.format != format || matrix.group)
        throw std::invalid_argument(std::string(name) + " of a screen is " + info(matrix.format).name + " with groups of " +
                                    std::to_string(matrix.group) + "; it must be " + info(format).name + " without groups");
}

std::shared_ptr<Screen> from_parts(std::shared_ptr<Matrix> near, std::shared_ptr<Matrix> far, Array<float> directions,
                                   Array<float> factors, Array<float> errors) {
    check_matrix("near", *near, Format::q8);
    check_matrix("far", *far, Format::q4);
    if (near->rows != far->rows)
        throw std::invalid_argument("near and far of a screen have " + std::to_string(near->rows) + " and " + std::to_string(far->rows) + " rows");
    auto screen = std::make_shared<Screen>();
    screen->near = std::move(near);
    screen->far = std::move(far);
    screen->directions = borrow("directions", directions, screen->num_directions() * screen->cols());
    screen->factors = borrow("factors", factors, screen->num_directions() + screen->cols());
    screen->errors = borrow("errors", errors, 3 * screen->padded_rows());
    return screen;
}

std::shared_ptr<Screen> pack(const Matrix& head, Array<float> directions, Array<float> factors, int num_threads) {
    if (directions.ndim() != 2 || directions.shape(0) < 1 || static_cast<int64_t>(directions.shape(1)) != head.cols || factors.ndim() != 1 ||
        factors.shape(0) != directions.shape(0) + directions.shape(1))
        throw std::invalid_argument("directions [n, cols] and factors [n + cols] of a screen do not fit a head of " + std::to_string(head.cols) +
                                    " columns");
    std::shared_ptr<Screen> screen;
    const WithoutGil without_gil;
    with_shared_pool(threads_or_default(num_threads), [&](Pool& pool) {
        screen = pack_screen(pool, head, directions.data(), static_cast<int64_t>(directions.shape(0)), factors.data());
    });
    return screen;
}

using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

nb::tuple bounds(const Screen& screen, Floats2 states, int num_threads) {
    const auto count = states.shape(0), rows = static_cast<size_t>(screen.rows());
    if (static_cast<int64_t>(states.shape(1)) != screen.cols())
        throw std::invalid_argument("states have " + std::to_string(states.shape(1)) + " numbers, the screen " + std::to_string(screen.cols()));
    auto [products, product_data] = new_array<float>({count, rows});
    auto [upper, upper_data] = new_array<float>({count, rows});
    if (count == 0) return nb::make_tuple(products, upper);
    bool is_finite = false;
    {
        const WithoutGil without_gil;
        with_shared_pool(threads_or_default(num_threads), [&, to_products = product_data, to_upper = upper_data](Pool& pool) {
            ScreenBounds found;
            is_finite = found.find(pool, screen, states.data(), static_cast<int64_t>(count));
            for (size_t i = 0; is_finite && i < count; ++i) {
                std::copy_n(found.products(static_cast<int64_t>(i)), rows, to_products + i * rows);
                std::copy_n(found.upper(static_cast<int64_t>(i)), rows, to_upper + i * rows);
            }
        });
    }
    if (!is_finite) throw std::invalid_argument("a state is not finite");
    return nb::make_tuple(products, upper);
}

nb::tuple arrays(nb::handle self) {
    auto& screen = nb::cast<Screen&>(self);
    const auto count = static_cast<size_t>(screen.num_directions()), cols = static_cast<size_t>(screen.cols());
    return nb::make_tuple(view(screen.directions, {count, cols}, self), view(screen.factors, {count + cols}, self),
                          view(screen.errors, {size_t{3}, static_cast<size_t>(screen.padded_rows())}, self));
}

}  // namespace

void bind_screen(nb::module_& module) {
    nb::class_<Screen>(module, "Screen", "A compact copy of a head with bounds of its products (csrc/screen.h).")
        .def_static("from_parts", &from_parts, nb::keep_alive<0, 3>(), nb::keep_alive<0, 4>(), nb::keep_alive<0, 5>(), "near"_a, "far"_a,
                    "directions"_a.noconvert(), "factors"_a.noconvert(), "errors"_a.noconvert(),
                    R"(A screen over arrays as `arrays` gives them, without copying; they stay alive with it.

Raises:
    ValueError: formats or sizes do not fit, or an array does not begin at a multiple of 64 bytes.)")
        .def("arrays", &arrays, R"(Views, alive with the screen.

Returns:
    directions float32 [n, cols], factors float32 [n + cols], errors float32 [3, rows filled up to 16].)")
        .def("bounds", &bounds, "states"_a, "num_threads"_a = 0, R"(What the screen says of states float32 [n, cols].

Returns:
    products and upper bounds of the head's own logits, float32 [n, rows].

Raises:
    ValueError: another number of columns, or a state is not finite.)")
        .def_ro("near", &Screen::near)
        .def_ro("far", &Screen::far)
        .def_prop_ro("rows", &Screen::rows)
        .def_prop_ro("cols", &Screen::cols)
        .def_prop_ro("num_bytes", &Screen::num_bytes);
    module.def("pack_screen", &pack, "head"_a, "directions"_a, "factors"_a, "num_threads"_a = 0,
               R"(The screen of a head.

Args:
    directions: float32 [n, cols], what most of the states' length lies along; each of length 1.
    factors: float32 [n + cols], of the states along these and beside them; weights are divided by them.

Raises:
    ValueError: shapes do not fit, a direction is longer than 1 or a factor not between 1e-6 and 1e6.)");
}

}  // namespace tk
