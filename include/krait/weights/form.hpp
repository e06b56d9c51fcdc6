#pragma once

/// \file
/// WeightForm: a way to hold weight matrices. Each is one file, of src/weights/forms or of an
/// application, which passes it in WeightOptions::forms; `examples/custom_weight_form.cpp` is one.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/plan.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/kernels/quant.hpp"
#include "krait/weights/matrix.hpp"
#include "krait/weights/options.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// Extents of one matrix [out, in], or of `count` of them in one tensor [count, out, in].
struct MatrixShape {
  Index out = 0;
  Index in = 0;
  std::optional<Index> count = {};  ///< absent: one matrix, in a tensor of two axes

  Index matrices() const noexcept { return count.value_or(1); }
  /// The shape of a tensor that holds all of them, if that of one is given.
  KRAIT_API Shape tensor(const Shape& of_one) const;
  /// What a tensor has of the i-th matrix, which has that shape.
  KRAIT_API TensorView matrix(const TensorView& all, const Shape& of_one, Index i) const;
};

class PackedForm;

/// A way to hold weight matrices.
class KRAIT_API WeightForm {
 public:
  using Matrices = std::vector<std::shared_ptr<const WeightMatrix>>;

  virtual ~WeightForm();

  /// As users write it ("q8"), in options and in the metadata of checkpoints. Not "file".
  virtual std::string_view name() const noexcept = 0;

  /// Whether the checkpoint has the matrix of that scope in this form: by its metadata and the
  /// names of its tensors, which other forms may share.
  virtual bool recognises(const WeightScope& weights) const = 0;

  /// The matrices of the scope, which are stored in this form, in order; books in `plan` what their
  /// products need. While planning, tensors have no data.
  virtual Result<Matrices> bind(const WeightScope& weights, Plan& plan,
                                const MatrixShape& shape) const = 0;

  /// The same for matrices that are stored in another form, or, without a checkpoint, in none.
  virtual Result<Matrices> make(const WeightScope& weights, Plan& plan,
                                const MatrixShape& shape) const = 0;

  /// Whether it is a tensor `weight` of floats, of which other forms can be made.
  virtual bool is_dense() const noexcept { return false; }

  /// Whether products take activations of that type.
  virtual bool computes_in(Compute compute) const noexcept { return compute == Compute::f32; }

  /// How tools write checkpoints in this form; null if they cannot.
  virtual const PackedForm* packed() const noexcept { return nullptr; }
};

/// A form whose tensors are made of a few rows of floats at a time. What it has to say is where
/// the numbers lie and how to multiply with them; binding, making, and writing follow.
class KRAIT_API PackedForm : public WeightForm {
 public:
  /// The tensors of a matrix [out, in], in the order in which `pack` and `matrix` get them. All
  /// have the number of blocks of rows as their first extent; those of a stack of matrices have its
  /// count before it. Their names follow the matrix's: "codes" is "layers.3.mixer.in_proj.codes".
  virtual std::vector<WeightPart> parts(Index out, Index in) const = 0;

  /// Rows of a block; the last may have fewer.
  virtual Index block_rows() const noexcept { return 1; }

  /// Writes `rows` [n, in] of f32, f16 or bf16, at any address, from a block's beginning, to the
  /// parts' memory for those blocks. Stops at a number that has no place in the form and returns
  /// the first such. The result is the same for every executor.
  virtual std::optional<kernels::BadWeight> pack(Executor& executor, const TensorView& rows,
                                                 std::span<std::byte* const> parts) const = 0;

  /// What a message says of that number: "weights that …, found …", `first_row` being the place of
  /// the first of `rows` in the whole tensor.
  virtual std::string refusal(const TensorView& rows, const kernels::BadWeight& bad,
                              Index first_row) const;

  /// A matrix over its parts, whose data is null while planning.
  virtual std::shared_ptr<const WeightMatrix> matrix(std::span<const TensorView> parts, Index out,
                                                     Index in) const = 0;

  /// Floats per token that a product books (Plan::workspace).
  virtual Index workspace(Index /*in*/) const noexcept { return 0; }

  /// By the metadata's form, if all parts are there.
  bool recognises(const WeightScope& weights) const override;
  Result<Matrices> bind(const WeightScope& weights, Plan& plan,
                        const MatrixShape& shape) const override;
  Result<Matrices> make(const WeightScope& weights, Plan& plan,
                        const MatrixShape& shape) const override;
  const PackedForm* packed() const noexcept override { return this; }
};

/// krait's own forms, in the order in which they are listed to users: f32, bf16, f16, q8, q4, aqlm,
/// aqlm-exact.
KRAIT_API std::span<const WeightForm* const> weight_forms() noexcept;

/// The form of that name, of krait's or of the options' own; null if there is none.
KRAIT_API const WeightForm* find_form(std::string_view name,
                                      const WeightOptions& options = {}) noexcept;

/// The form in which the checkpoint has the matrix of that scope; null if it has it in none.
KRAIT_API const WeightForm* stored_form(const WeightScope& weights);

}  // namespace v0_1
}  // namespace krait
