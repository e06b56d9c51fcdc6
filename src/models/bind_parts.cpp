#include "models/bind_parts.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "core/block_format.hpp"
#include "krait/weights/adapter.hpp"
#include "models/check_weights.hpp"
#include "weights/adapted.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool same_elements(const TensorView& a, const TensorView& b) noexcept {
  return a.dtype == b.dtype && a.shape == b.shape &&
         (a.data == b.data ||
          std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes())) == 0);
}

// The head's own matrix if the checkpoint has one that differs from the embedding, even if the
// configuration ties them. Files of tied models usually leave it out, but some repeat it.
Result<Linear> bind_head(const ModelSpec& spec, WeightBinder& binder, Bookings& bookings,
                         const Embedding& embedding, bool embedding_is_head) {
  const Linear tied = without_adapter(embedding.tied_head());
  if (embedding_is_head) return tied;
  const WeightScope weights = WeightScope(binder, "").scope(spec.head_name);
  const Index rows = spec.embedding.rows();
  if (!spec.tied_head || weights.has_parts()) {
    return Linear::bind(weights, bookings, rows, spec.d_model(), false);
  }
  if (!weights.contains("weight")) return bind_adapter(weights, bookings, tied);
  const TensorView& stored = binder.store()->find(weights.name("weight"))->tensor;
  const WeightStore::Entry* shared = binder.store()->find(binder.uses().front().name);
  if (shared == nullptr || !same_elements(stored, shared->tensor)) {
    return Linear::bind(weights, bookings, rows, spec.d_model(), false);
  }
  binder.ignore(weights.name("weight"));
  return bind_adapter(weights, bookings, tied);
}

Result<Linear> bind_head_with_bias(const ModelSpec& spec, WeightBinder& binder, Bookings& bookings,
                                   const Embedding& embedding, bool embedding_is_head) {
  KRAIT_ASSIGN_OR_RETURN(Linear head,
                         bind_head(spec, binder, bookings, embedding, embedding_is_head));
  if (!spec.head_bias) return head;
  const WeightScope weights = WeightScope(binder, "").scope(spec.head_name);
  KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {spec.embedding.rows()}));
  return head.with_bias(bias.data());
}

// The norm of a layer's residual r, which a parallel block may share with the one before it.
Result<Norm> bind_norm(std::span<const ResidualSpec> residuals, std::size_t r,
                       const WeightScope& layer, Index width, const Model::Parts& parts,
                       ModelTree& tree) {
  const ResidualSpec& residual = residuals[r];
  if (residual.beside && residuals[r - 1].norm_name == residual.norm_name &&
      residuals[r - 1].norm == residual.norm) {
    return parts.residuals.back().norm();
  }
  KRAIT_ASSIGN_OR_RETURN(Norm norm,
                         Norm::bind(residual.norm, layer.scope(residual.norm_name), width));
  tree.name(layer.path(residual.norm_name), norm.description());
  return norm;
}

}  // namespace

bool is_embedding_in_head(const ModelSpec& spec, const WeightStore* weights,
                          const std::string& prefix) {
  if (weights == nullptr || !spec.tied_head) return false;
  const auto has = [&](const std::string& name) {
    return weights->contains(name + ".weight") || has_parts(*weights, name);
  };
  const std::string dot = prefix.empty() ? "" : ".";
  return has(spec.head_name) && !has(prefix + dot + spec.embedding_name);
}

Result<Model::Parts> bind_parts(const ModelSpec& spec, WeightBinder& binder,
                                const std::string& prefix, bool embedding_is_head,
                                Bookings& bookings, ModelTree& tree) {
  Model::Parts parts;
  parts.spec = spec;
  const WeightScope root(binder, prefix);
  const WeightScope shared = embedding_is_head ? WeightScope(binder, "").scope(spec.head_name)
                                               : root.scope(spec.embedding_name);
  KRAIT_ASSIGN_OR_RETURN(parts.embedding, Embedding::bind(spec.embedding, shared, bookings));
  tree.name(spec.embedding_name, "Embedding");

  const ScratchSlot branch = bookings.scratch(spec.d_model());
  const auto has = [&](auto&& what) {
    return std::ranges::any_of(spec.layers, [&](const LayerSpec& layer) {
      return std::ranges::any_of(layer.residuals, what);
    });
  };
  const auto is_wide = [](const ResidualSpec& residual) {
    return std::visit([](const auto& kind) { return reads_embedding(kind); }, residual.block);
  };
  const bool is_saved = has(&ResidualSpec::beside) || has(&ResidualSpec::aside);
  const ScratchSlot saved = is_saved ? bookings.scratch(spec.d_model()) : ScratchSlot{};
  if (has(is_wide)) parts.embedding_rows = bookings.scratch(spec.d_model());
  const Index mark = bookings.scratch_layout().mark();
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const WeightScope own = root.scope(spec.layers_name, static_cast<Index>(i));
    const std::vector<ResidualSpec>& residuals = spec.layers[i].residuals;
    for (std::size_t r = 0; r < residuals.size(); ++r) {
      const ResidualSpec& residual = residuals[r];
      bookings.scratch_layout().release_to(mark);  // blocks run one after another
      const WeightScope layer = residual.weights_of < 0
                                    ? own
                                    : own.shared(root.scope(spec.layers_name, residual.weights_of));
      const WeightScope block_scope = layer.scope(residual.block_name);
      const Index width = is_wide(residual) ? 2 * spec.d_model() : spec.d_model();
      bookings.set_d_input(width);
      Residual::Slots slots{branch, saved, {}, {}};
      if (width != spec.d_model()) {
        slots.branch = bookings.scratch(width);
        slots.embedding = parts.embedding_rows;
      }
      KRAIT_ASSIGN_OR_RETURN(Norm norm, bind_norm(residuals, r, layer, width, parts, tree));
      const Index stateless = bookings.state_floats() + bookings.cache_floats();
      KRAIT_ASSIGN_OR_RETURN(
          auto block, std::visit([&](const auto& kind) { return kind.bind(block_scope, bookings); },
                                 residual.block));
      const bool has_state = bookings.state_floats() + bookings.cache_floats() > stateless;
      if (has_state) slots.trail = bookings.trail(width);
      const bool is_first = r + 1 < residuals.size() && residuals[r + 1].beside;
      const bool reads_saved = residual.beside || (r > 0 && residuals[r - 1].aside);
      const auto source = reads_saved ? Residual::Source::saved
                          : is_first  ? Residual::Source::first_of_parallel
                                      : Residual::Source::stream;
      tree.name(layer.path(residual.block_name), block->description());
      parts.residuals.emplace_back(std::move(norm), std::move(block), residual.scale, source,
                                   residual.aside, slots, static_cast<Index>(i),
                                   layer.path(residual.block_name));
    }
  }

  KRAIT_ASSIGN_OR_RETURN(
      parts.final_norm,
      Norm::bind(spec.final_norm, root.scope(spec.final_norm_name), spec.d_model()));
  tree.name(spec.final_norm_name, parts.final_norm.description());
  KRAIT_ASSIGN_OR_RETURN(
      parts.head, bind_head_with_bias(spec, binder, bookings, parts.embedding, embedding_is_head));
  tree.name(spec.head_name, "Head");
  parts.scratch = bookings.scratch_layout();
  parts.trail = bookings.trail_layout();
  parts.workspace_floats = bookings.workspace_floats();
  parts.task_memories = bookings.task_memories();
  return parts;
}

namespace {

// Some forms leave alone what they cannot hold. A form that holds nothing was not meant.
Result<void> check_wanted_form(const WeightBinder& binder) {
  const std::string& form = binder.options().form;
  if (form == "file" || binder.store() == nullptr) return {};
  std::string others;
  for (const TensorUse& use : binder.uses()) {
    if (use.role != TensorRole::matrix) continue;
    if (use.form == form) return {};
    others = use.form;
  }
  return Error{ErrorCode::unsupported,
               fmt::format("[build] form: expected a matrix that {} can hold, found {} only{}",
                           form, others.empty() ? "none" : others,
                           find_block_format(others) ? ", which \"file\" uses as stored" : "")};
}

}  // namespace

Result<Model::Parts> bind_to(const ModelSpec& spec, WeightBinder& binder, const std::string& prefix,
                             bool look_first, Bookings& bookings, ModelTree& tree) {
  const WeightStore* weights = binder.store();
  if (const DType kv = binder.options().kv_dtype; !is_float(kv)) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[build] kv_dtype: expected f32, f16 or bf16, found {}", krait::to_string(kv))};
  }
  if (weights != nullptr) KRAIT_RETURN_IF_ERROR(check_format(*weights));
  if (weights != nullptr && look_first) KRAIT_RETURN_IF_ERROR(check_names(spec, *weights, prefix));
  const bool embedding_is_head = is_embedding_in_head(spec, weights, prefix);
  auto parts = bind_parts(spec, binder, prefix, embedding_is_head, bookings, tree);
  if (!parts && weights != nullptr && !look_first) {
    KRAIT_RETURN_IF_ERROR(check_names(spec, *weights, prefix));
  }
  if (parts) KRAIT_RETURN_IF_ERROR(check_wanted_form(binder));
  return parts;
}

}  // namespace v0_1
}  // namespace krait
