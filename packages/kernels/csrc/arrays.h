// Numpy arrays: new ones, views of buffers, and buffers over their memory.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "common.h"

namespace tk {

// An owned numpy array; data is filled by the caller.
template <typename T, size_t N>
std::pair<nanobind::ndarray<nanobind::numpy, T>, T*> new_array(const size_t (&shape)[N]) {
    size_t size = 1;
    for (const size_t n : shape) size *= n;
    T* data = new T[size];
    nanobind::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return {nanobind::ndarray<nanobind::numpy, T>(data, N, shape, owner), data};
}

// Of memory that may be read only: nothing but packing writes into what it is for, and that has memory of its own.
template <typename T>
using Array = nanobind::ndarray<const T, nanobind::c_contig, nanobind::device::cpu>;

// Raises std::invalid_argument where a size is not the expected one, or memory does not begin where kernels load vectors.
template <typename T>
Buffer<T> borrow(const char* name, const Array<T>& array, int64_t size) {
    constexpr uintptr_t kAlignment = 64;
    if (static_cast<int64_t>(array.size()) != size)
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.size()) + " values, " + std::to_string(size) +
                                    " are needed");
    const auto past = reinterpret_cast<uintptr_t>(array.data()) % kAlignment;
    if (size && past)
        throw std::invalid_argument(std::string(name) + " begins " + std::to_string(past) + " bytes past a multiple of " +
                                    std::to_string(kAlignment) + "; copy it into memory of its own");
    return Buffer<T>::borrow(const_cast<T*>(array.data()), size);
}

// Of borrowed memory, which may be read only, views are.
template <typename T, size_t N>
nanobind::object view(Buffer<T>& buffer, const size_t (&shape)[N], nanobind::handle owner) {
    namespace nb = nanobind;
    if (buffer.is_borrowed())
        return nb::cast(nb::ndarray<nb::numpy, const T>(buffer.data(), N, shape, owner), nb::rv_policy::reference);
    return nb::cast(nb::ndarray<nb::numpy, T>(buffer.data(), N, shape, owner), nb::rv_policy::reference);
}

}  // namespace tk
