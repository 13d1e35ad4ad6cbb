#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cierzo {

namespace {

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A clock for heartbeats: cheap, and the same on all cores.
uint64_t ticks() {
#if defined(__x86_64__)
    return __rdtsc();
#else
    return uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

// Between 10 and 20 us at the 2 to 4 GHz of x86-64 time stamp counters, 40 us in nanoseconds: many
// rounds of a spinning worker, and far below a scheduler's slice.
constexpr uint64_t kFreshTicks = 40'000;

// How long a region waits for a sleeper that it woke: a futex takes some 50 us on an idle machine,
// and on a busy one the region had better begin.
constexpr uint64_t kWakeTicks = 600'000;

// Spins until done(). Where the cores are shared with other work the thread waited for may have
// lost its own, so after some tens of microseconds each round offers ours.
template <class Done>
void spin_until(Done done) {
    constexpr int kPatience = 1024;  // pauses, about 40 us
    for (int i = 0; !done(); ++i) {
        pause();
        if (i > kPatience) std::this_thread::yield();
    }
}

// Flushes denormal inputs and results while in scope: what the AMX unit always does, and a denormal
// costs some hundred cycles elsewhere.
class FlushDenormals {
  public:
#if defined(__x86_64__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }  // FTZ | DAZ
    ~FlushDenormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t(1) << 24)));  // FZ
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

  private:
    uint64_t saved_ = 0;
#else
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
};

int default_num_threads() {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
    const unsigned n = std::thread::hardware_concurrency();
    return n == 0 ? 1 : int(n);
}

}  // namespace

void Team::barrier() const {
    barrier([] { return false; });
}

int64_t Team::next(int sequence) const {
    return pool_.counters_[sequence].fetch_add(1, std::memory_order_relaxed);
}

ThreadPool& ThreadPool::instance() {
    // Never destroyed: workers may outlive static destruction.
    static ThreadPool* pool = new ThreadPool;
    return *pool;
}

ThreadPool::ThreadPool() {
    const int n = default_num_threads();
    set_num_threads(n > 1024 ? 1024 : n);
}

void ThreadPool::set_num_threads(int n) {
    if (n < 1 || n > 1024)
        throw std::invalid_argument("set_num_threads: n must be between 1 and 1024; got " +
                                    std::to_string(n));
    std::lock_guard lock(region_mutex_);
    if (n == num_threads_ && int(workers_.size()) == n - 1) return;
    stop_workers();
    for (int i = 1; i < n; ++i) {
        workers_.push_back(std::make_unique<Worker>());
        Worker& worker = *workers_.back();
        worker.thread = std::thread([this, &worker] { worker_loop(worker); });
    }
    num_threads_ = n;
}

void ThreadPool::stop_workers() {
    stopping_ = true;
    for (const auto& worker : workers_) post(*worker);
    for (const auto& worker : workers_) worker->thread.join();
    workers_.clear();
    stopping_ = false;
}

void ThreadPool::run_region(RegionFunction function, const void* context, bool alone) {
    std::lock_guard lock(region_mutex_);
    const int n = alone ? 1 : choose_team();
    is_busy_.store(true, std::memory_order_relaxed);
    for (auto& counter : counters_) counter.store(0, std::memory_order_relaxed);
    if (n > 1) call_team(function, context);
    {
        const FlushDenormals flush;
        function(context, Team(*this, 0, n));
    }
    if (n > 1) await_team();
    is_busy_.store(false, std::memory_order_relaxed);
}

void ThreadPool::call_team(RegionFunction function, const void* context) {
    const int n = 1 + int(team_.size());
    int place = 0;
    for (Worker* worker : team_) {
        worker->place = ++place;
        worker->team_size = n;
        worker->function = function;
        worker->context = context;
        post(*worker);
    }
}

void ThreadPool::await_team() {
    for (const Worker* worker : team_) {
        const uint32_t posted = worker->posted.load(std::memory_order_relaxed);
        spin_until([&] { return worker->finished.load(std::memory_order_acquire) == posted; });
    }
    const uint64_t now = ticks();
    for (Worker* worker : team_) worker->last_seen = now;
}

// Fills team_ with the workers that hold a core now, and returns the size of the team with the
// caller. Sleepers are woken and given a moment. Who is not there may be waiting for a core that
// the team holds, beside an idle one: it is sent to another.
int ThreadPool::choose_team() {
    team_.clear();
    held_cores_.assign(1, current_core());
    const auto is_up = [](const auto& worker) { return is_fresh(*worker); };
    bool any_asleep = false;
    for (const auto& worker : workers_) {
        if (!worker->is_asleep.load(std::memory_order_relaxed)) continue;
        worker->placement.keep_off(held_cores_);
        wake(*worker);
        any_asleep = true;
    }
    const uint64_t since = ticks();
    while (any_asleep && ticks() - since < kWakeTicks &&
           !std::all_of(workers_.begin(), workers_.end(), is_up))
        pause();
    for (const auto& worker : workers_) {
        if (!is_fresh(*worker)) continue;
        team_.push_back(worker.get());
    }
    if (team_.size() < workers_.size()) {
        for (const Worker* worker : team_)
            held_cores_.push_back(worker->core.load(std::memory_order_relaxed));
        for (const auto& worker : workers_)
            if (!is_fresh(*worker)) worker->placement.keep_off(held_cores_);
    }
    return 1 + int(team_.size());
}

// A region with it ended just now, which costs no look at its heartbeat, or that is young.
bool ThreadPool::is_fresh(const Worker& worker) {
    if (worker.is_asleep.load(std::memory_order_relaxed)) return false;
    const uint64_t now = ticks();
    if (now - worker.last_seen < kFreshTicks) return true;
    const uint64_t heartbeat = worker.heartbeat.load(std::memory_order_relaxed);
    return int64_t(now - heartbeat) < int64_t(kFreshTicks);
}

void ThreadPool::beat(Worker& self) {
    self.heartbeat.store(ticks(), std::memory_order_relaxed);
    self.core.store(current_core(), std::memory_order_relaxed);
}

void ThreadPool::post(Worker& worker) {
    // A plain store: the worker polls this line, and would take it away before a locked addition.
    worker.posted.store(worker.posted.load(std::memory_order_relaxed) + 1,
                        std::memory_order_release);
    // As the sleeper's declare-then-look: one of the two sees the other.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (worker.is_asleep.load(std::memory_order_relaxed)) wake(worker);
}

void ThreadPool::wake(Worker& worker) {
    worker.alarm.fetch_add(1);
    worker.alarm.notify_one();
}

void ThreadPool::worker_loop(Worker& self) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kIdle = std::chrono::milliseconds(1);
    const FlushDenormals flush;
    self.placement.begin();
    for (uint32_t seen = 0;;) {
        auto idle_since = Clock::now();
        for (int i = 1; self.posted.load(std::memory_order_acquire) == seen; ++i) {
            beat(self);
            pause();
            if (i % 256 != 0) continue;
            // Who is done early, or came too late, is wanted again when the region ends.
            if (is_busy_.load(std::memory_order_relaxed)) idle_since = Clock::now();
            if (Clock::now() - idle_since > kIdle) {
                sleep(self, seen);
                break;
            }
        }
        if (self.posted.load(std::memory_order_acquire) == seen) continue;
        ++seen;
        if (stopping_) return;
        self.function(self.context, Team(*this, self.place, self.team_size));
        beat(self);
        self.finished.store(seen, std::memory_order_release);
    }
}

void ThreadPool::sleep(Worker& self, uint32_t seen) {
    const uint32_t alarm = self.alarm.load();
    self.is_asleep.store(true);
    if (self.posted.load() == seen) self.alarm.wait(alarm);
    self.is_asleep.store(false);
}

bool ThreadPool::arrive(int num_threads, uint32_t& epoch) {
    epoch = barrier_epoch_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) < num_threads - 1) return false;
    arrived_.store(0, std::memory_order_relaxed);
    barrier_epoch_.fetch_add(1, std::memory_order_release);
    return true;
}

void ThreadPool::await(uint32_t epoch) const {
    spin_until([&] { return is_over(epoch); });
}

}  // namespace cierzo
