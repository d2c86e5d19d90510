// Threads for training kernels: those of the OpenMP runtime that PyTorch runs on.
//
// A training step alternates between PyTorch's operators and ours. Two pools would fight for the cores, because the
// threads of each spin for a while when their loop is over. So ours run on the workers that are spinning already.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common.h"

namespace tk {

// GCC's OpenMP runtime: GOMP_parallel(body, data, threads, flags), of which PyTorch's copy is found by the caller.
using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
// nullptr: loops run on a pool of our own.
void borrow_openmp(OpenMpParallel parallel);

class Team {
public:
    explicit Team(int num_threads) : num_threads_(num_threads) {}

    // Calls body(chunk) for each chunk in [0, num_chunks), in any order; body must not throw.
    template <typename Body>
    void run(int64_t num_chunks, const Body& body) const {
        if (num_chunks <= 1 || num_threads_ <= 1) {
            for (int64_t chunk = 0; chunk < num_chunks; ++chunk) body(chunk);
            return;
        }
        share(num_chunks, [](const void* context, int64_t chunk) { (*static_cast<const Body*>(context))(chunk); }, &body);
    }

    // The same over rows: body(first, last) for runs of at most `most` rows.
    template <typename Body>
    void run_rows(int64_t rows, int64_t most, const Body& body) const {
        run(ceil_div(rows, most), [&](int64_t chunk) { body(chunk * most, std::min(rows, (chunk + 1) * most)); });
    }

private:
    using Call = void (*)(const void*, int64_t);
    void share(int64_t num_chunks, Call call, const void* context) const;

    int num_threads_;
};

}  // namespace tk
