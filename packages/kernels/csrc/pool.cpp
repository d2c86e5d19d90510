#include "pool.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tk {

namespace {

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr auto kSpin = std::chrono::microseconds(200);  // longer than the serial parts of a decoder step
constexpr int kPollsPerClock = 64;

// Polls until ready() or the time is over; says which.
template <typename Ready>
bool spin(const Ready& ready) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < kPollsPerClock; ++i) {
            if (ready()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

std::atomic<uint32_t> fork_count{0};
[[maybe_unused]] const int counts_forks = pthread_atfork(nullptr, nullptr, [] { ++fork_count; });

}  // namespace

uint32_t forks() { return fork_count.load(std::memory_order_relaxed); }

int available_cores() {
#if defined(__linux__)
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
#else  // macOS binds no process to cores
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#endif
}

Pool::Pool(int num_threads) { hire(num_threads - 1); }

// All as in a new pool: a parent's may be in the middle of a loop, whose rest nobody must take.
void Pool::hire(int num_workers) {
    ranges_ = std::make_unique<Range[]>(num_workers + 1);
    number_ = 0;
    sleepers_ = 0;
    stop_ = false;
    forks_ = forks();
    try {
        for (int i = 1; i <= num_workers; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error& error) {
        const std::string started = std::to_string(workers_.size());
        dismiss();
        throw std::runtime_error("started " + started + " threads, not " + std::to_string(num_workers) + ": " + error.what() +
                                 "; give a smaller num_threads");
    }
}

void Pool::dismiss() {
    stop_ = true;
    number_.fetch_add(1);
    number_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
}

// Their handles are never destroyed: those of threads that are not here can neither be joined nor detached.
void Pool::leave_workers_to_parent() { new std::vector<std::thread>(std::move(workers_)); }

Pool::~Pool() {
    if (forks_ == forks()) dismiss();
    else leave_workers_to_parent();
}

bool Pool::take(Range& from, uint32_t number, int thread) {
    uint64_t next = from.next.load(std::memory_order_acquire);
    while (true) {
        const auto chunk = static_cast<uint32_t>(next);
        // end may already belong to a later loop; then the exchange fails, because next carries another number.
        if (next >> 32 != number || chunk >= from.end.load(std::memory_order_relaxed)) return false;
        if (!from.next.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) continue;
        call_(context_, chunk, thread);
        ranges_[thread].done.fetch_add(1, std::memory_order_release);
        return true;
    }
}

void Pool::take_all(uint32_t number, int thread) {
    for (int i = 0; i < num_threads(); ++i)
        while (take(ranges_[(thread + i) % num_threads()], number, thread)) {
        }
}

void Pool::start(int64_t num_chunks, Call call, const void* context) {
    const int threads = num_threads();
    if (forks_ != forks()) {
        leave_workers_to_parent();
        hire(threads - 1);
    }
    const uint32_t number = number_.load(std::memory_order_relaxed) + 1;
    // Closed ranges first: no chunk can be taken until all is set, and a late worker of the last loop finds another number.
    for (int t = 0; t < threads; ++t) ranges_[t].next.store(uint64_t{number} << 32 | 0xffffffffu, std::memory_order_seq_cst);
    call_ = call;
    context_ = context;
    for (int t = 0; t < threads; ++t) {
        ranges_[t].done.store(0, std::memory_order_relaxed);
        ranges_[t].end.store(static_cast<uint32_t>(num_chunks * (t + 1) / threads), std::memory_order_relaxed);
    }
    for (int t = 0; t < threads; ++t)
        ranges_[t].next.store(uint64_t{number} << 32 | static_cast<uint64_t>(num_chunks * t / threads), std::memory_order_seq_cst);
    number_.store(number, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) number_.notify_all();
    take_all(number, 0);
    const auto finished = [&] {
        uint32_t done = 0;
        for (int t = 0; t < threads; ++t) done += ranges_[t].done.load(std::memory_order_acquire);
        return done == static_cast<uint32_t>(num_chunks);
    };
    while (!spin(finished)) sched_yield();  // a worker was stopped within its chunk: give it this core
}

void Pool::work(int thread) {
    uint32_t seen = 0;
    while (true) {
        const auto changed = [&] { return number_.load(std::memory_order_acquire) != seen; };
        if (!spin(changed)) {
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            number_.wait(seen, std::memory_order_seq_cst);
            sleepers_.fetch_sub(1, std::memory_order_relaxed);
        }
        if (stop_) return;
        seen = number_.load(std::memory_order_acquire);
        take_all(seen, thread);
    }
}

}  // namespace tk
