// From rows of logits to token ids: reductions, and the exact draw.
//
// sample(): weights are exp((logit − max) / temperature), 0 where a logit is NaN. With top_k and
// top_p off, the draw walks the cumulative weight in id order, so nothing is sorted. Otherwise
// candidates are ordered by descending logit, ties by lowest id; top_k keeps the first k, top_p the
// fewest first ones with at least that share of what top_k left, and the draw walks the rest in
// that order. A histogram over the order finds the few candidates that must really be sorted. Sums
// are float64 in one fixed order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernel_functions.h"
#include "simd.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int64_t kChunk = 512;
constexpr int kNumBuckets = 2048;
constexpr float kBucketsPerUnit = 2047.0f / 87.0f;  // e^-87 is where weights end
constexpr float kColdest = 1e-6f;  // below this temperature every draw is the argmax

struct Candidate {
    float logit;
    int32_t id;
};

// Most likely first.
bool comes_before(Candidate a, Candidate b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// 16 logits from i on; NaN, and what lies past the end, as -inf.
f32x16 load_logits(const float* logits, int64_t i, int64_t n) {
    const f32x16 never = f32x16::broadcast(kNever);
    if (i + kLanes <= n) return max(f32x16::load(logits + i), never);
    float lanes[kLanes];
    never.store(lanes);
    std::memcpy(lanes, logits + i, size_t(n - i) * sizeof(float));
    return max(f32x16::load(lanes), never);
}

float max_of(const float* logits, int64_t begin, int64_t end) {
    f32x16 top = f32x16::broadcast(kNever);
    for (int64_t i = begin; i < end; i += kLanes) top = max(load_logits(logits, i, end), top);
    return reduce_max(top);
}

int32_t argmax_row(const float* logits, int64_t n) {
    float best = kNever;
    int64_t where = 0;
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        const float top = max_of(logits, begin, std::min(begin + kChunk, n));
        if (top > best) {
            best = top;
            where = begin;
        }
    }
    if (best == kNever) return 0;
    while (logits[where] != best) ++where;
    return int32_t(where);
}

// A row's distribution: weight(logit) = exp((logit - top) * inverse_temperature).
struct Distribution {
    const float* logits;
    int64_t size;
    float top;
    float inverse_temperature;

    f32x16 exponents(int64_t i) const {
        return (load_logits(logits, i, size) - f32x16::broadcast(top)) *
               f32x16::broadcast(inverse_temperature);
    }
    // Weights of [begin, end), at most kChunk of them, and their sum.
    double weights(float* out, int64_t begin, int64_t end) const {
        f32x16 sum = f32x16::zero();
        for (int64_t i = begin; i < end; i += kLanes) {
            const f32x16 w = exp(exponents(i));
            w.store(out + (i - begin));
            sum = sum + w;
        }
        return double(reduce_add(sum));
    }
};

double total_weight(const Distribution& d) {
    alignas(64) float unused[kChunk];
    double total = 0.0;
    for (int64_t begin = 0; begin < d.size; begin += kChunk)
        total += d.weights(unused, begin, std::min(begin + kChunk, d.size));
    return total;
}

// The first id at which the cumulative weight in id order passes uniform · total.
int32_t draw_by_id(const Distribution& d, double uniform) {
    alignas(64) float weights[kChunk];
    const double target = uniform * total_weight(d);
    double before = 0.0;
    int64_t last = 0;  // with any weight: where rounding leaves the target just out of reach
    for (int64_t begin = 0; begin < d.size; begin += kChunk) {
        const int64_t end = std::min(begin + kChunk, d.size);
        const double chunk = d.weights(weights, begin, end);
        const bool here = before + chunk > target;
        double sum = before;
        for (int64_t i = begin; i < end && (here || chunk > 0.0); ++i) {
            if (weights[i - begin] == 0.0f) continue;
            last = i;
            sum += double(weights[i - begin]);
            if (here && sum > target) return int32_t(i);
        }
        if (here) return int32_t(last);
        before += chunk;
    }
    return int32_t(last);
}

// How far down the order of candidates to go: whole buckets, then some of one more.
struct Cut {
    int bucket;
    int64_t count;  // candidates of `bucket` within the cut
    double weight;  // of everything within the cut
};

// The candidates of one distribution, most likely first, sorted one bucket at a time.
class Order {
  public:
    // `memory` has room for d.size candidates.
    Order(const Distribution& d, Candidate* memory) : d_(d), sorted_(memory) {
        for (int64_t begin = 0; begin < d.size; begin += kLanes) {
            const int64_t lanes = std::min<int64_t>(kLanes, d.size - begin);
            float weight[kLanes];
            int32_t bucket[kLanes];
            classify(begin, weight, bucket);
            for (int64_t i = 0; i < lanes; ++i) {
                weights_[bucket[i]] += double(weight[i]);
                ++counts_[bucket[i]];
            }
        }
    }

    // The first `count` candidates.
    Cut first(int64_t count) {
        Cut cut = {0, count, 0.0};
        while (cut.count > counts_[cut.bucket]) {
            cut.count -= counts_[cut.bucket];
            cut.weight += weights_[cut.bucket++];
        }
        sort(cut.bucket);
        for (int64_t i = 0; i < cut.count; ++i) cut.weight += weight_of(i);
        return cut;
    }
    Cut all() const {
        Cut cut = {kNumBuckets - 1, counts_[kNumBuckets - 1], 0.0};
        for (const double w : weights_) cut.weight += w;
        return cut;
    }
    // The fewest first candidates within `limit` whose weight reaches `weight` (strictly passes it
    // if `beyond`); `last` becomes the id of the last of them.
    Cut reach(double weight, bool beyond, const Cut& limit, int32_t* last) {
        const auto done = [&](double sum) { return beyond ? sum > weight : sum >= weight; };
        Cut cut = {0, 0, 0.0};
        while (cut.bucket < limit.bucket && !done(cut.weight + weights_[cut.bucket]))
            cut.weight += weights_[cut.bucket++];
        sort(cut.bucket);
        const int64_t count = cut.bucket == limit.bucket ? limit.count : counts_[cut.bucket];
        *last = sorted_[0].id;
        while (cut.count < count) {
            const double w = weight_of(cut.count);
            if (w > 0.0 || cut.count == 0) *last = sorted_[cut.count].id;
            cut.weight += w;
            ++cut.count;
            if (done(cut.weight)) break;
        }
        return cut;
    }

  private:
    // Weight and bucket of 16 candidates; both fall with the logit.
    void classify(int64_t begin, float* weight, int32_t* bucket) const {
        const f32x16 x = d_.exponents(begin);
        exp(x).store(weight);
        const f32x16 depth =
            min(x * f32x16::broadcast(-kBucketsPerUnit), f32x16::broadcast(float(kNumBuckets - 1)));
        store(bucket, round_to_int(depth));
    }
    void sort(int bucket) {
        if (bucket == sorted_bucket_) return;
        sorted_bucket_ = bucket;
        int64_t n = 0;
        for (int64_t begin = 0; begin < d_.size; begin += kLanes) {
            const int64_t lanes = std::min<int64_t>(kLanes, d_.size - begin);
            float weight[kLanes], logits[kLanes];
            int32_t buckets[kLanes];
            classify(begin, weight, buckets);
            load_logits(d_.logits, begin, d_.size).store(logits);
            for (int64_t i = 0; i < lanes; ++i)
                if (buckets[i] == bucket) sorted_[n++] = {logits[i], int32_t(begin + i)};
        }
        std::sort(sorted_, sorted_ + n, comes_before);
    }
    double weight_of(int64_t i) const {
        const f32x16 x = f32x16::broadcast(sorted_[i].logit) - f32x16::broadcast(d_.top);
        float lanes[kLanes];
        exp(x * f32x16::broadcast(d_.inverse_temperature)).store(lanes);
        return double(lanes[0]);
    }

    const Distribution& d_;
    Candidate* sorted_;  // the candidates of sorted_bucket_
    int sorted_bucket_ = -1;
    int64_t counts_[kNumBuckets] = {};
    double weights_[kNumBuckets] = {};
};

int32_t draw_by_likelihood(const Distribution& d, int64_t top_k, float top_p, double uniform,
                           Candidate* memory) {
    Order order(d, memory);
    int32_t id = 0;
    Cut kept = top_k > 0 && top_k < d.size ? order.first(top_k) : order.all();
    if (top_p < 1.0f) kept = order.reach(double(top_p) * kept.weight, false, kept, &id);
    // Where the product rounds up to the whole, nothing would lie beyond it.
    const double target = std::min(uniform * kept.weight, std::nextafter(kept.weight, 0.0));
    order.reach(target, true, kept, &id);
    return id;
}

int32_t sample_row(const SampleArgs& a, int64_t row, Candidate* memory) {
    const float* logits = a.logits + row * a.vocab_size;
    const int64_t n = a.vocab_size;
    const float temperature = a.temperature[row];
    const float top = max_of(logits, 0, n);
    if (temperature < kColdest || !std::isfinite(top)) return argmax_row(logits, n);
    const Distribution d = {logits, n, top, 1.0f / temperature};
    const bool all = (a.top_k[row] == 0 || a.top_k[row] >= n) && a.top_p[row] >= 1.0f;
    if (all) return draw_by_id(d, a.uniform[row]);
    return draw_by_likelihood(d, a.top_k[row], a.top_p[row], a.uniform[row], memory);
}

}  // namespace

void argmax(int32_t* ids, const float* logits, int64_t rows, int64_t vocab_size) {
    ThreadPool::instance().parallel_for(rows, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
            ids[r] = argmax_row(logits + r * vocab_size, vocab_size);
    });
}

void logsumexp(float* out, const float* logits, int64_t rows, int64_t vocab_size) {
    ThreadPool::instance().parallel_for(rows, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            const float* row = logits + r * vocab_size;
            const float top = max_of(row, 0, vocab_size);
            const Distribution d = {row, vocab_size, top, 1.0f};
            out[r] = std::isfinite(top) ? float(double(top) + std::log(total_weight(d))) : top;
        }
    });
}

void top_k(int32_t* ids, float* values, const float* logits, int64_t vocab_size, int64_t k) {
    static thread_local std::vector<Candidate> heap;  // kept: a step allocates nothing
    std::vector<Candidate>& best = heap;              // the worst of the best in front
    best.clear();
    best.reserve(size_t(k));
    ThreadPool::instance().run_alone([&](const Team&) {
        for (int64_t begin = 0; begin < vocab_size; begin += kLanes) {
            float lanes[kLanes];
            const f32x16 v = load_logits(logits, begin, vocab_size);
            // A later equal loses to an earlier one.
            if (int64_t(best.size()) == k && !(reduce_max(v) > best.front().logit)) continue;
            v.store(lanes);
            const int64_t count = std::min<int64_t>(kLanes, vocab_size - begin);
            for (int64_t i = 0; i < count; ++i) {
                const Candidate next = {lanes[i], int32_t(begin + i)};
                if (int64_t(best.size()) == k) {
                    if (!comes_before(next, best.front())) continue;
                    std::pop_heap(best.begin(), best.end(), comes_before);
                    best.pop_back();
                }
                best.push_back(next);
                std::push_heap(best.begin(), best.end(), comes_before);
            }
        }
        std::sort_heap(best.begin(), best.end(), comes_before);
    });
    for (int64_t i = 0; i < k; ++i) {
        ids[i] = best[size_t(i)].id;
        values[i] = best[size_t(i)].logit;
    }
}

void sample(const SampleArgs& args) {
    static thread_local std::vector<Candidate> memory;  // kept: a step allocates nothing
    ThreadPool& pool = ThreadPool::instance();
    const int64_t threads = std::min<int64_t>(pool.num_threads(), args.rows);
    const size_t needed = size_t(threads * args.vocab_size);
    if (memory.size() < needed) memory.resize(needed);
    Candidate* shared = memory.data();
    pool.run([&](const Team& team) {
        if (team.thread() >= threads) return;
        Candidate* mine = shared + team.thread() * args.vocab_size;
        for (int64_t r = team.next(); r < args.rows; r = team.next())
            args.ids[r] = sample_row(args, r, mine);
    });
}

void apply_mask(float* logits, const uint32_t* mask, int64_t vocab_size) {
    for (int64_t begin = 0; begin < vocab_size; begin += 32) {
        const uint32_t word = mask[begin / 32];
        if (word == ~uint32_t(0)) continue;
        const int64_t count = std::min<int64_t>(32, vocab_size - begin);
        for (int64_t i = 0; i < count; ++i)
            if ((word >> i & 1u) == 0) logits[begin + i] = kNever;
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
