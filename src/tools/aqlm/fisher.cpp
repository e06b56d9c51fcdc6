#include "tools/aqlm/fisher.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "krait/core/float_environment.hpp"
#include "krait/training/model_gradient.hpp"
#include "training/trained_model.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

constexpr std::size_t piece_tokens = 256;
// Of the text, since each token costs three passes; more change the mean of squares little.
constexpr std::size_t most_tokens = std::size_t{64} << 10U;
constexpr double least = 0.1;

// Adds the squares of the rows of a gradient [out, in].
void add_squares(const float* gradient, Index in, std::span<double> sums) {
  for (double& sum : sums) {
    for (Index k = 0; k < in; ++k) {
      const auto value = static_cast<double>(gradient[k]);
      sum += value * value;
    }
    gradient += in;
  }
}

Result<std::vector<float>> relative(const std::vector<double>& sums, const std::string& path) {
  double mean = 0.0;
  for (const double sum : sums) mean += sum / static_cast<double>(sums.size());
  if (!std::isfinite(mean)) {
    return Error{ErrorCode::not_finite,
                 fmt::format("[aqlm] {}: expected finite gradients, found {}", path, mean)};
  }
  std::vector<float> result;
  for (const double sum : sums) {
    const double part = mean > 0.0 ? sum / mean : 1.0;
    result.push_back(static_cast<float>(least + (1.0 - least) * part));
  }
  return result;
}

constexpr const char* work_name = "output-weights";

std::string name_of(const FisherPlace& place) {
  return fmt::format("{}+{}", place.path, place.first);
}

}  // namespace

Result<std::vector<std::vector<float>>> finished_output_fisher(
    const PartialWork& finished, const CheckpointPlan& plan, std::span<const Token> tokens,
    std::span<const FisherPlace> places, Executor& executor, Progress progress) {
  std::vector<std::vector<float>> weights;
  if (const std::optional<WeightStore> store = finished.read(work_name)) {
    for (const FisherPlace& place : places) {
      const WeightStore::Entry* entry = store->find(name_of(place));
      if (entry == nullptr || entry->tensor.size() != place.out) break;
      const std::span<const float> values = entry->tensor.as<float>();
      weights.emplace_back(values.begin(), values.end());
    }
    if (weights.size() == places.size()) return weights;
  }
  KRAIT_ASSIGN_OR_RETURN(weights, output_fisher(plan, tokens, places, executor, progress));
  std::vector<NamedTensor> tensors;
  for (std::size_t i = 0; i < places.size(); ++i) {
    tensors.push_back({name_of(places[i]), {weights[i].data(), DType::f32, {places[i].out}}});
  }
  KRAIT_RETURN_IF_ERROR(finished.write(work_name, std::move(tensors)));
  return weights;
}

Result<std::vector<std::vector<float>>> output_fisher(const CheckpointPlan& plan,
                                                      std::span<const Token> tokens,
                                                      std::span<const FisherPlace> places,
                                                      Executor& executor, Progress progress) {
  const FloatEnvironment environment;
  const ModelSpec spec = training::trained_spec(plan);
  KRAIT_ASSIGN_OR_RETURN(ModelGradient model,
                         ModelGradient::create(spec, plan.config.prefix, executor));
  const Parameters& parameters = model.parameters();
  AlignedBuffer<float> values(parameters.floats());
  AlignedBuffer<float> gradients(parameters.floats());
  KRAIT_ASSIGN_OR_RETURN(
      const WeightStore weights,
      training::trained_weights(spec, plan.config.prefix, plan.checkpoint.weights));
  KRAIT_RETURN_IF_ERROR(parameters.read(weights, values.span()));
  KRAIT_RETURN_IF_ERROR(model.bind(values.data()));
  std::vector<std::vector<double>> sums;
  for (const FisherPlace& place : places) sums.emplace_back(static_cast<std::size_t>(place.out));
  const auto all = tokens.first(std::min(tokens.size(), most_tokens));
  for (auto rest = all; rest.size() > 1;) {
    const std::size_t size = std::min(piece_tokens, rest.size() - 1);
    std::fill_n(gradients.data(), gradients.size(), 0.0F);
    Leaf leaf;
    leaf.inputs = rest.first(size);
    leaf.targets = rest.subspan(1, size);
    KRAIT_RETURN_IF_ERROR(model.backward(leaf, gradients.data()));
    parallel_for(executor, std::ssize(places), 1, [&](Range range) {
      for (Index i = range.begin; i < range.end; ++i) {
        const FisherPlace& place = places[static_cast<std::size_t>(i)];
        const Index offset = parameters.find(place.path)->offset + place.first;
        add_squares(gradients.data() + offset, place.in, sums[static_cast<std::size_t>(i)]);
      }
    });
    rest = rest.subspan(size);
    if (progress && progress(std::ssize(all) - std::ssize(rest), std::ssize(all)) == Flow::stop) {
      return Error{ErrorCode::cancelled, "[aqlm] cancelled"};
    }
  }
  std::vector<std::vector<float>> result;
  for (std::size_t i = 0; i < places.size(); ++i) {
    KRAIT_ASSIGN_OR_RETURN(std::vector<float> part, relative(sums[i], places[i].path));
    result.push_back(std::move(part));
  }
  return result;
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
