#pragma once

/// \file
/// WeightScope: a place in the tree of tensor names, from which modules take what they need.

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/dtype.hpp"
#include "krait/core/error.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/function_ref.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// In which form the weight matrices are held in memory.
enum class WeightForm { file, f32, f16, bf16, q8, q4 };

/// "file", "f32", "f16", "bf16", "q8", "q4".
KRAIT_API std::string_view to_string(WeightForm form) noexcept;

/// The type of the activations in products with f32, f16 and bf16 matrices.
enum class Compute {
  f32,
  bf16,  ///< rounded before each product; for matrices of bf16 only
};

/// How a model holds its weights and multiplies with them.
struct WeightOptions {
  WeightForm form = WeightForm::file;
  Compute compute = Compute::f32;
  Executor* executor = nullptr;  ///< threads that make q8 and q4 of floats; null: the caller's
};

/// What the metadata of a checkpoint that krait wrote says of its matrices: their form, and the
/// version of the layout of codes and scales.
inline constexpr std::string_view weight_form_key = "krait.form";
inline constexpr std::string_view weight_format_version_key = "krait.format_version";
inline constexpr std::string_view weight_format_version = "1";

/// How a model holds one of its tensors.
enum class Placement {
  in_place,   ///< used where the file has it
  converted,  ///< a copy in another form
  derived,    ///< computed from the file's tensor
};

/// What a tensor is to the model.
enum class TensorRole {
  matrix,     ///< of a matrix product or an embedding: held in the form the user asked for
  parameter,  ///< anything else: computed with in f32
};

/// One tensor of a bound model.
struct TensorUse {
  std::string name;  ///< in the checkpoint
  std::string path;  ///< in the model: the name without the checkpoint's prefix
  Shape shape;
  std::string form;  ///< as held in memory: "f32", "bf16", "q8", …
  Index bytes = 0;   ///< as held in memory
  Placement placement = Placement::in_place;
  TensorRole role = TensorRole::parameter;
  double active = 1.0;  ///< the part of it that one token needs: below 1 for experts
  /// The tensor as held, or its codes and scales; of a derived one, the file's tensor. Data null
  /// while planning.
  std::vector<TensorView> parts;
};

/// A matrix of packed codes with their scales.
struct PackedMatrix {
  TensorView codes;   ///< u8
  TensorView scales;  ///< f16
};

/// Connects modules with a WeightStore and keeps what they make of its tensors.
///
/// Works in three ways: with a store, to build a model; with a store but `materialize` off, to
/// learn what building would cost; and without a store, to learn which tensors a model needs.
class KRAIT_API WeightBinder {
 public:
  struct Options {
    WeightOptions weights = {};
    bool materialize = true;
  };

  /// `store` may be null: every tensor then exists, in f32, without data.
  WeightBinder(const WeightStore* store, Options options) : store_(store), options_(options) {}

  const WeightStore* store() const noexcept { return store_; }
  bool materialize() const noexcept { return store_ != nullptr && options_.materialize; }

  /// Everything bound so far, in order.
  const std::vector<TensorUse>& uses() const noexcept { return uses_; }
  /// Blocks made for the model; whoever keeps the model keeps them.
  std::vector<std::shared_ptr<const void>> take_blocks() { return std::move(blocks_); }

  /// Counts a tensor as used, though nothing was made of it.
  void ignore(std::string name) { used_names_.insert(std::move(name)); }

  /// Names in the store that nothing asked for.
  std::vector<std::string> unused() const;

 private:
  friend class WeightScope;

  Result<TensorView> find(const std::string& name, const Shape& shape);
  Result<TensorView> narrow(const std::string& name, const TensorView& stored, DType dtype);
  Result<TensorView> find_part(const std::string& name, DType dtype, const Shape& shape);
  void record(TensorUse use);
  void* allocate(Index bytes);
  Result<TensorView> hold(std::string name, std::string path, const Shape& shape, DType dtype,
                          TensorRole role, double active);

  const WeightStore* store_;
  Options options_;
  std::vector<TensorUse> uses_;
  std::set<std::string, std::less<>> used_names_;
  std::vector<std::shared_ptr<const void>> blocks_;
  std::shared_ptr<const void> narrowed_;  // the f64 tensor found last, in f32
};

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

/// Converts a tensor of floats (f64 as well, by way of f32) to another type of float, rounding to
/// nearest even.
KRAIT_API void convert_floats(const TensorView& from, DType to, void* out) noexcept;

/// The first element of f32, f16 or bf16 that is infinite or no number, counted from the first.
KRAIT_API std::optional<Index> find_not_finite(const TensorView& tensor) noexcept;

/// What to say of an element that a narrower type cannot hold: "weights that f16 can hold (at most
/// 65504), found 70000 (element [3,5])". `element` counts within `from`; `first_row` is the place
/// of its first row in the whole tensor.
KRAIT_API std::string not_representable(const TensorView& from, Index element,
                                        std::string_view form, Index first_row = 0);

}  // namespace v0_1
}  // namespace krait
