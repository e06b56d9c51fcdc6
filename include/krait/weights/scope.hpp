#pragma once

/// \file
/// WeightScope: a place in the tree of tensor names, from which modules take what they need.

#include <optional>
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

  /// A matrix of floats [rows, cols], or a stack of them [count, rows, cols], in that type or in
  /// the one it is stored in. Used in place where the file has that type, otherwise converted once.
  /// The name must exist.
  Result<TensorView> matrix(std::string_view name, const Shape& shape,
                            std::optional<DType> dtype = {}) const;

  /// What the user asked for.
  const WeightOptions& options() const noexcept;

  /// The checkpoint's tensor of that name; null without one or without a checkpoint.
  const TensorView* stored(std::string_view name) const;

  /// The form that the checkpoint's metadata gives this matrix, or all; empty if it says nothing.
  std::string_view stored_form() const;

  /// Whether the checkpoint has tensors here that may be parts of a packed matrix (see below).
  bool has_parts() const;
  /// Those tensors, for messages: "p.codes u8 [2,2,128], p.scales f16 [2,2,16]".
  std::string describe_parts() const;

  /// The parts of the matrix, or stack of matrices, of that form: the checkpoint's tensors of
  /// exactly those types and shapes, in place where their addresses allow. Recorded under the name
  /// "weight".
  Result<std::vector<TensorView>> packed(std::string_view form, const Shape& matrix,
                                         const std::vector<WeightPart>& parts) const;

  /// The same made of the checkpoint's `weight`, which has the shape `matrix` and is of floats:
  /// `pack` fills the parts, whose data it may write, unless this is a planning run.
  using Pack =
      FunctionRef<Result<void>(const TensorView& weight, std::span<const TensorView> parts)>;
  Result<std::vector<TensorView>> pack(std::string_view form, const Shape& matrix,
                                       const std::vector<WeightPart>& parts, Pack pack) const;

  /// A matrix, or a stack of them, of that form in one part `held` that is made of the checkpoint's
  /// tensor `stored`: `repack` fills `data`, unless this is a planning run.
  using Repack = FunctionRef<Result<void>(const TensorView& stored, std::byte* data)>;
  Result<TensorView> repacked(std::string_view form, const Shape& matrix, const WeightPart& stored,
                              const WeightPart& held, Repack repack) const;

  /// A matrix of floats in `dtype` made of one in another form: `bind` takes from this scope what
  /// is needed for it, which the model does not keep, and then `unpack` is called for every row.
  using UnpackRow = FunctionRef<void(Index row, std::span<float> values)>;
  Result<TensorView> unpacked(const Shape& matrix, DType dtype, FunctionRef<Result<void>()> bind,
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
  std::string here() const;
  Result<std::span<const float>> floats(std::string_view name, const Shape& shape) const;
  void record_matrix(std::string_view form, const Shape& matrix, Placement placement,
                     std::vector<TensorView> parts) const;

  WeightBinder* binder_;
  std::string prefix_;  // "backbone." or ""
  std::string path_;    // "layers.3.mixer." or ""
  double active_ = 1.0;
};

/// Whether `store` has tensors that may be parts of a packed matrix under that name: any directly
/// below it but `weight` and `bias`.
KRAIT_API bool has_parts(const WeightStore& store, std::string_view name);

}  // namespace v0_1
}  // namespace krait
