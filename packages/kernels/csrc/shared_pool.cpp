#include "shared_pool.h"

#include <pthread.h>

#include <atomic>
#include <memory>
#include <mutex>

namespace tk {

namespace {

struct Shared {
    std::mutex mutex;
    std::unique_ptr<Pool> pool;
};

// Never destroyed: threads may compute while the process ends, and the workers end with it.
std::atomic<Shared*> shared{new Shared};
// A child of fork gets another: in its parent a thread may have held the mutex, which nobody would release here.
[[maybe_unused]] const int renews = pthread_atfork(nullptr, nullptr, [] { shared = new Shared; });

}  // namespace

int threads_or_default(int num_threads) {
    if (num_threads < 0) throw std::invalid_argument("num_threads must be 0 (one per core) or more, got " + std::to_string(num_threads));
    return num_threads ? num_threads : available_cores();
}

void with_shared_pool(int num_threads, const std::function<void(Pool&)>& work) {
    auto& [mutex, pool] = *shared.load();
    const std::lock_guard lock(mutex);
    if (!pool || pool->num_threads() != num_threads) pool = std::make_unique<Pool>(num_threads);
    work(*pool);
}

}  // namespace tk
