#pragma once

/// \file
/// WeightScope: a place in the tree of tensor names, from which modules take what they need.

#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "krait/core/dtype.hpp"
#include "krait/core/error.hpp"
#include "krait/core/function_ref.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/weights/binder.hpp"

namespace krait {
inline namespace v0_1 {

/// A prefix of tensor names within a WeightBinder. Cheap to copy; the binder must outlive it.
class KRAIT_API WeightScope {
 public:
  /// The root: names in the checkpoint begin with `prefix` (may be empty).
  WeightScope(WeightBinder& binder, std::string_view prefix);

  /// The scope below: scope("layers", 3) is "….layers.3".
  WeightScope scope(std::string_view name) const;
  WeightScope scope(std::string_view name, Index index) const;

  /// The same place, for tensors of which one token needs only that part on average: `chosen` of
  /// `count` experts.
  WeightScope active(Index chosen, Index count) const {
    WeightScope scope = *this;
    scope.active_ = static_cast<double>(chosen) / static_cast<double>(count);
    return scope;
  }

  /// A weight matrix [rows, cols], or a stack of them [count, rows, cols], in the form the user
  /// asked for. Used in place where the file has that form, otherwise converted once. The name must
  /// exist.
  Result<TensorView> matrix(std::string_view name, const Shape& shape) const;

  /// What the user asked for.
  const WeightOptions& options() const noexcept;

  /// The shape of the checkpoint's tensor of that name; null without one or without a checkpoint.
  const Shape* stored_shape(std::string_view name) const;

  /// The matrix, or stack of matrices, that the checkpoint holds as `codes` (u8) and `scales` (f16)
  /// of the given shapes, in place where their addresses allow. Recorded under the name "weight".
  Result<PackedMatrix> packed(std::string_view form, const Shape& matrix, const Shape& codes,
                              const Shape& scales) const;

  /// The same made of the checkpoint's `weight` [rows, cols] of floats: `pack` fills codes and
  /// scales, unless this is a planning run.
  using Pack =
      FunctionRef<Result<void>(const TensorView& weight, std::uint8_t* codes, f16* scales)>;
  Result<PackedMatrix> pack(std::string_view form, const Shape& matrix, const Shape& codes,
                            const Shape& scales, Pack pack) const;

  /// A matrix of floats made of the checkpoint's `codes` and `scales`: `unpack` is called with them
  /// for every row.
  using UnpackRow =
      FunctionRef<void(const PackedMatrix& packed, Index row, std::span<float> values)>;
  Result<TensorView> unpacked(const Shape& matrix, const Shape& codes, const Shape& scales,
                              UnpackRow unpack) const;

  /// A small tensor in f32, whatever its type in the file. `data()` is null while planning.
  template <class T>
  Result<std::span<const T>> get(std::string_view name, const Shape& shape) const {
    static_assert(std::is_same_v<T, float>, "modules compute in f32");
    return floats(name, shape);
  }

  /// `size` floats computed from the file's tensor `name` of the given shape: `fill(source,
  /// result)` is called with its values in f32, unless this is a planning run.
  Result<std::span<const float>> derive(
      std::string_view name, const Shape& shape, Index size,
      FunctionRef<void(std::span<const float> source, std::span<float> result)> fill) const;

  /// Whether the checkpoint has that tensor; false without a checkpoint.
  bool contains(std::string_view name) const;

  /// "layers.3.mixer.A_log" for scope "layers.3.mixer" and name "A_log": the place in the model.
  std::string path(std::string_view name) const;
  /// The name in the checkpoint.
  std::string name(std::string_view name) const;

  bool materialize() const noexcept { return binder_->materialize(); }
  /// Whether there is a checkpoint; without one, matrices are planned in f32.
  bool is_stored() const noexcept { return binder_->store() != nullptr; }

 private:
  WeightScope below(std::string path) const {
    WeightScope scope = *this;
    scope.path_ = std::move(path);
    return scope;
  }
  Result<std::span<const float>> floats(std::string_view name, const Shape& shape) const;
  Result<PackedMatrix> find_packed(const Shape& codes, const Shape& scales) const;
  void record_matrix(std::string_view form, const Shape& matrix, Placement placement,
                     std::vector<TensorView> parts) const;

  WeightBinder* binder_;
  std::string prefix_;  // "backbone." or ""
  std::string path_;    // "layers.3.mixer." or ""
  double active_ = 1.0;
};

}  // namespace v0_1
}  // namespace krait
