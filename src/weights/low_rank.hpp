#pragma once

/// \file
/// Matrices that a checkpoint has as a product of two factors, W = u v.

#include "krait/weights/form.hpp"

namespace krait {
inline namespace v0_1 {

/// Whether the checkpoint has the matrix of that scope as factors `u` [out, rank] and `v` [rank,
/// in], or one of them, in whatever form.
bool is_factored(const WeightScope& weights);

/// Binds them: each factor by `bind`. Stacks are [count, out, rank] and [count, rank, in].
using BindMatrices = Result<WeightForm::Matrices> (*)(const WeightScope& weights,
                                                      Bookings& bookings, const MatrixShape& shape);
Result<WeightForm::Matrices> bind_factors(const WeightScope& weights, Bookings& bookings,
                                          const MatrixShape& shape, BindMatrices bind);

}  // namespace v0_1
}  // namespace krait
