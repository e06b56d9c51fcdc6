#pragma once

/// \file
/// WeightForm: a way to hold weight matrices. Each form is one file in src/weights/forms, or in an
/// application, which passes it in WeightOptions::forms (see `examples/custom_weight_form.cpp`).
///
///   form    how a whole matrix is held: "f32", "bf16", "q8", …; one tensor or several
///   dtype   the type of the elements of one tensor
///   part    one of the tensors of a form: "codes", "scales"
///   stored  what the checkpoint has, as opposed to what the user asked for

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/bookings.hpp"
#include "krait/core/error.hpp"
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
  /// The shape of the tensor that holds all matrices, from the shape that one of them needs.
  KRAIT_API Shape tensor(const Shape& of_one) const;
  /// The part of such a tensor that belongs to matrix i.
  KRAIT_API TensorView matrix(const TensorView& all, const Shape& of_one, Index i) const;
};

class RowForm;

/// A way to hold weight matrices.
class KRAIT_API WeightForm {
 public:
  using Matrices = std::vector<std::shared_ptr<const WeightMatrix>>;

  virtual ~WeightForm();

  /// As users write it ("q8"), in options and in the metadata of checkpoints. Not "file".
  virtual std::string_view name() const noexcept = 0;

  /// Whether the checkpoint has the matrix of that scope in this form. Decide by its metadata and
  /// the names of its tensors, not by extents; other forms may use the same names.
  virtual bool recognises(const WeightScope& weights) const = 0;

  /// Binds the matrices of the scope, which are stored in this form, and books what their products
  /// need. In a plan, tensors have no data.
  virtual Result<Matrices> bind(const WeightScope& weights, Bookings& bookings,
                                const MatrixShape& shape) const = 0;

  /// The same for matrices that are stored in another form, which it converts, or, if it cannot be
  /// made of others (AQLM), leaves in theirs. Without a checkpoint there is no other form.
  virtual Result<Matrices> make(const WeightScope& weights, Bookings& bookings,
                                const MatrixShape& shape) const = 0;

  /// Whether the form is one tensor `weight` of floats, from which other forms can be made.
  virtual bool is_dense() const noexcept { return false; }

  /// Whether products can take activations of that type.
  virtual bool computes_in(Compute compute) const noexcept { return compute == Compute::f32; }

  /// For tools that write checkpoints in this form; null if they cannot.
  virtual const RowForm* row_form() const noexcept { return nullptr; }
};

/// A form whose tensors can be made a few rows at a time. A subclass says which tensors there are,
/// how rows of floats are encoded, and how to multiply; binding, converting and writing follow from
/// that.
class KRAIT_API RowForm : public WeightForm {
 public:
  /// The tensors of a matrix [out, in], in the order in which `encode` and `matrix` get them. Their
  /// first extent is the number of blocks of rows (a stack of matrices has its count before it).
  /// Names follow the matrix's: "codes" is "layers.3.mixer.in_proj.codes".
  virtual std::vector<WeightPart> parts(Index out, Index in) const = 0;

  /// Rows of a block, which are encoded together. The last block may have fewer.
  virtual Index block_rows() const noexcept { return 1; }

  /// Encodes `rows` [n, in] of f32, f16 or bf16 (at any address; the first begins a block) into the
  /// parts' memory for those blocks. Returns the place of the first weight that the form cannot
  /// represent, if there is one. The result is the same for every executor.
  virtual std::optional<kernels::BadWeight> encode(Executor& executor, const TensorView& rows,
                                                   std::span<std::byte* const> parts) const = 0;

  /// The message about such a weight: "weights that …, found …". The first of `rows` is row
  /// `first_row` of the whole tensor.
  virtual std::string refusal(const TensorView& rows, const kernels::BadWeight& bad,
                              Index first_row) const;

  /// A matrix over its parts. In a plan, their data is null.
  virtual std::shared_ptr<const WeightMatrix> matrix(std::span<const TensorView> parts, Index out,
                                                     Index in) const = 0;

  /// Floats per token of working memory that a product needs (Bookings::workspace).
  virtual Index workspace(Index /*in*/) const noexcept { return 0; }

  /// True if the metadata names this form and all parts exist.
  bool recognises(const WeightScope& weights) const override;
  Result<Matrices> bind(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override;
  Result<Matrices> make(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override;
  const RowForm* row_form() const noexcept override { return this; }
};

/// krait's own forms, in the order in which they are listed to users: floats first, then
/// those that are made of floats or read as they are.
KRAIT_API std::span<const WeightForm* const> weight_forms() noexcept;

/// The form of that name, one of `options.forms` or of krait's own; null if there is none.
KRAIT_API const WeightForm* find_form(std::string_view name,
                                      const WeightOptions& options = {}) noexcept;

/// The form in which the checkpoint has the matrix of that scope; null if it does not have it.
KRAIT_API const WeightForm* stored_form(const WeightScope& weights);

}  // namespace v0_1
}  // namespace krait
