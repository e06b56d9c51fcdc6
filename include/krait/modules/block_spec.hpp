#pragma once

/// \file
/// What every spec of a block can answer. A new kind of block is a header, a source file and one
/// alternative of BlockSpec (models/spec.hpp).

#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/hook.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// A weight matrix of a block, for tools that quantise matrices or look at them.
struct BlockMatrix {
  /// Rows of the matrix that make something of their own.
  struct Rows {
    std::string_view name;  ///< "x", "z"
    Index first = 0;
    Index count = 0;
  };

  std::string name;             ///< below the block: "in_proj", "experts.3.up_proj"
  Site input = Site::input;     ///< where its inputs pass by
  Index expert = -1;            ///< whose it is, as hooks number them; -1: no expert's
  bool is_stacked = false;      ///< whether all experts' matrices are one tensor of that name
  std::vector<Rows> rows = {};  ///< all of them, in order; empty where they make one thing
};

/// Plain data that describes a block.
template <class Spec>
concept AnyBlockSpec = std::equality_comparable<Spec> &&
    requires(const Spec& spec, Index d_model, const WeightScope& weights, Bookings& bookings) {
  /// Checks the sizes. Errors: bad_config, naming the first bad one.
  { spec.validate(d_model) } -> std::same_as<Result<void>>;
  /// The kind of block and everything that decides what it computes, on one line. Fingerprints of
  /// models contain it: changing the text invalidates saved states.
  { spec.to_string(d_model) } -> std::same_as<std::string>;
  /// Finds the block's tensors, checks their shapes, and books state and scratch.
  { spec.bind(weights, bookings) } -> std::same_as<Result<std::unique_ptr<const Block>>>;
  /// The matrices that `bind` binds as such (TensorRole::matrix).
  { spec.matrices(d_model) } -> std::same_as<std::vector<BlockMatrix>>;
};

/// Number of experts, the width of `Site::routing`; 0 for a block without a router. A spec with a
/// router has a member `n_expert`.
template <AnyBlockSpec Spec>
constexpr Index expert_count(const Spec& spec) noexcept {
  if constexpr (requires { spec.n_expert; }) {
    return spec.n_expert;
  } else {
    return 0;
  }
}

/// Whether the block reads the token's embedding beside the residual stream: rows [h; e] of 2
/// d_model floats, behind a norm of that width. Such a spec has a member `reads_embedding`, which
/// is true.
template <AnyBlockSpec Spec>
constexpr bool reads_embedding(const Spec& /*spec*/) noexcept {
  return requires { Spec::reads_embedding; };
}

/// Larger extents are taken for mistakes. Products of two extents and an element size fit in Index.
inline constexpr Index largest_extent = Index{1} << 28;

/// Whether the extent is 1 to `largest_extent`. Errors: bad_config, naming it by `what`.
KRAIT_API Result<void> check_extent(std::string_view what, Index value);

/// A number for the text of a spec: the shortest decimal that reads back as the same float.
KRAIT_API std::string spec_number(float value);

/// "[spec] what: expected X, found Y".
KRAIT_API Error bad_spec(std::string_view what, std::string_view expected, std::string_view found);

}  // namespace v0_1
}  // namespace krait
