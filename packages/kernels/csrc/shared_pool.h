// Threads for packing and single products; a decoder has its own.
#pragma once

#include <functional>

#include "pool.h"

namespace tk {

// 0: one per core. Raises std::invalid_argument on negative numbers.
int threads_or_default(int num_threads);

// Calls work with a pool of that many threads; one caller at a time.
void with_shared_pool(int num_threads, const std::function<void(Pool&)>& work);

}  // namespace tk
