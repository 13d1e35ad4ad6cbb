#include "ops_roofline.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "ops.h"
#include "thread_pool.h"

namespace cierzo {

namespace {

constexpr int64_t kHugePage = int64_t(2) << 20;

constexpr std::pair<const char*, MultiplyUnit> kUnits[] = {
    {"f32", MultiplyUnit::kF32},
    {"int8", MultiplyUnit::kInt8},
    {"amx_int8", MultiplyUnit::kTileInt8},
    {"amx_bf16", MultiplyUnit::kTileBf16},
    {"amx_int8_l1", MultiplyUnit::kTileInt8FromL1},
    {"amx_bf16_l1", MultiplyUnit::kTileBf16FromL1},
};

// Anonymous memory on a huge page's border, gone at the end.
class Buffer {
  public:
    explicit Buffer(int64_t nbytes) : nbytes_(nbytes + kHugePage) {
        void* p = mmap(nullptr, size_t(nbytes_), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) throw std::bad_alloc();
        begin_ = static_cast<uint8_t*>(p);
#if defined(MADV_HUGEPAGE)
        madvise(data(), size_t(nbytes), MADV_HUGEPAGE);
#endif
    }
    ~Buffer() { munmap(begin_, size_t(nbytes_)); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    uint8_t* data() {
        return reinterpret_cast<uint8_t*>(
            round_up(int64_t(reinterpret_cast<uintptr_t>(begin_)), kHugePage));
    }

  private:
    int64_t nbytes_;
    uint8_t* begin_ = nullptr;
};

// The median duration of f() over at least `seconds` and three calls, after one to warm up.
template <class F>
double median_duration(double seconds, const F& f) {
    using Clock = std::chrono::steady_clock;
    const auto now = [] { return std::chrono::duration<double>(Clock::now().time_since_epoch()); };
    f();
    std::vector<double> durations;
    const double begin = now().count();
    do {
        const double start = now().count();
        f();
        durations.push_back(now().count() - start);
    } while (durations.size() < 3 || now().count() - begin < seconds);
    const auto middle = durations.begin() + int64_t(durations.size() / 2);
    std::nth_element(durations.begin(), middle, durations.end());
    return *middle;
}

void check_seconds(const char* op, double seconds) {
    check(seconds >= 0 && seconds <= 60, op, "seconds", "in [0, 60]", std::to_string(seconds));
}

MultiplyUnit unit_of(const std::string& name) {
    std::string known;
    for (const auto& [unit_name, unit] : kUnits) {
        if (name == unit_name) return unit;
        known += (known.empty() ? "" : ", ") + std::string(unit_name);
    }
    check(false, "multiply_rate", "unit", "one of " + known, "'" + name + "'");
    return MultiplyUnit::kF32;
}

}  // namespace

double read_rate(int64_t nbytes, double seconds) {
    constexpr int64_t kUnit = int64_t(1) << 16, kMost = int64_t(1) << 33;
    check(nbytes >= kUnit && nbytes <= kMost, "read_rate", "nbytes", "in [2^16, 2^33]",
          std::to_string(nbytes));
    check_seconds("read_rate", seconds);
    const int64_t units = nbytes / kUnit;
    Buffer buffer(units * kUnit);
    uint8_t* data = buffer.data();
    ThreadPool& pool = ThreadPool::instance();
    pool.parallel_for(units, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * kUnit; i < end * kUnit; i += 64) data[i] = uint8_t(i >> 6);
    });
    std::atomic<uint64_t> sink{0};
    const Kernels& table = kernels();
    const double duration = median_duration(seconds, [&] {
        pool.parallel_for(units, [&](int64_t begin, int64_t end) {
            sink += table.read_burst(data + begin * kUnit, (end - begin) * kUnit);
        });
    });
    return double(units * kUnit) / duration;
}

double multiply_rate(const std::string& name, double seconds) {
    const MultiplyUnit unit = unit_of(name);
    check_seconds("multiply_rate", seconds);
    ThreadPool& pool = ThreadPool::instance();
    const int num_threads = pool.num_threads();
    constexpr int64_t kSteps = 50000;
    // Each thread's scratch starts on pages of its own, filled with what makes small bf16 numbers.
    const auto scratch_floats = allocate_floats(num_threads * kRooflineScratch / 4);
    auto* scratch = reinterpret_cast<uint8_t*>(scratch_floats.get());
    std::fill(scratch, scratch + num_threads * kRooflineScratch, uint8_t(0x3c));
    const Kernels& table = kernels();
    std::atomic<int64_t> multiply_adds{0};
    const double duration = median_duration(seconds, [&] {
        multiply_adds = 0;
        pool.parallel_for(num_threads, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                multiply_adds += table.multiply_burst(unit, kSteps, scratch + i * kRooflineScratch);
        });
    });
    return 2.0 * double(multiply_adds) / duration;
}

}  // namespace cierzo
