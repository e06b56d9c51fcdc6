#include "loading/layouts/layouts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <system_error>
#include <utility>
#include <vector>

#include "krait/io/printable.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::array layouts = {
    Layout{"backbone", "embeddings", "layers", "norm_f", "lm_head"},          // transformers
    Layout{"backbone", "embedding", "layers", "norm_f", "lm_head"},           // state-spaces
    Layout{"model", "embed_tokens", "layers", "norm", "lm_head"},             // llama, granite
    Layout{"model", "embed_tokens", "layers", "final_layernorm", "lm_head"},  // bamba, jamba, …
    Layout{"mambabyte", "token_embedding", "layers", "final_norm", "lm_head"},
    Layout{"model.backbone", "embedding", "layers", "norm_f", "model.lm_head"},  // Mistral
    Layout{"", "embedding.word_embeddings", "decoder.layers", "decoder.final_layernorm",
           "output_layer"},                                   // Megatron
    Layout{"", "embeddings", "layers", "norm_f", "lm_head"},  // a model saved without its head
    Layout{"", "embedding", "layers", "norm_f", "lm_head"},
};

// Either may be empty.
std::string joined(std::string_view prefix, std::string_view name) {
  return fmt::format("{}{}{}", prefix, prefix.empty() || name.empty() ? "" : ".", name);
}

// Whether the checkpoint has that matrix, as floats or in the parts of any form.
bool has_matrix(const WeightStore& weights, const std::string& name) {
  return weights.contains(name + ".weight") || has_parts(weights, name);
}

// What stands before every name of the checkpoint, in ever longer forms: "", "module",
// "module.model", …. Wrappers of modules (DistributedDataParallel, torch.compile, Lightning) leave
// such words.
std::vector<std::string> common_wrappers(const WeightStore& weights) {
  constexpr std::size_t most_words = 8;
  std::vector<std::string> wrappers = {""};
  if (weights.size() == 0) return wrappers;
  // In their order, what the first and the last have in common is common to all.
  const std::string& first = weights.entries().begin()->first;
  const std::string& last = weights.entries().rbegin()->first;
  for (std::size_t i = 0; i < first.size() && i < last.size() && first[i] == last[i]; ++i) {
    if (first[i] != '.' || i == 0 || wrappers.size() > most_words) continue;
    std::string wrapper = first.substr(0, i);
    if (printable(wrapper) == wrapper) wrappers.push_back(std::move(wrapper));  // it will be shown
  }
  return wrappers;
}

// 12 of "12.mixer.D"; none where no number and dot are in front.
std::optional<Index> number_in_front(std::string_view name) {
  Index number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool has_dot = end != name.data() + name.size() && *end == '.';
  if (!has_dot || end == name.data() || number < 0) return std::nullopt;
  return error == std::errc() ? number : std::numeric_limits<Index>::max();
}

}  // namespace

TensorNames::TensorNames(const WeightStore& weights) : weights_(weights) {
  for (const std::string& wrapper : common_wrappers(weights)) {
    // Layouts that share the embedding's name differ in the final norm's.
    for (const auto& [by_head, by_norm] :
         {std::pair(false, true), std::pair(false, false), std::pair(true, true)}) {
      for (const Layout& layout : layouts) {
        const std::string prefix = joined(wrapper, layout.prefix);
        const bool has_norm = weights.contains(joined(prefix, layout.final_norm) + ".weight");
        const bool has_table = by_head ? has_matrix(weights, joined(wrapper, layout.head))
                                       : has_matrix(weights, joined(prefix, layout.embedding));
        if (!has_table || (by_norm && !has_norm)) continue;
        layout_ = &layout;
        wrapper_ = wrapper;
        prefix_ = prefix;
        return;
      }
    }
  }
}

bool TensorNames::has_in_layer(Index layer, std::string_view name) const {
  return layout_ != nullptr &&
         weights_.contains(fmt::format("{}.{}.{}", joined(prefix_, layout_->layers), layer, name));
}

std::optional<TensorNames::LayerTensor> TensorNames::find_beyond(Index n_layer) const {
  if (layout_ == nullptr) return std::nullopt;
  const std::string begin = joined(prefix_, layout_->layers) + ".";
  std::optional<LayerTensor> first;
  // In the order of names, layer 10 stands before layer 2.
  const auto look = [&](const auto& tensors) {
    for (auto it = tensors.lower_bound(begin); it != tensors.end(); ++it) {
      const std::string_view name = it->first;
      if (!name.starts_with(begin)) break;
      const std::optional<Index> layer = number_in_front(name.substr(begin.size()));
      if (!layer || *layer < n_layer || (first && *layer >= first->layer)) continue;
      if (name.ends_with(".rotary_emb.inv_freq")) continue;
      first = LayerTensor{std::string(name), *layer};
    }
  };
  look(weights_.entries());
  look(weights_.unreadable());
  return first;
}

void TensorNames::apply(ModelConfig& config) const {
  config.prefix = prefix_;
  config.wrapper = wrapper_;
  if (layout_ == nullptr) {
    // Without tensors, as of weights to be made, the family's own names tell the rest.
    const ModelSpec& spec = config.spec;
    const auto found = std::ranges::find_if(layouts, [&](const Layout& layout) {
      return layout.embedding == spec.embedding_name && layout.final_norm == spec.final_norm_name;
    });
    if (found != layouts.end()) config.prefix = found->prefix;
    return;
  }
  config.spec.embedding_name = layout_->embedding;
  config.spec.layers_name = layout_->layers;
  config.spec.final_norm_name = layout_->final_norm;
  config.spec.head_name = joined(wrapper_, layout_->head);
}

}  // namespace v0_1
}  // namespace krait
