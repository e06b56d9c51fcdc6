#include "krait/weights/linear.hpp"

#include <fmt/format.h>

#include <set>

#include "krait/io/printable.hpp"
#include "krait/weights/form.hpp"
#include "weights/adapted.hpp"
#include "weights/forms/forms.hpp"
#include "weights/low_rank.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using Matrices = WeightForm::Matrices;

std::string known_forms(const WeightOptions& options) {
  std::string names;
  for (const WeightForm* form : weight_forms()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", form->name());
  }
  for (const auto& form : options.forms) names += fmt::format(", {}", form->name());
  return names;
}

Result<void> check_forms(const WeightOptions& options) {
  std::set<std::string_view> names = {"file", ""};
  for (const WeightForm* form : weight_forms()) names.insert(form->name());
  for (const auto& form : options.forms) {
    if (form != nullptr && names.insert(form->name()).second) continue;
    return Error{ErrorCode::bad_argument,
                 fmt::format("[build] forms: expected forms with names of their own, found {}",
                             form == nullptr ? "none" : fmt::format("'{}'", form->name()))};
  }
  return {};
}

Result<const WeightForm*> wanted_form(const WeightOptions& options, const WeightForm* stored) {
  if (options.form == "file") return stored;
  if (const WeightForm* form = find_form(options.form, options)) return form;
  return Error{ErrorCode::bad_argument,
               fmt::format("[build] form: expected one of file, {}, found '{}'",
                           known_forms(options), options.form)};
}

// The form in which the checkpoint has the matrix; f32 without a checkpoint.
Result<const WeightForm*> form_in_file(const WeightScope& weights) {
  if (const WeightForm* form = stored_form(weights)) return form;
  if (!weights.has_parts() || weights.contains("weight")) return &f32_form();
  std::string there = weights.describe_parts();
  if (!weights.stored_form().empty()) {
    there = fmt::format("'{}' in the metadata, {}", printable(weights.stored_form(), 40), there);
  }
  return Error{ErrorCode::unsupported,
               fmt::format("[build] {}: expected a matrix in one of the forms {}, found {}",
                           weights.name("weight"), known_forms(weights.options()), there)};
}

// Checks number and shapes of the matrices that a form gave: an application's may be wrong.
Result<void> check_matrices(const WeightScope& weights, const WeightForm& form,
                            const MatrixShape& shape, const Matrices& matrices) {
  const auto refuse = [&](const std::string& expected, const std::string& found) -> Error {
    return {ErrorCode::bad_format,
            fmt::format("[build] {}: expected {} of form {}, found {}", weights.name("weight"),
                        expected, form.name(), found)};
  };
  if (std::ssize(matrices) != shape.matrices()) {
    return refuse(fmt::format("{} matrices", shape.matrices()), fmt::to_string(matrices.size()));
  }
  for (const auto& matrix : matrices) {
    const Shape expected = {shape.out, shape.in};
    if (matrix == nullptr) return refuse("a matrix " + to_string(expected), "none");
    const Shape found = {matrix->out(), matrix->in()};
    if (!(found == expected)) return refuse("a matrix " + to_string(expected), to_string(found));
  }
  return {};
}

// Binds the matrices in the form that the options ask for. Of a product of factors, each is in it.
// Adapters stay in f32 beside them.
Result<Matrices> bind_matrices(const WeightScope& weights, Bookings& bookings,
                               const MatrixShape& shape) {
  const WeightOptions& options = weights.options();
  KRAIT_RETURN_IF_ERROR(check_forms(options));
  if (is_factored(weights)) {
    KRAIT_ASSIGN_OR_RETURN(Matrices products,
                           bind_factors(weights, bookings, shape, bind_matrices));
    return bind_adapters(weights, bookings, shape, std::move(products));
  }
  KRAIT_ASSIGN_OR_RETURN(const WeightForm* stored, form_in_file(weights));
  KRAIT_ASSIGN_OR_RETURN(const WeightForm* wanted, wanted_form(options, stored));
  KRAIT_ASSIGN_OR_RETURN(Matrices matrices, wanted == stored
                                                ? wanted->bind(weights, bookings, shape)
                                                : wanted->make(weights, bookings, shape));
  KRAIT_RETURN_IF_ERROR(check_matrices(weights, *wanted, shape, matrices));
  if (weights.is_stored() && !wanted->computes_in(options.compute)) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[build] {}: expected bf16 to compute in bf16, found {}",
                             weights.name("weight"), wanted->name())};
  }
  return bind_adapters(weights, bookings, shape, std::move(matrices));
}

}  // namespace

Result<Linear> Linear::bind(const WeightScope& weights, Bookings& bookings, Index out, Index in,
                            bool has_bias) {
  auto* const shared = weights.shared_matrix();
  const bool is_bound =
      shared != nullptr && *shared != nullptr && (*shared)->out() == out && (*shared)->in() == in;
  Linear bound;
  if (is_bound) {
    bound = Linear(*shared);
  } else {
    KRAIT_ASSIGN_OR_RETURN(auto matrices, bind_matrices(weights, bookings, {.out = out, .in = in}));
    if (shared != nullptr) *shared = matrices.front();
    bound = Linear(std::move(matrices.front()));
  }
  if (!has_bias) return bound;
  KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {out}));
  return bound.with_bias(bias.data());
}

Result<std::vector<Linear>> Linear::bind_stack(const WeightScope& weights, Bookings& bookings,
                                               Index count, Index out, Index in) {
  KRAIT_ASSIGN_OR_RETURN(auto matrices,
                         bind_matrices(weights, bookings, {.out = out, .in = in, .count = count}));
  std::vector<Linear> bound;
  for (auto& matrix : matrices) bound.emplace_back(std::move(matrix));
  return bound;
}

}  // namespace v0_1
}  // namespace krait
