// Weights with cuts.

#include "tools/laser/cutter.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

#include "core/text_hash.hpp"
#include "krait/core/tensor.hpp"
#include "krait/models/builder.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/overlay.hpp"
#include "tools/checkpoint_copy.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {
namespace {

const TensorView& tensor_of(const CheckpointPlan& plan, const LaserMatrix& matrix) {
  return plan.checkpoint.weights.find(matrix.tensor + ".weight")->tensor;
}

// Of floats that krait computes with.
DType held_type(const TensorView& tensor) {
  return tensor.dtype == DType::f64 ? DType::f32 : tensor.dtype;
}

// Element e of a tensor, of type `dtype`.
std::byte* at(Tensor& tensor, Index element) {
  return static_cast<std::byte*>(tensor.data()) + element * bytes_of(tensor.dtype());
}

void store_floats(const std::vector<float>& values, Tensor& tensor, Index element) {
  convert_floats({values.data(), DType::f32, {std::ssize(values)}}, tensor.dtype(),
                 at(tensor, element));
}

}  // namespace

Cutter::Cutter(const CheckpointPlan& plan)
    : plan_(plan), weights_(plan.checkpoint.weights), matrices_(laser_matrices(plan)) {
  std::set<std::string_view> kept(plan.plan.unused.begin(), plan.plan.unused.end());
  for (const TensorUse& use : plan.plan.tensors) kept.insert(use.name);
  for (const auto& [name, entry] : plan.checkpoint.weights.entries()) {
    if (!kept.contains(name)) weights_.remove(name);
  }
}

Result<Cutter> Cutter::create(const CheckpointPlan& plan) {
  KRAIT_RETURN_IF_ERROR(
      check_floats(plan.plan, plan.checkpoint.weights, plan.checkpoint.path, "laser"));
  KRAIT_RETURN_IF_ERROR(
      check_finite(plan.plan, plan.checkpoint.weights, plan.checkpoint.path, "laser"));
  return Cutter(plan);
}

std::vector<float> values_of(const CheckpointPlan& plan, const LaserMatrix& matrix) {
  const TensorView& tensor = tensor_of(plan, matrix);
  const Index first = (matrix.item * matrix.item_rows + matrix.first_row) * matrix.cols;
  std::vector<float> values(static_cast<std::size_t>(matrix.rows * matrix.cols));
  convert_floats({static_cast<const std::byte*>(tensor.data) + first * bytes_of(tensor.dtype),
                  tensor.dtype,
                  {matrix.rows, matrix.cols}},
                 DType::f32, values.data());
  return values;
}

bool overlaps(const LaserMatrix& a, const LaserMatrix& b) noexcept {
  return a.tensor == b.tensor && a.item == b.item && a.first_row < b.first_row + b.rows &&
         b.first_row < a.first_row + a.rows;
}

Result<std::vector<Cut>> Cutter::resolve(const std::vector<LaserCut>& cuts) const {
  std::vector<Cut> found;
  for (const LaserCut& cut : cuts) {
    // The same checks as for what users write.
    KRAIT_ASSIGN_OR_RETURN(const LaserCut known, parse_laser_cut(to_string(cut), matrices_));
    const auto matrix = std::ranges::find_if(matrices_, [&](const LaserMatrix& m) {
      return m.layer == known.layer && m.name == known.matrix;
    });
    for (const Cut& other : found) {
      const LaserMatrix& before = matrices_[other.matrix];
      if (!overlaps(before, *matrix)) continue;
      return bad("set", "each matrix once",
                 label(before) == label(*matrix)
                     ? label(*matrix) + " twice"
                     : fmt::format("{} and {}, which share rows", label(before), label(*matrix)));
    }
    found.push_back({static_cast<std::size_t>(matrix - matrices_.begin()), known.rank});
  }
  return found;
}

LaserCut Cutter::named(const Cut& cut) const {
  return {matrices_[cut.matrix].layer, matrices_[cut.matrix].name, cut.rank};
}

Result<void> Cutter::decompose(const std::vector<std::size_t>& matrices, Executor& executor) {
  std::vector<std::size_t> missing;
  for (const std::size_t i : matrices) {
    const auto known = values_.find(i);
    const bool is_exact =
        known != values_.end() && known->second.count() == matrices_[i].largest_rank();
    if (!is_exact && std::ranges::find(missing, i) == missing.end()) missing.push_back(i);
  }
  return decompose_with(missing, executor, [](std::size_t /*matrix*/, MatrixView<const float> W) {
    return krait::decompose(W);
  });
}

Result<void> Cutter::decompose_nearly(const std::map<std::size_t, Index>& ranks, std::uint64_t seed,
                                      Executor& executor) {
  std::vector<std::size_t> missing;
  for (const auto& [i, rank] : ranks) {
    const auto known = values_.find(i);
    if (known == values_.end() || known->second.count() < rank) missing.push_back(i);
  }
  return decompose_with(missing, executor, [&](std::size_t i, MatrixView<const float> W) {
    return decompose_randomly(W, ranks.at(i), seed ^ text_hash(label(matrices_[i])));
  });
}

Result<void> Cutter::decompose_with(
    const std::vector<std::size_t>& missing, Executor& executor,
    FunctionRef<Result<SingularValues>(std::size_t, MatrixView<const float>)> decompose) {
  std::vector<std::optional<Result<SingularValues>>> found(missing.size());
  parallel_for_blocks(executor, std::ssize(missing), 1, [&](Range range, int) {
    for (Index i = range.begin; i < range.end; ++i) {
      const auto k = static_cast<std::size_t>(i);
      const LaserMatrix& matrix = matrices_[missing[k]];
      const std::vector<float> W = values_of(plan_, matrix);
      found[k] = decompose(missing[k], {W.data(), matrix.rows, matrix.cols});
    }
  });
  for (std::size_t k = 0; k < missing.size(); ++k) {
    if (!*found[k]) {
      const Error& error = found[k]->error();
      return Error{error.code, fmt::format("{} ({})", error.message, label(matrices_[missing[k]]))};
    }
    values_.insert_or_assign(missing[k], *std::move(*found[k]));
  }
  return {};
}

// All matrices of a tensor, as factors.
void Cutter::factor(WeightStore& store, const std::vector<Cut>& cuts) const {
  const LaserMatrix& first = matrices_[cuts.front().matrix];
  const DType dtype = held_type(tensor_of(plan_, first));
  const Index rank = cuts.front().rank;
  const auto shape = [&](Index rows, Index cols) {
    return first.is_stack ? Shape{first.items, rows, cols} : Shape{rows, cols};
  };
  const auto u = std::make_shared<Tensor>(dtype, shape(first.rows, rank));
  const auto v = std::make_shared<Tensor>(dtype, shape(rank, first.cols));
  for (const Cut& cut : cuts) {
    const LowRankFactors factors = krait::cut(values_.at(cut.matrix), rank);
    const Index item = matrices_[cut.matrix].item;
    store_floats(factors.u, *u, item * first.rows * rank);
    store_floats(factors.v, *v, item * rank * first.cols);
  }
  store.keep(u);
  replace_matrix(store, first.tensor, low_rank_form, {{"u", u->view()}, {"v", v->view()}}, v);
}

void Cutter::write_back(WeightStore& store, const std::vector<Cut>& cuts) const {
  const LaserMatrix& first = matrices_[cuts.front().matrix];
  const TensorView& stored = tensor_of(plan_, first);
  const auto made = std::make_shared<Tensor>(held_type(stored), stored.shape);
  convert_floats(stored, made->dtype(), made->data());
  for (const Cut& cut : cuts) {
    const LaserMatrix& matrix = matrices_[cut.matrix];
    const Index row = matrix.item * matrix.item_rows + matrix.first_row;
    store_floats(multiply(krait::cut(values_.at(cut.matrix), cut.rank), matrix.rows, matrix.cols),
                 *made, row * matrix.cols);
  }
  store.add(first.tensor + ".weight", made->view(), made);
}

WeightStore Cutter::apply(const std::vector<Cut>& cuts, LaserForm form) const {
  WeightStore store = weights_;
  std::map<std::string, std::vector<Cut>> tensors;
  for (const Cut& cut : cuts) tensors[matrices_[cut.matrix].tensor].push_back(cut);
  for (const auto& [name, of_tensor] : tensors) {
    const bool is_factored =
        form == LaserForm::smaller &&
        std::ssize(of_tensor) == matrices_[of_tensor.front().matrix].items &&
        std::ranges::all_of(of_tensor, [&, rank = of_tensor.front().rank](const Cut& cut) {
          const LaserMatrix& matrix = matrices_[cut.matrix];
          return matrix.is_whole() && cut.rank == rank && pays(matrix, rank);
        });
    is_factored ? factor(store, of_tensor) : write_back(store, of_tensor);
  }
  return store;
}

}  // namespace laser

namespace {

using laser::Cut;
using laser::Cutter;

std::vector<std::size_t> places_of(const std::vector<Cut>& cuts) {
  std::vector<std::size_t> places;
  for (const Cut& cut : cuts) places.push_back(cut.matrix);
  return places;
}

}  // namespace

Result<WeightStore> cut_weights(const CheckpointPlan& plan, const std::vector<LaserCut>& cuts,
                                LaserForm form, Executor& executor) {
  KRAIT_ASSIGN_OR_RETURN(Cutter cutter, Cutter::create(plan));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Cut> found, cutter.resolve(cuts));
  KRAIT_RETURN_IF_ERROR(cutter.decompose(places_of(found), executor));
  return cutter.apply(found, form);
}

Result<Model> cut_model(const CheckpointPlan& plan, const std::vector<LaserCut>& cuts,
                        Executor& executor, const WeightOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const WeightStore store,
                         cut_weights(plan, cuts, LaserForm::smaller, executor));
  return build_model(plan.config.spec, store, plan.config.prefix, options);
}

Result<std::vector<LaserCut>> laser_rule(const CheckpointPlan& plan, Executor& executor) {
  KRAIT_ASSIGN_OR_RETURN(Cutter cutter, Cutter::create(plan));
  std::vector<LaserCut> cuts;
  const std::vector<LaserMatrix>& matrices = cutter.matrices();
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    if (matrices[i].layer < 0 || !matrices[i].is_whole() || matrices[i].is_dense) continue;
    KRAIT_RETURN_IF_ERROR(cutter.decompose({i}, executor));
    const Index rank = marchenko_pastur_rank(cutter.values(i));
    cutter.forget();
    if (rank < matrices[i].largest_rank()) cuts.push_back(cutter.named({i, rank}));
  }
  return cuts;
}

}  // namespace v0_1
}  // namespace krait
