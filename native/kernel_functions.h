// Declarations of the functions that one instruction set's kernel sources define (see kernels.h for
// what they do), for kernel_table.cpp.
#pragma once

#include "kernels.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

void quantize(const QuantizeArgs& a);
void matmul(const MatmulArgs& a);
void matmul_swiglu(const MatmulSwigluArgs& a);
void feed_forward(const FeedForwardArgs& a);
void moe(const MoeArgs& a);
void gather_rows(float* out, const float* x, int64_t cols, const int32_t* rows, int64_t num_rows);

void embed(float* out, const int32_t* token_ids, int64_t num_tokens, const PackedWeight& weight);
void rms_norm(float* out, const float* x, const float* weight, int64_t rows, int64_t dim,
              float eps);
void rope_and_store(const RopeArgs& args);
void attention(const AttentionArgs& args);
void attention_layer(const AttentionLayerArgs& a);

void argmax(int32_t* ids, const float* logits, int64_t rows, int64_t vocab_size);
void logsumexp(float* out, const float* logits, int64_t rows, int64_t vocab_size);
void top_k(int32_t* ids, float* values, const float* logits, int64_t vocab_size, int64_t k);
void sample(const SampleArgs& args);
void apply_mask(float* logits, const uint32_t* mask, int64_t vocab_size);

uint64_t read_burst(const uint8_t* p, int64_t nbytes);
int64_t multiply_burst(MultiplyUnit unit, int64_t steps, uint8_t* scratch);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
