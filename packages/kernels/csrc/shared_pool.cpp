#include "shared_pool.h"

#include <memory>
#include <mutex>

namespace tk {

int threads_or_default(int num_threads) {
    if (num_threads < 0) throw std::invalid_argument("num_threads must be 0 (one per core) or more, got " + std::to_string(num_threads));
    return num_threads ? num_threads : available_cores();
}

void with_shared_pool(int num_threads, const std::function<void(Pool&)>& work) {
    static std::mutex mutex;
    static std::unique_ptr<Pool> pool;
    const std::lock_guard lock(mutex);
    if (!pool || pool->num_threads() != num_threads) pool = std::make_unique<Pool>(num_threads);
    work(*pool);
}

}  // namespace tk
