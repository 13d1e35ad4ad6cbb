// The one pool of compute threads. The caller of a region works in it too, so a pool of n threads
// keeps n - 1 workers, and no more threads than that ever spin. Idle workers spin for about a
// millisecond (a decode step issues a region every few microseconds, and a futex wake costs more
// than a small kernel), then sleep. Workers inherit the affinity of whoever created them; one that
// shares a core with the caller is moved off it.
//
// A region is shared only by the workers that hold a core at that moment: a spinning worker writes
// a heartbeat, and one whose heartbeat is old (pushed off its core by other work) is left out
// rather than waited for. As no result depends on the number of threads, that costs nothing but
// its share of the speed, where waiting would cost a scheduler's slice per region. A sleeper is
// woken and given a moment, and nobody falls asleep while a region runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "placement.h"

namespace cierzo {

class ThreadPool;

// One thread's view of the parallel region it is in.
class Team {
  public:
    int thread() const { return thread_; }
    int num_threads() const { return num_threads_; }

    // Waits for every thread of the region. All of them must call it equally often.
    void barrier() const;
    // The same, calling meanwhile() until all are there or it returns false.
    template <class F>
    void barrier(const F& meanwhile) const;

    // This thread's share [begin, end) of n items: contiguous, in thread order, sizes differ by one
    // at most.
    struct Range {
        int64_t begin, end;
    };
    Range share(int64_t n) const {
        return {n * thread_ / num_threads_, n * (thread_ + 1) / num_threads_};
    }

    // Dynamic chunking: the next untaken index of a sequence, counting up from 0 over all threads
    // of the region. 0 <= sequence < 8: a region of several phases uses one for each.
    int64_t next(int sequence = 0) const;

  private:
    friend class ThreadPool;
    Team(ThreadPool& pool, int thread, int num_threads)
        : pool_(pool), thread_(thread), num_threads_(num_threads) {}
    ThreadPool& pool_;
    int thread_;
    int num_threads_;
};

class ThreadPool {
  public:
    static ThreadPool& instance();

    // 1 <= n <= 1024. Waits for a running region to end. Throws std::invalid_argument.
    void set_num_threads(int n);
    int num_threads() const { return num_threads_.load(std::memory_order_relaxed); }

    // Calls f(const Team&) on every thread and returns when all have returned. Denormals are
    // flushed (inputs and results) inside, on every thread, and the caller's mode is restored. f
    // must not throw and must not start a region. Regions from several callers run one after
    // another.
    template <class F>
    void run(const F& f) {
        run_region(
            [](const void* context, const Team& team) { (*static_cast<const F*>(context))(team); },
            &f, false);
    }
    // The same on the calling thread only: for work too small to share.
    template <class F>
    void run_alone(const F& f) {
        run_region(
            [](const void* context, const Team& team) { (*static_cast<const F*>(context))(team); },
            &f, true);
    }

    // f(begin, end) over [0, n): one contiguous share per thread.
    template <class F>
    void parallel_for(int64_t n, const F& f) {
        run([&](const Team& team) {
            const auto [begin, end] = team.share(n);
            if (begin < end) f(begin, end);
        });
    }
    // f(begin, end) over [0, n) in chunks taken by whichever thread is free.
    template <class F>
    void parallel_for_dynamic(int64_t n, int64_t chunk, const F& f) {
        run([&](const Team& team) {
            for (int64_t i = team.next() * chunk; i < n; i = team.next() * chunk)
                f(i, i + chunk < n ? i + chunk : n);
        });
    }

  private:
    friend class Team;
    using RegionFunction = void (*)(const void*, const Team&);

    // One worker's mailbox. Each group is written by one side and read by the other, so it lies on
    // a cache line of its own: a call into a region is one line, and so is the answer.
    struct Worker {
        alignas(64) std::atomic<uint32_t> posted{0};  // incremented to call it into a region
        int place = 0;                                // its thread number there
        int team_size = 0;
        RegionFunction function = nullptr;
        const void* context = nullptr;
        alignas(64) std::atomic<uint32_t> finished{0};  // as `posted`, when it is through
        alignas(64) std::atomic<uint64_t> heartbeat{0};
        std::atomic<int> core{-1};  // as of the heartbeat
        alignas(64) std::atomic<bool> is_asleep{false};
        std::atomic<uint32_t> alarm{0};      // incremented to end its sleep
        alignas(64) uint64_t last_seen = 0;  // the caller's: when a region with it ended
        Placement placement;
        std::thread thread;
    };

    ThreadPool();
    void run_region(RegionFunction function, const void* context, bool alone);
    int choose_team();
    void worker_loop(Worker& self);
    void sleep(Worker& self, uint32_t seen);
    static void beat(Worker& self);
    static void post(Worker& worker);
    static void wake(Worker& worker);
    static bool is_fresh(const Worker& worker);
    void call_team(RegionFunction function, const void* context);
    void await_team();
    // One thread more is at the barrier. True where it is the last, which ends the epoch.
    bool arrive(int num_threads, uint32_t& epoch);
    bool is_over(uint32_t epoch) const {
        return barrier_epoch_.load(std::memory_order_acquire) != epoch;
    }
    void await(uint32_t epoch) const;
    void stop_workers();

    std::mutex region_mutex_;  // one region, or one change of size, at a time
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<Worker*> team_;    // the workers of the region
    std::vector<int> held_cores_;  // theirs and the caller's
    std::atomic<int> num_threads_{1};
    bool stopping_ = false;
    // Each on its own cache line: they are written by different threads.
    alignas(64) std::atomic<bool> is_busy_{false};  // a region is running, whoever is in it
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> barrier_epoch_{0};
    alignas(64) std::atomic<int64_t> counters_[8] = {};
};

template <class F>
void Team::barrier(const F& meanwhile) const {
    uint32_t epoch;
    if (num_threads_ == 1 || pool_.arrive(num_threads_, epoch)) return;
    while (!pool_.is_over(epoch))
        if (!meanwhile()) return pool_.await(epoch);
}

}  // namespace cierzo
