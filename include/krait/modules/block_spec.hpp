#pragma once

/// \file
/// What a spec of a block offers, so that a new kind of block is one header and one alternative of
/// BlockSpec (models/spec.hpp).

#include <concepts>
#include <memory>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/modules/block.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// Plain data from which a block is made.
template <class Spec>
concept AnyBlockSpec = std::equality_comparable<Spec> &&
    requires(const Spec& spec, Index d_model, const WeightScope& weights, Bookings& bookings) {
  /// Whether the sizes describe a block; the error names the first that does not.
  { spec.validate(d_model) } -> std::same_as<Result<void>>;
  /// The kind and everything that decides what is computed, on one line. Fingerprints of states
  /// are made of it.
  { spec.to_string(d_model) } -> std::same_as<std::string>;
  /// Resolves names, checks shapes, books state and scratch.
  { spec.bind(weights, bookings) } -> std::same_as<Result<std::unique_ptr<const Block>>>;
};

/// How many experts the gates at `Site::routing` are of; 0 for a block without a router. A spec
/// answers by a member `n_expert`.
template <AnyBlockSpec Spec>
constexpr Index expert_count(const Spec& spec) noexcept {
  if constexpr (requires { spec.n_expert; }) {
    return spec.n_expert;
  } else {
    return 0;
  }
}

/// Beyond this an extent is a mistake, and products of two extents and an element size could
/// overflow.
inline constexpr Index largest_extent = Index{1} << 28;

/// Whether the extent is 1 to `largest_extent`; bad_config names it by `what`.
KRAIT_API Result<void> check_extent(std::string_view what, Index value);

/// A number as the text of a spec has it: the shortest that gives its value back.
KRAIT_API std::string spec_number(float value);

/// "[spec] what: expected X, found Y".
KRAIT_API Error bad_spec(std::string_view what, std::string_view expected, std::string_view found);

}  // namespace v0_1
}  // namespace krait
