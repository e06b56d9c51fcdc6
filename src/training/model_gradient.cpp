#include "krait/training/model_gradient.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "decoding/exact_math.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/weights/adapter.hpp"
#include "models/keep_embedding.hpp"
#include "training/capacity.hpp"
#include "training/frozen.hpp"
#include "training/products.hpp"
#include "training/room.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Tokens whose logits exist at a time.
constexpr Index head_block = 128;

Error bad_leaf(std::string_view what, const std::string& expected, const std::string& found) {
  return {ErrorCode::bad_argument,
          fmt::format("[training] {}: expected {}, found {}", what, expected, found)};
}

// Σ_v q_v (ln q_v − ln p_v), where ln p = logits − log_sum.
float divergence(std::span<const float> law, std::span<const float> logits, float log_sum) {
  double sum = 0.0;
  for (std::size_t v = 0; v < law.size(); ++v) {
    const auto q = static_cast<double>(law[v]);
    if (q > 0.0) {
      sum += q * (log_positive(q) - static_cast<double>(logits[v]) + static_cast<double>(log_sum));
    }
  }
  return static_cast<float>(sum);
}

bool is_wide(const ResidualSpec& residual) {
  return std::visit([](const auto& kind) { return reads_embedding(kind); }, residual.block);
}

// The first of the layers that use the tensors of `owner`: the paths are below it.
std::string first_user(const ModelSpec& spec, Index owner) {
  const auto uses = [&](const ResidualSpec& residual) { return residual.weights_of == owner; };
  const auto found = std::ranges::find_if(spec.layers, [&](const LayerSpec& layer) {
    const bool is_owner = &layer - spec.layers.data() == owner;
    const auto owns = [&](const ResidualSpec& residual) {
      return is_owner && residual.weights_of < 0;
    };
    return std::ranges::any_of(layer.residuals, uses) || std::ranges::any_of(layer.residuals, owns);
  });
  return fmt::format("{}.{}", spec.layers_name, found - spec.layers.begin());
}

// A target and a law, both with their weights, for the logits of one token, which become their
// gradient. ln p(target), and the divergence in `kl`.
float distill(const Leaf& leaf, std::size_t at, std::span<float> row, std::span<float> cooled,
              float& kl) {
  const auto T = static_cast<float>(leaf.distillation.temperature);
  const std::span<const float> law = leaf.laws.row(static_cast<Index>(at));
  const float weight = leaf.weights.empty() ? 1.0F : leaf.weights[at];
  const auto of_target = static_cast<float>(1.0 - leaf.distillation.alpha);
  const auto of_law = static_cast<float>(leaf.distillation.alpha * leaf.distillation.temperature);
  for (std::size_t v = 0; v < row.size(); ++v) cooled[v] = row[v] / T;
  kl = divergence(law, cooled, kernels::log_sum_exp(cooled));
  kernels::softmax(cooled, cooled);
  const auto target = static_cast<std::size_t>(leaf.targets[at]);
  const float log_p = row[target] - kernels::log_sum_exp(row);
  kernels::softmax(row, row);
  row[target] -= 1.0F;
  for (std::size_t v = 0; v < row.size(); ++v) {
    row[v] = weight * (of_target * row[v] + of_law * (cooled[v] - law[v]));
  }
  return log_p;
}

}  // namespace

Result<void> validate(const Distillation& options) {
  if (!(options.alpha >= 0.0 && options.alpha <= 1.0)) {
    return bad_leaf("distill", "0 to 1", fmt::to_string(options.alpha));
  }
  if (!(options.temperature > 0.0) || !std::isfinite(options.temperature)) {
    return bad_leaf("temperature", "a finite number above 0", fmt::to_string(options.temperature));
  }
  return {};
}

ModelGradient::ModelGradient(Executor& executor) : executor_(&executor) {}

Result<ModelGradient> ModelGradient::create(const ModelSpec& spec, const std::string& prefix,
                                            Executor& executor, std::shared_ptr<const Lora> lora) {
  ModelGradient gradient(executor);
  gradient.spec_ = spec;
  gradient.prefix_ = prefix;
  KRAIT_ASSIGN_OR_RETURN(gradient.parameters_, Parameters::of(spec, prefix));
  WeightBinder binder(nullptr, {});
  const auto booked = std::make_shared<Bookings>(spec.d_model());
  Bookings& bookings = *booked;
  gradient.bookings_ = booked;
  gradient.size_.threads = executor.width();
  const WeightScope root(binder, prefix);
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerSpec& layer = spec.layers[i];
    const WeightScope layer_scope = root.scope(spec.layers_name, static_cast<Index>(i));
    Index first = 0;
    for (std::size_t r = 0; r < layer.residuals.size(); ++r) {
      const ResidualSpec& residual = layer.residuals[r];
      if (!residual.beside) first = std::ssize(gradient.parts_);
      Part part;
      part.norm = residual.norm;
      part.layer = fmt::format("{}.{}", spec.layers_name, i);
      WeightScope scope = layer_scope;
      if (residual.weights_of >= 0) {
        part.owner = first_user(spec, residual.weights_of);
        scope = scope.shared(root.scope(spec.layers_name, residual.weights_of));
      }
      part.norm_name = residual.norm_name;
      part.block_name = residual.block_name;
      part.is_wide = is_wide(residual);
      bookings.set_d_input(part.is_wide ? 2 * spec.d_model() : spec.d_model());
      part.state = bookings.state_floats();
      part.parallel =
          residual.beside || (r + 1 < layer.residuals.size() && layer.residuals[r + 1].beside);
      part.scale = residual.scale;
      part.input = first;
      part.ends = !residual.beside;
      part.aside = residual.aside;
      part.reads_aside = residual.beside
                             ? gradient.parts_[static_cast<std::size_t>(first)].reads_aside
                             : r > 0 && layer.residuals[r - 1].aside;
      if (const auto* moe = std::get_if<MoeSpec>(&residual.block)) part.top_k = moe->top_k;
      KRAIT_ASSIGN_OR_RETURN(part.block, make_block_gradient(residual.block, spec.d_model()));
      const WeightScope own = scope.scope(residual.block_name);
      KRAIT_RETURN_IF_ERROR(
          std::visit([&](const auto& kind) { return kind.bind(own, bookings); }, residual.block));
      gradient.parts_.push_back(std::move(part));
    }
  }
  gradient.head_path_ = gradient.parameters_.find(spec.head_name + ".weight") != nullptr
                            ? spec.head_name
                            : spec.embedding_name;
  if (lora != nullptr) {
    gradient.parameters_ = lora->parameters();
    gradient.size_.rank = lora->options().rank;
  }
  const AlignedBuffer<float> factors(lora == nullptr ? 0 : lora->parameters().floats());
  const WeightStore store = lora == nullptr ? WeightStore() : lora->store(factors.data());
  KRAIT_ASSIGN_OR_RETURN(ModelPlan plan,
                         plan_model(spec, lora == nullptr ? nullptr : &store, prefix));
  gradient.size_.workspace = plan.workspace_bytes_per_token / Index{sizeof(float)};
  gradient.plan_ = std::make_shared<const ModelPlan>(std::move(plan));
  gradient.lora_ = std::move(lora);
  return gradient;
}

Result<void> ModelGradient::bind(const float* values) {
  if (lora_ == nullptr) {
    values_ = values;
    model_.reset();  // what it derived from the old values
    KRAIT_ASSIGN_OR_RETURN(model_, build_model(spec_, parameters_.store(values), prefix_));
    return {};
  }
  if (model_.has_value() && values == values_) return {};
  values_ = values;
  const WeightStore store = lora_->store(values);
  const WeightOptions options{.executor = executor_};
  KRAIT_ASSIGN_OR_RETURN(model_, build_model(spec_, store, prefix_, options));
  KRAIT_ASSIGN_OR_RETURN(training::Frozen frozen,
                         training::Frozen::bind(spec_, prefix_, store, options));
  frozen_ = std::make_shared<const training::Frozen>(std::move(frozen));
  return {};
}

std::size_t ModelGradient::bytes() const noexcept {
  return memory_->bytes() + scratch_.bytes() + workspace_.bytes() + tasks_.bytes();
}

Result<void> ModelGradient::check(const Leaf& leaf) const {
  check_contract(model_.has_value(), "[training] values: expected bound ones, found none");
  if (leaf.inputs.empty()) return bad_leaf("inputs", "at least one token", "none");
  if (leaf.laws.data != nullptr) {
    const Index vocab = spec_.embedding.vocab;
    const bool has_targets = leaf.targets.size() == leaf.inputs.size();
    if ((!leaf.targets.empty() && !has_targets) || leaf.laws.rows != std::ssize(leaf.inputs) ||
        leaf.laws.cols != vocab) {
      return bad_leaf("laws",
                      fmt::format("[{0},{1}] and no targets or {0}", leaf.inputs.size(), vocab),
                      fmt::format("[{},{}] and {} targets", leaf.laws.rows, leaf.laws.cols,
                                  leaf.targets.size()));
    }
    KRAIT_RETURN_IF_ERROR(validate(leaf.distillation));
  } else if (leaf.targets.size() != leaf.inputs.size()) {
    return bad_leaf("targets", fmt::format("{} tokens", leaf.inputs.size()),
                    fmt::to_string(leaf.targets.size()));
  }
  if (!leaf.weights.empty() && leaf.weights.size() != leaf.inputs.size()) {
    return bad_leaf("weights", fmt::format("{} of them", leaf.inputs.size()),
                    fmt::to_string(leaf.weights.size()));
  }
  for (const std::span<const Token> tokens : {leaf.inputs, leaf.targets}) {
    for (const Token token : tokens) {
      if (token < 0 || token >= spec_.embedding.vocab) {
        return bad_leaf("token", fmt::format("0 to {}", spec_.embedding.vocab - 1),
                        fmt::to_string(token));
      }
    }
  }
  const StateLayout& layout = *model_->parts().state_layout;
  if (!leaf.dstate.empty() && std::ssize(leaf.dstate) != layout.floats) {
    return bad_leaf("gradient of the state", fmt::format("{} floats", layout.floats),
                    fmt::to_string(leaf.dstate.size()));
  }
  if (!layout.cache.empty() && (leaf.state != nullptr || !leaf.dstate.empty())) {
    return Error{ErrorCode::unsupported,
                 "[training] state: expected a model without attention, found one with it"};
  }
  if (leaf.state != nullptr && std::ssize(leaf.state->block()) != layout.floats) {
    return bad_leaf("state", "one of this model", "another");
  }
  return {};
}

Index ModelGradient::stream_floats(Index tokens) const {
  return (std::ssize(parts_) + 1) * round_up(tokens * spec_.d_model(), Index{16});
}

// What the passes take of memory_, in their order.
Index ModelGradient::stack_floats(Index tokens, bool is_backward, bool has_teacher) const {
  BackwardSize size = size_;
  size.tokens = tokens;
  training::Room room(size);
  const Index d_model = spec_.d_model();
  const Index columns = spec_.embedding.rows();
  room.floats(stream_floats(tokens));
  room.matrix(tokens, d_model);
  if (is_backward) {
    room.matrix(tokens, d_model);
    room.floats(tokens);
  }
  {
    const training::Room::Frame frame(room);
    const Index count = std::min(head_block, tokens);
    room.matrix(count, columns);
    if (has_teacher) {
      room.matrix(count, columns);
      room.floats(tokens);
    }
    room.linear(columns, d_model, count);
    if (is_backward) room.linear_backward(columns, d_model, count, {});
  }
  if (!is_backward) return room.most();
  room.norm_backward(tokens, d_model);
  const Index widest = has_wide() ? 2 * d_model : d_model;
  for (int i = 0; i < 2; ++i) room.matrix(tokens, widest);
  for (int i = 0; i < (has_factors() ? 2 : 1); ++i) room.matrix(tokens, d_model);
  if (has_wide()) {
    room.matrix(tokens, widest);
    room.matrix(tokens, d_model);
  }
  const Index held = room.now();
  room.norm_backward(tokens, widest);
  Index most = room.most();
  for (const Part& part : parts_) most = std::max(most, held + part.block->memory(size));
  return most;
}

RowMemory ModelGradient::memory(Index tokens, bool has_teacher) const {
  const ModelPlan& plan = *plan_;
  constexpr Index bytes = sizeof(float);
  Index tasks = 0;
  for (const Bookings::TaskMemory& size : bookings_->task_memories()) {
    tasks = std::max(tasks, round_up(size(tokens, tokens), Index{16}));
  }
  const Index pages = (tokens + cache_page_tokens - 1) / cache_page_tokens;
  RowMemory result;
  result.kept = stream_floats(tokens) * bytes;
  result.recomputed = stack_floats(tokens, true, has_teacher) * bytes - result.kept;
  result.forward = (plan.scratch_bytes_per_token - spec_.d_model() * bytes) * tokens +
                   tasks * size_.threads * bytes + 2 * plan.state_bytes +
                   pages * cache_page_tokens * plan.cache_bytes_per_token;
  result.derived = plan.owned_bytes;
  if (lora_ != nullptr) result.mapped = plan.in_place_bytes;
  return result;
}

Result<void> ModelGradient::make_room(Index tokens, bool is_backward, bool has_teacher) {
  memory_->reserve(stack_floats(tokens, is_backward, has_teacher));
  if (tokens <= room_) return {};
  const Model::Parts& parts = model_->parts();
  scratch_ = Scratch(parts.scratch, tokens);
  workspace_ = AlignedBuffer<float>(parts.workspace_floats * tokens);
  task_floats_ = 0;
  for (const Bookings::TaskMemory& size : parts.task_memories) {
    task_floats_ = std::max(task_floats_, round_up(size(tokens, tokens), Index{16}));
  }
  tasks_ = AlignedBuffer<float>(task_floats_ * executor_->width());
  room_ = tokens;
  return {};
}

Result<ModelGradient::Stream> ModelGradient::forward(const Leaf& leaf, State& state,
                                                     bool is_backward) {
  const Index tokens = std::ssize(leaf.inputs);
  const Model::Parts& parts = model_->parts();
  KRAIT_RETURN_IF_ERROR(
      make_room(tokens, is_backward, leaf.laws.data != nullptr && !leaf.targets.empty()));
  KRAIT_RETURN_IF_ERROR(state.reserve(tokens));
  training::CapacityHook capacity(leaf.capacity);
  const bool is_limited = is_backward && leaf.capacity > 0.0;
  const SequenceRows rows{.first = 0,
                          .count = tokens,
                          .position = state.position(),
                          .state = state.block().data(),
                          .pages = state.cache().pages().data(),
                          .hook = is_limited ? &capacity : nullptr};
  Stream stream;
  MatrixView<float> h = memory_->matrix(tokens, spec_.d_model());
  MatrixView<float> aside;  // what the part before left for this one
  parts.embedding.lookup(leaf.inputs, h);
  {
    const BlockContext ctx{.x = h,
                           .sequences = {&rows, 1},
                           .executor = *executor_,
                           .memory = scratch_,
                           .workspace = {}};
    keep_embedding(parts, ctx);
  }
  for (std::size_t i = 0; i < parts.residuals.size(); ++i) {
    const Part& part = parts_[i];
    const bool is_new = part.input == static_cast<Index>(i);
    stream.inputs.push_back(!is_new            ? stream.inputs[static_cast<std::size_t>(part.input)]
                            : part.reads_aside ? aside
                                               : h);
    const MatrixView<float> next = memory_->matrix(tokens, spec_.d_model());
    if (!part.aside) {
      training::copy_rows(work(), h, next);
      h = next;
    }
    capacity.top_k = part.top_k;
    // In a layer of parallel blocks, the layer's input stays in the scratch memory.
    BlockContext ctx{.x = h,
                     .sequences = {&rows, 1},
                     .executor = *executor_,
                     .memory = scratch_,
                     .workspace = workspace_.span(),
                     .has_hooks = is_limited,
                     .tasks = tasks_.span(),
                     .task_floats = task_floats_};
    parts.residuals[i].forward(ctx);
    if (!part.aside) continue;
    aside = next;
    training::copy_rows(work(), parts.residuals[i].left_aside(ctx, h.cols), aside);
  }
  stream.end = h;
  state.set_position(rows.position + tokens);
  state.cache().set_rows(state.position());
  return stream;
}

ModelGradient::Sums ModelGradient::head(const Leaf& leaf, MatrixView<const float> normed,
                                        MatrixView<float> dnormed, const ParameterScope& weights,
                                        std::span<float> log_p) {
  const Workspace::Frame frame(*memory_);
  const Index d_model = spec_.d_model();
  const Index columns = spec_.embedding.rows();
  const auto vocab = static_cast<std::size_t>(spec_.embedding.vocab);
  const ParameterScope named = weights.scope(spec_.head_name);
  training::LinearWeights matrix;
  if (frozen_ != nullptr) {
    matrix.frozen = &model_->parts().head;
    matrix.workspace = model_->parts().workspace_floats;
  } else {
    matrix = training::linear_weights(weights.scope(head_path_));
  }
  matrix.bias = spec_.head_bias ? named.value("bias") : nullptr;
  matrix.db = spec_.head_bias ? named.gradient("bias") : nullptr;
  const auto logits = memory_->matrix(std::min(head_block, normed.rows), columns);
  const bool is_mixed = leaf.laws.data != nullptr && !leaf.targets.empty();
  const auto cooled = is_mixed ? memory_->matrix(logits.rows, columns) : MatrixView<float>();
  const std::span<float> kl = memory_->floats(is_mixed ? normed.rows : 0);
  Sums sums;
  for (Index first = 0; first < normed.rows; first += head_block) {
    const Index count = std::min(head_block, normed.rows - first);
    const auto rows = logits.rows_from(0, count);
    const auto x = normed.rows_from(first, count);
    training::linear(work(), matrix, columns, d_model, x, rows);
    // From the logits of a token to their gradient, where one is wanted.
    const auto derive = [&](std::size_t at, std::span<float> row, std::span<float> cool) {
      const float weight = leaf.weights.empty() ? 1.0F : leaf.weights[at];
      if (is_mixed) {
        log_p[at] = distill(leaf, at, row, cool, kl[at]);
        return;
      }
      const float log_sum = kernels::log_sum_exp(row);
      if (leaf.laws.data != nullptr) {
        const std::span<const float> law = leaf.laws.row(static_cast<Index>(at));
        log_p[at] = -divergence(law, row, log_sum);
        kernels::softmax(row, row);
        for (std::size_t v = 0; v < vocab; ++v) row[v] = weight * (row[v] - law[v]);
        return;
      }
      const auto target = static_cast<std::size_t>(leaf.targets[at]);
      log_p[at] = row[target] - log_sum;
      if (dnormed.data == nullptr) return;
      kernels::softmax(row, row);
      for (float& p : row) p *= weight;
      row[target] -= weight;
    };
    parallel_for(*executor_, count, 1, ItemCost::of(0, 60 * columns), [&](Range range) {
      for (Index t = range.begin; t < range.end; ++t) {
        const std::span<float> row = rows.row(t).first(vocab);
        if (spec_.logit_scale != 1.0F) kernels::scale(spec_.logit_scale, row, row);
        derive(static_cast<std::size_t>(first + t), row,
               is_mixed ? cooled.row(t).first(vocab) : std::span<float>());
        if (spec_.logit_scale != 1.0F) kernels::scale(spec_.logit_scale, row, row);
        std::ranges::fill(rows.row(t).subspan(vocab), 0.0F);
      }
    });
    for (Index t = first; t < first + count; ++t) {
      const auto at = static_cast<std::size_t>(t);
      const double weight = leaf.weights.empty() ? 1.0 : static_cast<double>(leaf.weights[at]);
      if (weight == 0.0) continue;
      sums.loss -= weight * static_cast<double>(log_p[at]);
      if (is_mixed) sums.divergence += weight * static_cast<double>(kl[at]);
    }
    if (dnormed.data == nullptr) continue;
    training::linear_backward(work(), {.weights = matrix,
                                       .out = columns,
                                       .in = d_model,
                                       .x = x,
                                       .dy = rows,
                                       .dx = dnormed.rows_from(first, count)});
  }
  return sums;
}

bool ModelGradient::has_factors() const noexcept {
  return std::ranges::any_of(parts_,
                             [](const Part& part) { return part.aside || part.scale != 1.0F; });
}

bool ModelGradient::has_wide() const noexcept {
  return std::ranges::any_of(parts_, &Part::is_wide);
}

void ModelGradient::parts_backward(const Leaf& leaf, const State& before, const Stream& stream,
                                   const ParameterScope& weights, MatrixView<float> dh) {
  const Model::Parts& model = model_->parts();
  const Workspace::Frame frame(*memory_);
  const Index T = dh.rows;
  const Index d_model = dh.cols;
  const Index widest = has_wide() ? 2 * d_model : d_model;
  const auto all_x = memory_->matrix(T, widest);
  const auto all_dx = memory_->matrix(T, widest);
  const auto sum = memory_->matrix(T, d_model);  // of parts that read the same
  const auto scaled = has_factors() ? memory_->matrix(T, d_model) : MatrixView<float>();
  // A part's input with the embedding, and the gradient of that.
  const auto wide = has_wide() ? memory_->matrix(T, widest) : MatrixView<float>();
  const auto de = has_wide() ? memory_->matrix(T, d_model) : MatrixView<float>();
  for (Index t = 0; t < de.rows; ++t) std::ranges::fill(de.row(t), 0.0F);
  bool is_begun = false;
  for (std::size_t i = parts_.size(); i-- > 0;) {
    const Part& part = parts_[i];
    const Index width = part.is_wide ? widest : d_model;
    const MatrixView<float> x(all_x.data, T, width);
    const MatrixView<float> dx(all_dx.data, T, width);
    MatrixView<float> input = stream.inputs[i];
    if (part.is_wide) {
      training::copy_rows(work(), input, wide.cols_from(0, d_model));
      training::copy_rows(work(), stream.inputs.front(), wide.cols_from(d_model, d_model));
      input = wide;
    }
    MatrixView<const float> dy = dh;
    if (part.aside || part.scale != 1.0F) {
      training::copy_rows(work(), part.aside ? sum : dh, scaled);
      for (Index t = 0; t < T; ++t) kernels::scale(part.scale, scaled.row(t), scaled.row(t));
      dy = scaled;
    }
    if (part.aside) {
      training::add_to(work(), sum, dh);
      is_begun = false;
    }
    parallel_for(*executor_, T, 16, ItemCost::of(0, 8 * width), [&](Range rows) {
      model.residuals[i].norm().apply(input.rows_from(rows.begin, rows.size()),
                                      x.rows_from(rows.begin, rows.size()));
    });
    ParameterScope layer = weights.scope(part.layer);
    if (!part.owner.empty()) layer = layer.shared(part.owner);
    part.block->backward(
        work(), layer.scope(part.block_name),
        {.x = x,
         .dy = dy,
         .dx = dx,
         .state = leaf.state == nullptr ? nullptr : before.block().data() + part.state,
         .dstate = leaf.dstate.empty() ? nullptr : leaf.dstate.data() + part.state,
         .balance = leaf.balance,
         .z_loss = leaf.z_loss,
         .capacity = leaf.capacity});
    training::norm_backward(work(), part.norm, layer.scope(part.norm_name), input, dx, dx);
    const MatrixView<float> of_stream = dx.cols_from(0, d_model);
    if (part.is_wide) training::add_to(work(), dx.cols_from(d_model, d_model), de);
    if (!part.parallel && !part.reads_aside) {
      training::add_to(work(), of_stream, dh);
      continue;
    }
    is_begun ? training::add_to(work(), of_stream, sum)
             : training::copy_rows(work(), of_stream, sum);
    is_begun = !part.ends || part.reads_aside;  // what was read aside goes on to its part
    if (!is_begun) training::add_to(work(), sum, dh);
  }
  if (has_wide()) training::add_to(work(), de, dh);
}

bool ModelGradient::has_experts() const noexcept {
  return std::ranges::any_of(parts_, [](const Part& part) { return part.top_k > 0; });
}

// The rows of the embedding in the order of the tokens: E[v] + (s · B[v]) A.
void ModelGradient::embedding_backward(const Leaf& leaf, MatrixView<const float> dh,
                                       float* gradients) const {
  const Index d_model = spec_.d_model();
  const ParameterScope scope = weights(gradients);
  const auto adapter = adapter_of(model_->parts().embedding.tied_head());
  float* whole =
      frozen_ != nullptr ? nullptr : scope.scope(spec_.embedding_name).gradient("weight");
  for (Index t = 0; t < dh.rows && gradients != nullptr; ++t) {
    const Index token = leaf.inputs[static_cast<std::size_t>(t)];
    if (whole != nullptr) {
      float* row = whole + token * d_model;
      for (Index i = 0; i < d_model; ++i) row[i] += dh(t, i);
    }
    if (!adapter) continue;
    const float* B = adapter->B + token * adapter->rank;
    for (Index k = 0; k < adapter->rank; ++k) {
      const float* A = adapter->A + k * d_model;
      float* dA = scope.gradient_of(A);
      const float factor = adapter->scale * B[k];
      for (Index i = 0; i < d_model; ++i) dA[i] += factor * dh(t, i);
      scope.gradient_of(B)[k] += adapter->scale * training::dot(dh.row_data(t), A, d_model);
    }
  }
}

Result<double> ModelGradient::backward(const Leaf& leaf, float* gradients) {
  KRAIT_RETURN_IF_ERROR(check(leaf));
  const FloatEnvironment environment;
  const Workspace::Frame frame(*memory_);
  State own = leaf.state == nullptr ? model_->initial_state() : *leaf.state;
  const State before = own;
  KRAIT_ASSIGN_OR_RETURN(const auto stream, forward(leaf, own, true));
  const Index tokens = std::ssize(leaf.inputs);
  const ParameterScope weights = this->weights(gradients);
  const auto normed = memory_->matrix(tokens, spec_.d_model());
  const auto dh = memory_->matrix(tokens, spec_.d_model());
  model_->parts().final_norm.apply(stream.end, normed);
  const Sums sums = head(leaf, normed, dh, weights, memory_->floats(tokens));
  training::norm_backward(work(), spec_.final_norm, weights.scope(spec_.final_norm_name),
                          stream.end, dh, dh);
  parts_backward(leaf, before, stream, weights, dh);
  for (Index t = 0; spec_.embedding.scale != 1.0F && t < tokens; ++t) {
    kernels::scale(spec_.embedding.scale, dh.row(t), dh.row(t));
  }
  embedding_backward(leaf, dh, gradients);
  if (leaf.state != nullptr) *leaf.state = std::move(own);
  if (leaf.divergence != nullptr) *leaf.divergence = sums.divergence;
  return sums.loss;
}

Result<void> ModelGradient::log_probabilities(const Leaf& leaf, std::span<float> result) {
  KRAIT_RETURN_IF_ERROR(check(leaf));
  if (result.size() != leaf.inputs.size()) {
    return bad_leaf("result", fmt::format("{} floats", leaf.inputs.size()),
                    fmt::to_string(result.size()));
  }
  const FloatEnvironment environment;
  const Workspace::Frame frame(*memory_);
  State own = leaf.state == nullptr ? model_->initial_state() : *leaf.state;
  KRAIT_ASSIGN_OR_RETURN(const auto stream, forward(leaf, own, false));
  const auto normed = memory_->matrix(std::ssize(leaf.inputs), spec_.d_model());
  model_->parts().final_norm.apply(stream.end, normed);
  head(leaf, normed, {}, weights(nullptr), result);
  if (leaf.state != nullptr) *leaf.state = std::move(own);
  return {};
}

}  // namespace v0_1
}  // namespace krait
