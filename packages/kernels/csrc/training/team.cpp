#include "training/team.h"

#include <atomic>

#include "shared_pool.h"

namespace tk {

namespace {

std::atomic<OpenMpParallel> openmp{nullptr};
std::atomic<uint32_t> forks_when_borrowed{0};

struct Loop {
    int64_t num_chunks;
    void (*call)(const void*, int64_t);
    const void* context;
    std::atomic<int64_t> next{0};

    void take_all() {
        for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < num_chunks;) call(context, chunk);
    }
};

}  // namespace

void borrow_openmp(OpenMpParallel parallel) {
    forks_when_borrowed = forks();
    openmp = parallel;
}

void Team::share(int64_t num_chunks, Call call, const void* context) const {
    Loop loop{num_chunks, call, context};
    // In a child of fork, OpenMP would wait for ever for the threads of the parent.
    if (const auto parallel = openmp.load(); parallel && forks_when_borrowed == forks())
        parallel([](void* data) { static_cast<Loop*>(data)->take_all(); }, &loop, static_cast<unsigned>(num_threads_), 0);
    else
        with_shared_pool(num_threads_, [&](Pool& pool) { pool.run(num_chunks, [&](int64_t chunk, int) { call(context, chunk); }); });
}

}  // namespace tk
