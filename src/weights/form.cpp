#include "krait/weights/form.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace krait {
inline namespace v0_1 {

using kernels::BadWeight;

WeightMatrix::~WeightMatrix() = default;
WeightForm::~WeightForm() = default;

Shape MatrixShape::tensor(const Shape& of_one) const {
  std::vector<Index> all(of_one.extents().begin(), of_one.extents().end());
  if (count) all.insert(all.begin(), *count);
  return Shape::make(all).value_or(Shape());
}

TensorView MatrixShape::matrix(const TensorView& all, const Shape& of_one, Index i) const {
  const auto* data = static_cast<const std::byte*>(all.data);
  const Index bytes = all.bytes() / std::max(matrices(), Index{1});
  return {data == nullptr ? nullptr : data + i * bytes, all.dtype, of_one};
}

std::string RowForm::refusal(const TensorView& /*rows*/, const BadWeight& bad,
                             Index first_row) const {
  return fmt::format(
      "weights that {} can represent, found one that is not finite or too large (row {}, column "
      "{})",
      name(), first_row + bad.row, bad.col);
}

bool RowForm::recognises(const WeightScope& weights) const {
  if (weights.stored_form() != name()) return false;
  const std::vector<WeightPart> all = parts(1, 1);
  return std::all_of(all.begin(), all.end(),
                     [&](const WeightPart& part) { return weights.contains(part.name); });
}

namespace {

// The parts that hold all matrices of a stack.
std::vector<WeightPart> parts_of_all(const RowForm& form, const MatrixShape& shape) {
  std::vector<WeightPart> parts = form.parts(shape.out, shape.in);
  for (WeightPart& part : parts) part.shape = shape.tensor(part.shape);
  return parts;
}

WeightForm::Matrices matrices_over(const RowForm& form, const std::vector<TensorView>& all,
                                   const MatrixShape& shape) {
  const std::vector<WeightPart> parts = form.parts(shape.out, shape.in);
  WeightForm::Matrices matrices;
  std::vector<TensorView> of_one(parts.size());
  for (Index i = 0; i < shape.matrices(); ++i) {
    for (std::size_t p = 0; p < parts.size(); ++p) {
      of_one[p] = shape.matrix(all[p], parts[p].shape, i);
    }
    matrices.push_back(form.matrix(of_one, shape.out, shape.in));
  }
  return matrices;
}

}  // namespace

Result<WeightForm::Matrices> RowForm::bind(const WeightScope& weights, Bookings& bookings,
                                           const MatrixShape& shape) const {
  bookings.workspace(workspace(shape.in));
  KRAIT_ASSIGN_OR_RETURN(const auto parts,
                         weights.stored_parts(name(), shape.tensor({shape.out, shape.in}),
                                              parts_of_all(*this, shape)));
  return matrices_over(*this, parts, shape);
}

Result<WeightForm::Matrices> RowForm::make(const WeightScope& weights, Bookings& bookings,
                                           const MatrixShape& shape) const {
  if (const WeightForm* stored = stored_form(weights); stored != nullptr && !stored->is_dense()) {
    // What was fitted to the model's activations is not rounded once more.
    if (stored->row_form() == nullptr) return stored->bind(weights, bookings, shape);
    return Error{ErrorCode::unsupported,
                 fmt::format("[build] {}: expected floats to make {} of, found {}",
                             weights.name("weight"), name(), stored->name())};
  }
  bookings.workspace(workspace(shape.in));
  Executor& executor = weights.options().converting_threads();
  const Shape of_one{shape.out, shape.in};
  const auto encode_all = [&](const TensorView& stack,
                              std::span<const TensorView> all) -> Result<void> {
    std::vector<std::byte*> of_matrix(all.size());
    for (Index i = 0; i < shape.matrices(); ++i) {
      for (std::size_t p = 0; p < all.size(); ++p) {
        auto* data = static_cast<std::byte*>(const_cast<void*>(all[p].data));
        of_matrix[p] = data + i * (all[p].bytes() / shape.matrices());
      }
      const TensorView rows = shape.matrix(stack, of_one, i);
      if (const auto bad = encode(executor, rows, of_matrix)) {
        return Error{ErrorCode::bad_format, "expected " + refusal(rows, *bad, i * shape.out)};
      }
    }
    return {};
  };
  KRAIT_ASSIGN_OR_RETURN(const auto parts,
                         weights.encoded_parts(name(), shape.tensor({shape.out, shape.in}),
                                               parts_of_all(*this, shape), encode_all));
  return matrices_over(*this, parts, shape);
}

const WeightForm* find_form(std::string_view name, const WeightOptions& options) noexcept {
  for (const auto& form : options.forms) {
    if (form != nullptr && form->name() == name) return form.get();
  }
  for (const WeightForm* form : weight_forms()) {
    if (form->name() == name) return form;
  }
  return nullptr;
}

const WeightForm* stored_form(const WeightScope& weights) {
  for (const auto& form : weights.options().forms) {
    if (form != nullptr && form->recognises(weights)) return form.get();
  }
  // If a checkpoint has a matrix both in parts and as floats, the parts count: dense forms, which
  // the list has first, are asked last.
  const auto forms = weight_forms();
  for (auto form = forms.rbegin(); form != forms.rend(); ++form) {
    if ((*form)->recognises(weights)) return *form;
  }
  return nullptr;
}

}  // namespace v0_1
}  // namespace krait
