#include "forward_input.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kv_cache.h"

namespace cierzo {

namespace {

void require(bool ok, const std::string& rule, int64_t actual) {
    if (!ok)
        throw std::invalid_argument("ForwardInput: " + rule + "; got " + std::to_string(actual));
}

void require_length(const char* name, size_t actual, int64_t expected) {
    require(int64_t(actual) == expected,
            std::string(name) + " must have " + std::to_string(expected) + " values",
            int64_t(actual));
}

// Returns the largest, -1 if there is none.
int32_t check_at_least(const char* name, std::span<const int32_t> values, int32_t lowest) {
    int32_t largest = -1;
    for (const int32_t value : values) {
        require(value >= lowest, std::string(name) + " must be >= " + std::to_string(lowest),
                value);
        largest = std::max(largest, value);
    }
    return largest;
}

void check_query_starts(std::span<const int32_t> starts, int64_t num_tokens) {
    require(!starts.empty(), "query_starts must have one value more than context_lens", 0);
    require(starts.front() == 0, "query_starts must begin with 0", starts.front());
    require(starts.back() == num_tokens,
            "query_starts must end with the number of tokens, " + std::to_string(num_tokens),
            starts.back());
    for (size_t s = 1; s < starts.size(); ++s)
        require(starts[s] >= starts[s - 1], "query_starts must not decrease", starts[s]);
}

// The rows of one sequence are of one class.
void check_num_prompt_tokens(int64_t n, std::span<const int32_t> starts) {
    require(n >= 0 && n <= starts.back(),
            "num_prompt_tokens must be between 0 and " + std::to_string(starts.back()), n);
    require(std::find(starts.begin(), starts.end(), n) != starts.end(),
            "num_prompt_tokens must be where a sequence begins or the last one ends", n);
}

}  // namespace

ForwardInput::ForwardInput(const ForwardArrays& a)
    : token_ids(a.token_ids.begin(), a.token_ids.end()),
      positions(a.positions.begin(), a.positions.end()),
      slot_mapping(a.slot_mapping.begin(), a.slot_mapping.end()),
      query_starts(a.query_starts.begin(), a.query_starts.end()),
      context_lens(a.context_lens.begin(), a.context_lens.end()),
      block_tables(a.block_tables.begin(), a.block_tables.end()),
      max_blocks(a.max_blocks),
      cos(a.cos.begin(), a.cos.end()),
      sin(a.sin.begin(), a.sin.end()),
      rope_pairs(a.rope_pairs),
      query_scale(a.query_scale.begin(), a.query_scale.end()),
      num_prompt_tokens(a.num_prompt_tokens) {
    const int64_t t = num_tokens();
    const int64_t n_sequences = num_sequences();
    require_length("positions", positions.size(), t);
    require_length("slot_mapping", slot_mapping.size(), t);
    require_length("query_scale", query_scale.size(), t);
    require_length("cos", cos.size(), t * rope_pairs);
    require_length("sin", sin.size(), t * rope_pairs);
    require_length("query_starts", query_starts.size(), n_sequences + 1);
    require_length("block_tables", block_tables.size(), n_sequences * max_blocks);
    check_query_starts(query_starts, t);
    check_num_prompt_tokens(num_prompt_tokens, query_starts);
    max_token_id = check_at_least("token_ids", token_ids, 0);
    check_at_least("positions", positions, 0);
    max_slot = check_at_least("slot_mapping", slot_mapping, 0);
    max_block_id = check_at_least("block_tables", block_tables, -1);

    constexpr int64_t kBlockSize = KVCache::kBlockSize;
    for (int64_t s = 0; s < n_sequences; ++s) {
        const int64_t context = context_lens[size_t(s)];
        require(context >= num_queries(s),
                "context_lens must count this step's tokens, here " +
                    std::to_string(num_queries(s)) + " of sequence " + std::to_string(s),
                context);
        const int64_t blocks = (context + kBlockSize - 1) / kBlockSize;
        require(blocks <= max_blocks,
                "block_tables must hold the " + std::to_string(blocks) + " blocks of sequence " +
                    std::to_string(s),
                max_blocks);
        int64_t first = blocks;
        while (first > 0 && block_table(s)[first - 1] >= 0) --first;
        first_held.push_back(int32_t(first * kBlockSize));
    }
}

}  // namespace cierzo
