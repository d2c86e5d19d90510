// Threads that share the chunks of a loop.
//
// Each thread begins with its own chunks and then helps the others; a loop is over when its chunks are done, not when every thread has reported.
// A worker that the system does not schedule therefore delays nothing, unless it was stopped within a chunk, and
// chunks are short. Workers spin briefly for the next loop (a decoder step has hundreds of them), then sleep.
// A child of fork starts workers of its own at its first loop.
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "common.h"

namespace tk {

// Cores that this process may run on.
int available_cores();

// How many forks lie between the process that loaded this library and this one. A child has none of its parent's
// threads: who started some keeps the number and compares.
uint32_t forks();

class Pool {
public:
    explicit Pool(int num_threads);  // Raises std::runtime_error where the system gives fewer threads.
    ~Pool();
    Pool(const Pool&) = delete;

    int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(chunk, thread) for each chunk in [0, num_chunks); thread < num_threads(). The caller works too.
    // One loop at a time; body must not throw.
    template <typename Body>
    void run(int64_t num_chunks, const Body& body) {
        if (num_chunks <= 1 || workers_.empty()) {
            for (int64_t i = 0; i < num_chunks; ++i) body(i, 0);
            return;
        }
        start(num_chunks, [](const void* context, int64_t chunk, int thread) { (*static_cast<const Body*>(context))(chunk, thread); }, &body);
    }

private:
    using Call = void (*)(const void*, int64_t, int);

    // The chunks of one thread: neighbours, because a kernel fetches ahead what it expects to do next. Who is done with
    // its own takes the next of another's. `next` holds the loop's number in its upper half and the next chunk in the
    // lower, so that a late worker cannot take a chunk of another loop.
    struct alignas(64) Range {
        std::atomic<uint64_t> next{0};
        std::atomic<uint32_t> end{0};
        std::atomic<uint32_t> done{0};  // chunks that this thread has finished, its own or others'
    };

    void hire(int num_workers);
    void dismiss();
    void leave_workers_to_parent();
    void start(int64_t num_chunks, Call call, const void* context);
    void take_all(uint32_t number, int thread);
    bool take(Range& from, uint32_t number, int thread);
    void work(int thread);

    std::vector<std::thread> workers_;
    uint32_t forks_ = 0;  // when the workers were started
    std::unique_ptr<Range[]> ranges_;
    alignas(64) std::atomic<uint32_t> number_{0};  // of the loop; workers poll it, then sleep on it
    Call call_ = nullptr;
    const void* context_ = nullptr;
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
};

}  // namespace tk
