#include "krait/models/builder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "krait/core/cpu.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/io/printable.hpp"
#include "krait/weights/convert.hpp"
#include "models/plan_tree.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using Parts = Model::Parts;

bool same_elements(const TensorView& a, const TensorView& b) noexcept {
  return a.dtype == b.dtype && a.shape == b.shape &&
         (a.data == b.data ||
          std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes())) == 0);
}

// Whether a checkpoint holds the matrix that embedding and head share under the head's name only.
bool is_embedding_in_head(const ModelSpec& spec, const WeightStore* weights,
                          const std::string& prefix) {
  if (weights == nullptr || !spec.tied_head) return false;
  const auto has = [&](const std::string& name) {
    return weights->contains(name + ".weight") || has_parts(*weights, name);
  };
  const std::string dot = prefix.empty() ? "" : ".";
  return has(spec.head_name) && !has(prefix + dot + spec.embedding_name);
}

// The head's own matrix if the checkpoint has one that differs from the embedding, whatever the
// configuration says of tying: files that tie them usually leave it out, but some repeat it.
Result<Linear> bind_head(const ModelSpec& spec, WeightBinder& binder, Plan& plan,
                         const Embedding& embedding, bool embedding_is_head) {
  if (embedding_is_head) return embedding.tied_head();
  const WeightScope weights = WeightScope(binder, "").scope(spec.head_name);
  const Index rows = spec.embedding.rows();
  if (!spec.tied_head || weights.has_parts()) {
    return Linear::bind(weights, plan, rows, spec.d_model(), false);
  }
  if (!weights.contains("weight")) return embedding.tied_head();
  const TensorView& stored = binder.store()->find(weights.name("weight"))->tensor;
  const WeightStore::Entry* shared = binder.store()->find(binder.uses().front().name);
  if (shared == nullptr || !same_elements(stored, shared->tensor)) {
    return Linear::bind(weights, plan, rows, spec.d_model(), false);
  }
  binder.ignore(weights.name("weight"));
  return embedding.tied_head();
}

Result<Linear> bind_head_with_bias(const ModelSpec& spec, WeightBinder& binder, Plan& plan,
                                   const Embedding& embedding, bool embedding_is_head) {
  KRAIT_ASSIGN_OR_RETURN(Linear head, bind_head(spec, binder, plan, embedding, embedding_is_head));
  if (!spec.head_bias) return head;
  const WeightScope weights = WeightScope(binder, "").scope(spec.head_name);
  KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {spec.embedding.rows()}));
  return head.with_bias(bias.data());
}

// Binds every part. The embedding comes first: `bind_head` relies on it.
Result<Parts> bind_parts(const ModelSpec& spec, WeightBinder& binder, const std::string& prefix,
                         bool embedding_is_head, Plan& plan, PlanTree& tree) {
  Parts parts;
  parts.spec = spec;
  const WeightScope root(binder, prefix);
  const WeightScope shared = embedding_is_head ? WeightScope(binder, "").scope(spec.head_name)
                                               : root.scope(spec.embedding_name);
  KRAIT_ASSIGN_OR_RETURN(parts.embedding, Embedding::bind(spec.embedding, shared, plan));
  tree.name(spec.embedding_name, "Embedding");

  const ScratchSlot branch = plan.scratch(spec.d_model());
  const bool is_parallel = std::ranges::any_of(spec.layers, &LayerSpec::parallel);
  const ScratchSlot layer_input = is_parallel ? plan.scratch(spec.d_model()) : ScratchSlot{};
  const Index mark = plan.scratch_plan().mark();
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const WeightScope layer = root.scope(spec.layers_name, static_cast<Index>(i));
    for (const ResidualSpec& residual : spec.layers[i].residuals) {
      plan.scratch_plan().release_to(mark);  // blocks run one after another
      const WeightScope norm_scope = layer.scope(residual.norm_name);
      const WeightScope block_scope = layer.scope(residual.block_name);
      KRAIT_ASSIGN_OR_RETURN(Norm norm, Norm::bind(residual.norm, norm_scope, spec.d_model()));
      const Index stateless = plan.state_floats() + plan.cache_floats();
      KRAIT_ASSIGN_OR_RETURN(
          auto block, std::visit([&](const auto& kind) { return kind.bind(block_scope, plan); },
                                 residual.block));
      const bool has_state = plan.state_floats() + plan.cache_floats() > stateless;
      const ScratchSlot trail = has_state ? plan.trail(spec.d_model()) : ScratchSlot{};
      const auto source = !spec.layers[i].parallel ? Residual::Source::stream
                          : &residual == &spec.layers[i].residuals[0]
                              ? Residual::Source::first_of_layer
                              : Residual::Source::layer;
      tree.name(layer.path(residual.norm_name), norm.description());
      tree.name(layer.path(residual.block_name), block->description());
      parts.residuals.emplace_back(std::move(norm), std::move(block), source,
                                   Residual::Slots{branch, layer_input, trail},
                                   static_cast<Index>(i), layer.path(residual.block_name));
    }
  }

  KRAIT_ASSIGN_OR_RETURN(
      parts.final_norm,
      Norm::bind(spec.final_norm, root.scope(spec.final_norm_name), spec.d_model()));
  tree.name(spec.final_norm_name, parts.final_norm.description());
  KRAIT_ASSIGN_OR_RETURN(
      parts.head, bind_head_with_bias(spec, binder, plan, parts.embedding, embedding_is_head));
  tree.name(spec.head_name, "Head");
  parts.scratch = plan.scratch_plan();
  parts.trail = plan.trail_plan();
  parts.workspace_floats = plan.workspace_floats();
  parts.task_memories = plan.task_memories();
  return parts;
}

// Whether the store has that tensor, or parts that stand for it.
bool has_tensor(const WeightStore& weights, std::string_view name) {
  constexpr std::string_view dense = ".weight";
  // Of what cannot be read, binding says more than that it is missing.
  if (weights.contains(name) || weights.unreadable().contains(name)) return true;
  return name.ends_with(dense) && has_parts(weights, name.substr(0, name.size() - dense.size()));
}

// Codes of another version would be read as other weights.
Result<void> check_format(const WeightStore& weights) {
  const auto version = weights.metadata.find(weight_format_version_key);
  if (version == weights.metadata.end() || version->second == weight_format_version) return {};
  return Error{ErrorCode::unsupported,
               fmt::format("[build] {}: expected {}, found '{}'", weight_format_version_key,
                           weight_format_version, printable(version->second, 40))};
}

// All missing tensors at once, so that a wrong prefix or family is seen for what it is.
Result<void> check_names(const ModelSpec& spec, const WeightStore& weights,
                         const std::string& prefix) {
  WeightBinder binder(nullptr, {});
  Plan plan(spec.d_model());
  PlanTree tree;
  const bool embedding_is_head = is_embedding_in_head(spec, &weights, prefix);
  KRAIT_ASSIGN_OR_RETURN(const Parts ignored,
                         bind_parts(spec, binder, prefix, embedding_is_head, plan, tree));
  std::vector<std::string> missing;
  for (const TensorUse& use : binder.uses()) {
    if (!has_tensor(weights, use.name)) missing.push_back(use.name);
  }
  if (missing.empty()) return {};
  constexpr std::size_t shown = 10;
  std::string list;
  for (std::size_t i = 0; i < std::min(shown, missing.size()); ++i) {
    list += (i == 0 ? "" : ", ") + missing[i];
  }
  if (missing.size() > shown) list += fmt::format(", … ({} in all)", missing.size());
  std::string there;
  std::size_t count = 0;
  constexpr std::size_t shown_there = 5;
  for (const auto& [name, entry] : weights.entries()) {
    if (count++ == shown_there) break;
    there += (there.empty() ? "; it has " : ", ") + printable(name);
  }
  if (count > shown_there) there += ", …";
  return Error{ErrorCode::missing_tensor,
               fmt::format("[build] weights: expected {} tensors, found {}; missing: {}{}",
                           binder.uses().size(), weights.size(), list, there)};
}

// Binds every part to a checkpoint. Which tensors are missing is looked up only after a failure,
// unless making them in another form takes so long that it should be known before.
Result<Parts> bind_to(const ModelSpec& spec, WeightBinder& binder, const std::string& prefix,
                      bool look_first, Plan& plan, PlanTree& tree) {
  const WeightStore* weights = binder.store();
  if (weights != nullptr) KRAIT_RETURN_IF_ERROR(check_format(*weights));
  if (weights != nullptr && look_first) KRAIT_RETURN_IF_ERROR(check_names(spec, *weights, prefix));
  const bool embedding_is_head = is_embedding_in_head(spec, weights, prefix);
  auto parts = bind_parts(spec, binder, prefix, embedding_is_head, plan, tree);
  if (!parts && weights != nullptr && !look_first) {
    KRAIT_RETURN_IF_ERROR(check_names(spec, *weights, prefix));
  }
  return parts;
}

class Hash {  // FNV-1a over words of 8 bytes, folded so that every bit reaches every other
 public:
  void add(const void* data, std::size_t bytes) {
    const auto* p = static_cast<const std::byte*>(data);
    for (std::size_t i = 0; i < bytes; i += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, p + i, std::min(sizeof word, bytes - i));
      value_ = (value_ ^ word) * 0x100000001B3ULL;
      value_ ^= value_ >> 29U;
    }
    add_size(bytes);
  }
  std::string hex() const { return fmt::format("{:016x}", value_); }

 private:
  void add_size(std::uint64_t size) { value_ = (value_ ^ size) * 0x9E3779B97F4A7C15ULL; }

  std::uint64_t value_ = 0xCBF29CE484222325ULL;
};

// Which elements of a tensor of `size` the fingerprint looks at: calls body(first, count). Those at
// the ends, and some in each of 64 equal parts, at places that differ from part to part, so that no
// pattern of rows or columns slips through. A small tensor is seen as a whole.
template <class Body>
void for_samples(Index size, Body&& body) {
  constexpr Index at_ends = 512;
  constexpr Index parts = 64;
  constexpr Index in_part = 16;
  if (size <= 2 * at_ends + parts * in_part) return body(Index{0}, size);
  body(Index{0}, at_ends);
  const Index between = size - 2 * at_ends;
  std::uint64_t place = 0;
  for (Index i = 0; i < parts; ++i) {
    const Index begin = at_ends + between / parts * i;
    const Index room = between / parts - in_part;
    place = place * 0x5851F42D4C957F2DULL + 0x14057B7EF767814FULL;
    body(begin + static_cast<Index>((place >> 33U) % static_cast<std::uint64_t>(room + 1)),
         in_part);
  }
  body(size - at_ends, at_ends);
}

// Of the sizes and of samples of every tensor (floats as f32), as the model holds it: the same for
// a bf16 file and its f32 copy, which give the same bits, and another for weights that were rounded
// on the way.
std::string fingerprint(const ModelSpec& spec, const WeightBinder& binder) {
  ModelSpec unnamed = spec;
  unnamed.family.clear();
  unnamed.embedding.vocab = unnamed.embedding.rows();  // how many are padding changes no value
  unnamed.embedding_name = unnamed.layers_name = unnamed.final_norm_name = unnamed.head_name = "";
  Hash hash;
  const std::string sizes = to_string(unnamed);
  hash.add(sizes.data(), sizes.size());

  std::vector<float> values;
  for (const TensorUse& use : binder.uses()) {
    const std::string shape = to_string(use.shape);
    hash.add(shape.data(), shape.size());
    for (const TensorView& part : use.parts) {
      for_samples(part.size(), [&](Index first, Index count) {
        const auto* data = static_cast<const std::byte*>(part.data) + first * bytes_of(part.dtype);
        if (!is_float(part.dtype)) {
          return hash.add(data, static_cast<std::size_t>(count * bytes_of(part.dtype)));
        }
        values.resize(static_cast<std::size_t>(count));
        convert_floats({data, part.dtype, {count}}, DType::f32, values.data());
        hash.add(values.data(), values.size() * sizeof(float));
      });
    }
  }
  return hash.hex();
}

// Of that many elements or bytes of the tensor, those that one token needs.
Index active_part(Index whole, const TensorUse& use) {
  return static_cast<Index>(std::llround(static_cast<double>(whole) * use.active));
}

Result<ModelPlan> make_plan(const WeightBinder& binder, const Plan& plan, const ModelSpec& spec,
                            const PlanTree& tree) {
  ModelPlan result;
  result.tensors = binder.uses();
  result.state_tensors = plan.state_tensors();
  result.cache_tensors = plan.cache_tensors();
  result.cache_bytes_per_token = plan.cache_floats() * bytes_of(DType::f32);
  result.state_bytes = plan.state_floats() * bytes_of(DType::f32);
  result.scratch_bytes_per_token =
      (plan.scratch_plan().floats_per_token() + plan.workspace_floats() + spec.d_model()) *
      bytes_of(DType::f32);
  result.trail_bytes_per_token = plan.trail_plan().floats_per_token() * bytes_of(DType::f32);
  result.unused = binder.unused();
  constexpr Index most = Index{1} << 60;  // beyond it sums could overflow
  for (const TensorUse& use : result.tensors) {
    const Index bytes = result.in_place_bytes + result.owned_bytes;
    if (use.shape.size() > most - result.parameters || use.bytes > most - bytes) {
      return bad_spec("weights", fmt::format("at most {} bytes", most), "more");
    }
    result.parameters += use.shape.size();
    result.active_parameters += active_part(use.shape.size(), use);
    result.bytes_per_token += active_part(use.bytes, use);
    (use.placement == Placement::in_place ? result.in_place_bytes : result.owned_bytes) +=
        use.bytes;
  }
  // Of an embedding that is not the head as well, a token reads one row.
  const TensorUse& embedding = result.tensors.front();
  const bool is_head_own =
      std::any_of(result.tensors.begin() + 1, result.tensors.end(),
                  [&](const TensorUse& use) { return use.path == spec.head_name + ".weight"; });
  if (is_head_own) {
    result.bytes_per_token -= embedding.bytes - embedding.bytes / spec.embedding.rows();
  }
  result.tree = tree.text(result, spec);
  return result;
}

}  // namespace

Result<ModelPlan> plan_model(const ModelSpec& spec, const WeightStore* store,
                             const std::string& prefix, const WeightOptions& options) {
  KRAIT_RETURN_IF_ERROR(validate(spec));
  WeightBinder binder(store, {.weights = options, .materialize = false});
  Plan plan(spec.d_model());
  PlanTree tree;
  const auto bound = printable(bind_to(spec, binder, prefix, false, plan, tree));
  if (!bound) return bound.error();
  return make_plan(binder, plan, spec, tree);
}

Result<Model> build_model(const ModelSpec& spec, const WeightStore& weights,
                          const std::string& prefix, const WeightOptions& options) {
  static_assert(std::is_nothrow_move_constructible_v<Residual>);
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(check_isa_environment());
  KRAIT_RETURN_IF_ERROR(validate(spec));
  WeightBinder binder(&weights, {.weights = options, .materialize = true});
  Plan plan(spec.d_model());
  PlanTree tree;
  const bool converts = options.form != "file";
  KRAIT_ASSIGN_OR_RETURN(Parts parts,
                         printable(bind_to(spec, binder, prefix, converts, plan, tree)));

  KRAIT_ASSIGN_OR_RETURN(parts.plan, make_plan(binder, plan, spec, tree));
  auto layout = std::make_shared<StateLayout>();
  layout->tensors = plan.state_tensors();
  layout->floats = plan.state_floats();
  layout->cache = plan.cache_tensors();
  layout->cache_floats = plan.cache_floats();
  layout->fingerprint = fingerprint(spec, binder);
  parts.state_layout = std::move(layout);
  parts.owners = binder.take_blocks();
  parts.owners.insert(parts.owners.end(), weights.owners().begin(), weights.owners().end());
  return Model(std::make_shared<const Parts>(std::move(parts)));
}

}  // namespace v0_1
}  // namespace krait
