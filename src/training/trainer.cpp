#include "krait/training/trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "krait/core/float_environment.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr Index piece = 4096;  // threads share the floats in such pieces
constexpr ItemCost update_cost = ItemCost::of(24, 60);

}  // namespace

Result<Trainer> Trainer::create(const ModelSpec& spec, const std::string& prefix,
                                const TrainOptions& options, AlignedBuffer<float> values,
                                Executor& executor) {
  KRAIT_RETURN_IF_ERROR(validate(options));
  KRAIT_ASSIGN_OR_RETURN(ModelGradient gradient, ModelGradient::create(spec, prefix, executor));
  check_contract(values.size() == gradient.parameters().floats(),
                 "[training] values: expected as many floats as the parameters have");
  return Trainer(std::move(gradient), options, std::move(values), executor);
}

Trainer::Trainer(ModelGradient gradient, const TrainOptions& options, AlignedBuffer<float> values,
                 Executor& executor)
    : executor_(&executor),
      gradient_(std::move(gradient)),
      options_(options),
      values_(std::move(values)),
      first_(values_.size()),
      second_(values_.size()) {}

// The rows' gradients, in order, to sum; the sum of their losses.
Result<double> Trainer::add_rows(std::span<const Token> data, Range rows, float* sum) {
  const Index length = options_.length;
  std::vector<Token> tokens(static_cast<std::size_t>(length) + 1);
  double loss = 0.0;
  for (Index row = rows.begin; row < rows.end; ++row) {
    const Index begin = order_.begin(step_ * options_.rows() + row);
    for (Index i = 0; i <= length; ++i) {
      tokens[static_cast<std::size_t>(i)] =
          data[static_cast<std::size_t>((begin + i) % std::ssize(data))];
    }
    const std::span<const Token> all = tokens;
    KRAIT_ASSIGN_OR_RETURN(
        const double part,
        gradient_.backward({.inputs = all.first(static_cast<std::size_t>(length)),
                            .targets = all.last(static_cast<std::size_t>(length)),
                            .balance = options_.balance,
                            .z_loss = options_.z_loss},
                           sum));
    loss += part;
  }
  return loss;
}

// The sum of all rows' gradients, in sums_.front(); the sum of their losses. Shards are added as
// the leaves of a binary tree: a finished subtree waits for its sibling.
Result<double> Trainer::gradient(std::span<const Token> data) {
  const Index shards = options_.used_shards();
  const Index rows = options_.rows();
  std::vector<Index> sizes;  // shards of the subtrees that wait, each a power of two
  const auto merge = [&] {
    const std::size_t last = sizes.size() - 1;
    float* to = sums_[last - 1].data();
    const float* from = sums_[last].data();
    parallel_for(*executor_, values_.size(), piece, update_cost, [&](Range range) {
      for (Index i = range.begin; i < range.end; ++i) to[i] += from[i];
    });
    sizes[last - 1] += sizes[last];
    sizes.pop_back();
  };
  double loss = 0.0;
  for (Index shard = 0; shard < shards; ++shard) {
    if (sizes.size() == sums_.size()) sums_.emplace_back(values_.size());
    AlignedBuffer<float>& sum = sums_[sizes.size()];
    std::ranges::fill(sum.span(), 0.0F);
    KRAIT_ASSIGN_OR_RETURN(
        const double part,
        add_rows(data, {rows * shard / shards, rows * (shard + 1) / shards}, sum.data()));
    loss += part;
    sizes.push_back(1);
    while (sizes.size() > 1 && sizes[sizes.size() - 1] == sizes[sizes.size() - 2]) merge();
  }
  while (sizes.size() > 1) merge();
  return loss;
}

// One step of AdamW, with the gradient times `factor`.
void Trainer::update(const TrainStep& found, float factor) {
  float* sum = sums_.front().data();
  for (const Parameter& parameter : parameters().all()) {
    const AdamW options{.learning_rate = found.learning_rate,
                        .beta1 = options_.beta1,
                        .beta2 = options_.beta2,
                        .eps = options_.eps,
                        .weight_decay = parameter.decays ? options_.weight_decay : 0.0};
    parallel_for(*executor_, parameter.shape.size(), piece, update_cost, [&](Range range) {
      const Index at = parameter.offset + range.begin;
      for (Index i = at; i < parameter.offset + range.end; ++i) sum[i] *= factor;
      adamw(options, step_ + 1, range.size(), sum + at, first_.data() + at, second_.data() + at,
            values_.data() + at);
    });
  }
}

Result<TrainStep> Trainer::step(std::span<const Token> data) {
  if (data.size() < 2) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] data: expected at least 2 tokens, found {}", data.size())};
  }
  if (tokens_ != std::ssize(data)) {
    tokens_ = std::ssize(data);
    order_ = RowOrder(options_, tokens_);
  }
  KRAIT_RETURN_IF_ERROR(gradient_.bind(values_.data()));
  KRAIT_ASSIGN_OR_RETURN(const double loss, gradient(data));
  const FloatEnvironment environment;
  const auto targets = static_cast<double>(options_.rows() * options_.length);
  const std::span<float> sum = sums_.front().span();
  const auto share = static_cast<float>(1.0 / targets);
  for (float& g : sum) g *= share;
  const TrainStep found{.step = step_,
                        .loss = loss / targets,
                        .grad_norm = gradient_norm(sum),
                        .learning_rate = learning_rate(options_, step_)};
  if (!std::isfinite(found.loss) || !std::isfinite(found.grad_norm)) {
    return Error{
        ErrorCode::not_finite,
        fmt::format("[training] step {}: expected a finite loss and gradient, found a loss "
                    "of {} and a gradient of length {}",
                    step_, found.loss, found.grad_norm)};
  }
  const double factor = options_.clip / (found.grad_norm + 1e-6);
  update(found, options_.clip > 0.0 && factor < 1.0 ? static_cast<float>(factor) : 1.0F);
  ++step_;
  return found;
}

}  // namespace v0_1
}  // namespace krait
