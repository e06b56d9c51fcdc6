#pragma once

// Matrices with an adapter of low rank (krait/weights/adapter.hpp).

#include "krait/weights/form.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// Whether a tensor of that name, below a matrix's, belongs to its adapter.
bool is_part_of_adapter(std::string_view part) noexcept;

/// The matrices with the adapters that the scope has for them; without any, as they are.
Result<WeightForm::Matrices> bind_adapters(const WeightScope& weights, Bookings& bookings,
                                           const MatrixShape& shape, WeightForm::Matrices matrices);
/// The same for a head that shares another scope's matrix.
Result<Linear> bind_adapter(const WeightScope& weights, Bookings& bookings, const Linear& linear);

/// The map with an adapter that belongs to the model, y = W x + B A x: `0.weight`, A [rank, in],
/// and `1.weight`, B [out, rank], of the scope `weights`.
Result<Linear> bind_own_adapter(const WeightScope& weights, Bookings& bookings,
                                const Linear& linear, Index rank);

}  // namespace v0_1
}  // namespace krait
