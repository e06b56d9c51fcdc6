#pragma once

/// \file
/// WeightScope: a prefix of tensor names, below which a module finds its tensors.

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

/// A prefix of tensor names ("layers.3.mixer") in a WeightBinder. Cheap to copy; the binder must
/// outlive it.
class KRAIT_API WeightScope {
 public:
  /// The root: names in the checkpoint begin with `prefix` (may be empty).
  WeightScope(WeightBinder& binder, std::string_view prefix);

  /// The scope below: scope("layers", 3) is "….layers.3".
  WeightScope scope(std::string_view name) const;
  WeightScope scope(std::string_view name, Index index) const;

  /// This place in the model, with the tensors of the place `owner`. What scopes with one owner
  /// bind is held, listed and counted once.
  WeightScope shared(const WeightScope& owner) const;

  /// The scope of that name beside this one, with tensors of its own.
  WeightScope beside(std::string_view name) const;

  /// In a shared scope its matrix, which is null until it is bound; a null pointer elsewhere.
  std::shared_ptr<const WeightMatrix>* shared_matrix() const;

  /// The scope of a factor, "u" or "v", of this scope's matrix: its floats, `weight` elsewhere, are
  /// the tensor of the scope's own name, "….in_proj.u".
  WeightScope factor(std::string_view name) const;

  /// The same scope for tensors of which a token reads only a share, such as `chosen` of `count`
  /// experts. Changes only what plans report.
  WeightScope active(Index chosen, Index count) const {
    WeightScope scope = *this;
    scope.active_ = static_cast<double>(chosen) / static_cast<double>(count);
    return scope;
  }

  /// A matrix of floats [rows, cols], or a stack of them [count, rows, cols], in the type `dtype`,
  /// by default the stored one. In place if the file has that type, otherwise converted once.
  /// Errors: missing_tensor, shape_mismatch, dtype_mismatch.
  Result<TensorView> matrix(std::string_view name, const Shape& shape,
                            std::optional<DType> dtype = {}) const;

  /// How the user wants weights to be held.
  const WeightOptions& options() const noexcept;

  /// The checkpoint's tensor of that name; null if there is none, or no checkpoint.
  const TensorView* stored(std::string_view name) const;

  /// The form that the checkpoint's metadata names for this matrix or for all; empty if none.
  std::string_view stored_form() const;

  /// What the checkpoint's metadata has under "key:name of this scope"; empty if nothing.
  std::string_view metadata(std::string_view key) const;

  /// Whether the checkpoint has tensors here that may be parts of a coded matrix (see the function
  /// of that name below).
  bool has_parts() const;
  /// Those tensors, for messages: "p.codes u8 [2,2,128], p.scales f16 [2,2,16]".
  std::string describe_parts() const;

  /// The checkpoint's tensors of a matrix (or stack) of the shape `matrix` in the form `form`,
  /// which must have exactly the types and shapes of `parts`. In place where their addresses allow.
  /// The plan lists the matrix as "weight".
  Result<std::vector<TensorView>> stored_parts(std::string_view form, const Shape& matrix,
                                               const std::vector<WeightPart>& parts) const;

  /// The same parts, made from the checkpoint's floats `weight` of the shape `matrix`: `encode`
  /// fills them. Not called in a plan.
  using Encode =
      FunctionRef<Result<void>(const TensorView& weight, std::span<const TensorView> parts)>;
  Result<std::vector<TensorView>> encoded_parts(std::string_view form, const Shape& matrix,
                                                const std::vector<WeightPart>& parts,
                                                Encode encode) const;

  /// A matrix (or stack) of that form in one part `held`, made from the checkpoint's tensor
  /// `stored`: `rearrange` fills `data`. Not called in a plan.
  using Rearrange = FunctionRef<Result<void>(const TensorView& stored, std::byte* data)>;
  Result<TensorView> rearranged_part(std::string_view form, const Shape& matrix,
                                     const WeightPart& stored, const WeightPart& held,
                                     Rearrange rearrange) const;

  /// A matrix of floats in `dtype`, made from one in another form: `bind` binds that one (the model
  /// does not keep it), then `decode` gives each row. Rows are not decoded in a plan.
  using DecodeRow = FunctionRef<void(Index row, std::span<float> values)>;
  Result<TensorView> decoded(const Shape& matrix, DType dtype, FunctionRef<Result<void>()> bind,
                             DecodeRow decode) const;

  /// A small tensor in f32, whatever its type in the file. `data()` is null in a plan.
  template <class T>
  Result<std::span<const T>> get(std::string_view name, const Shape& shape) const {
    static_assert(std::is_same_v<T, float>, "modules compute in f32");
    return floats(name, shape);
  }

  /// `size` floats computed from the file's tensor `name` [shape]: `fill(source, result)` gets its
  /// values in f32. Not called in a plan.
  Result<std::span<const float>> derive(
      std::string_view name, const Shape& shape, Index size,
      FunctionRef<void(std::span<const float> source, std::span<float> result)> fill) const;

  /// Whether the checkpoint has that tensor; false without a checkpoint.
  bool contains(std::string_view name) const;

  /// The path in the model: "layers.3.mixer.A_log" for the name "A_log" in the scope
  /// "layers.3.mixer".
  std::string path(std::string_view name) const;
  /// The name in the checkpoint: the path behind the checkpoint's prefix.
  std::string name(std::string_view name) const;

  /// Whether tensors have data: false in a plan.
  bool materialize() const noexcept { return binder_->materialize(); }
  /// Whether there is a checkpoint. Without one, matrices are planned in f32.
  bool is_stored() const noexcept { return binder_->store() != nullptr; }

 private:
  WeightScope below(std::string path) const {
    WeightScope scope = *this;
    scope.path_ = std::move(path);
    scope.is_factor_ = false;
    return scope;
  }
  std::string here() const;
  Result<std::span<const float>> floats(std::string_view name, const Shape& shape) const;
  void record_matrix(std::string_view form, const Shape& matrix, Placement placement,
                     std::vector<TensorView> parts) const;

  WeightBinder* binder_;
  std::string prefix_;  // "backbone." or ""
  std::string path_;    // "layers.3.mixer." or ""
  std::string owner_;  // of a shared scope: "layers.1.", in place of so many characters of the path
  std::size_t own_ = 0;
  double active_ = 1.0;
  bool is_factor_ = false;
};

/// Whether `store` has tensors directly below `name` other than `weight` and `bias`, or such
/// tensors of factors "u" and "v": they may be parts of a coded matrix.
KRAIT_API bool has_parts(const WeightStore& store, std::string_view name);

}  // namespace v0_1
}  // namespace krait
