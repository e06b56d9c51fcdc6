#pragma once

/// \file
/// Adapters of low rank (LoRA; Hu et al. 2021, arXiv:2106.09685) over matrices that stay as they
/// are: y = W x + B (s · A x), whatever the form of W.

#include <memory>
#include <optional>
#include <string_view>

#include "krait/io/weight_store.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// Gives the matrix `name` ("backbone.layers.3.mixer.in_proj") of `store` an adapter: A [rank, in],
/// B [out, rank] and the factor s of their product; for a stack of matrices [count, rank, in] and
/// [count, out, rank]. They are the tensors `lora_A`, `lora_B` and `lora_scale` below the matrix's
/// name, whose own tensors stay. One that it has already is replaced. An adapter of the embedding
/// changes the rows that are looked up, not a head that shares the matrix. `owner` keeps the bytes
/// of A and B alive.
KRAIT_API void attach_adapter(WeightStore& store, std::string_view name, const TensorView& A,
                              const TensorView& B, float scale, std::shared_ptr<const void> owner);

/// The adapter of a bound matrix.
struct LowRankAdapter {
  Index rank = 0;
  const float* A = nullptr;  ///< [rank, in]
  const float* B = nullptr;  ///< [out, rank]
  float scale = 0.0F;
};

/// The matrix's adapter, if it has one.
KRAIT_API std::optional<LowRankAdapter> adapter_of(const Linear& linear) noexcept;

/// The map without its adapter.
KRAIT_API Linear without_adapter(const Linear& linear);

}  // namespace v0_1
}  // namespace krait
