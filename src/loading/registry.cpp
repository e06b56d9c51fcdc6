#include "krait/loading/registry.hpp"

#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "io/json_private.hpp"
#include "krait/io/printable.hpp"
#include "krait/loading/bundled_model.hpp"
#include "loading/families/families.hpp"

namespace krait {
inline namespace v0_1 {

namespace {

#define KRAIT_ADDRESS(family) &family,
constexpr std::array families = {KRAIT_FAMILIES(KRAIT_ADDRESS)};  // in the order they are asked
#undef KRAIT_ADDRESS

// Under which names checkpoints hold what is around the blocks.
struct Names {
  std::string_view prefix;
  std::string_view embedding;
  std::string_view layers;
  std::string_view final_norm;
  std::string_view head;
};
constexpr std::array known_names = {
    Names{"backbone", "embeddings", "layers", "norm_f", "lm_head"},  // transformers
    Names{"backbone", "embedding", "layers", "norm_f", "lm_head"},   // state-spaces
    Names{"mambabyte", "token_embedding", "layers", "final_norm", "lm_head"},
    Names{"model.backbone", "embedding", "layers", "norm_f", "model.lm_head"},  // Mistral
    Names{"", "embedding.word_embeddings", "decoder.layers", "decoder.final_layernorm",
          "output_layer"},                                   // Megatron
    Names{"", "embeddings", "layers", "norm_f", "lm_head"},  // a model saved without its head
    Names{"", "embedding", "layers", "norm_f", "lm_head"},
};

std::string in(std::string_view prefix, std::string_view name) {
  return fmt::format("{}{}{}", prefix, prefix.empty() ? "" : ".", name);
}

// Whether the checkpoint has that matrix, as floats or as codes.
bool has_matrix(const WeightStore& weights, const std::string& name) {
  return weights.contains(name + ".weight") || weights.contains(name + ".codes");
}

void use_names(const Names& names, std::string_view wrapper, ModelConfig& config) {
  config.wrapper = wrapper;
  config.prefix = names.prefix.empty() ? std::string(wrapper) : in(wrapper, names.prefix);
  config.spec.embedding_name = names.embedding;
  config.spec.layers_name = names.layers;
  config.spec.final_norm_name = names.final_norm;
  config.spec.head_name = in(wrapper, names.head);
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

// The spelling whose embedding the checkpoint has, or whose head, where that stands for both; the
// family's own if it has none of them, so that the error names what was expected.
void resolve_names(const WeightStore& weights, ModelConfig& config) {
  config.prefix = "backbone";
  for (const std::string& wrapper : common_wrappers(weights)) {
    for (const bool by_head : {false, true}) {
      for (const Names& names : known_names) {
        const std::string root = names.prefix.empty() ? wrapper : in(wrapper, names.prefix);
        const bool is_it = by_head ? has_matrix(weights, in(wrapper, names.head)) &&
                                         weights.contains(in(root, names.final_norm) + ".weight")
                                   : has_matrix(weights, in(root, names.embedding));
        if (is_it) return use_names(names, wrapper, config);
      }
    }
  }
}

std::string joined(const std::vector<std::string_view>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::vector<std::string_view> known_families() {
  std::vector<std::string_view> names;
  for (const Family* family : families) names.push_back(family->name);
  return names;
}

namespace {

Result<ModelConfig> read_any_config(const Checkpoint& checkpoint) {
  const std::string name = checkpoint.path + "/" + checkpoint.config_file;
  KRAIT_ASSIGN_OR_RETURN(const JsonDocument document, parse_json(checkpoint.config, name));
  const nlohmann::json& json = *document;
  if (!json.is_object()) {
    return Error{ErrorCode::bad_config, fmt::format("[config] expected an object, found {} ({})",
                                                    ConfigReader::dump(json), name)};
  }
  ConfigReader reader(json, name);
  for (const Family* family : families) {
    if (!family->recognises(reader)) continue;
    ModelConfig config;
    KRAIT_RETURN_IF_ERROR(family->read(reader, config));
    for (std::string& key : reader.unknown()) config.ignored.push_back(std::move(key));
    resolve_names(checkpoint.weights, config);
    if (family->adapt != nullptr) family->adapt(checkpoint.weights, config);
    config.is_byte_level = checkpoint.tokenizer.empty() && config.spec.embedding.vocab == 256;
    if (config.is_byte_level) config.stop_tokens.clear();  // every id is a byte of text
    if (const auto valid = validate(config.spec); !valid) {
      return Error{valid.error().code, fmt::format("{} ({})", valid.error().message, name)};
    }
    return config;
  }
  return reader.fail("model_type", "one of " + joined(known_families()),
                     reader.value_text("model_type"), ErrorCode::unsupported);
}

}  // namespace

Result<ModelConfig> read_config(const Checkpoint& checkpoint) {
  return printable(read_any_config(checkpoint));
}

Result<Checkpoint> open_model(const std::string& path, const LoadOptions& options) {
  const CheckpointOptions checkpoint_options{.weights = options.weights,
                                             .progress = options.progress};
  std::error_code ignored;
  const bool is_plain_name = path.find('/') == std::string::npos;
  if (is_plain_name && !std::filesystem::exists(path, ignored)) {
    KRAIT_ASSIGN_OR_RETURN(const std::string bundled, bundled_model_path(path));
    return open_checkpoint(bundled, checkpoint_options);
  }
  return open_checkpoint(path, checkpoint_options);
}

Result<CheckpointPlan> plan_checkpoint(const std::string& path, const LoadOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(Checkpoint checkpoint, open_model(path, options));
  KRAIT_ASSIGN_OR_RETURN(ModelConfig config, read_config(checkpoint));
  KRAIT_ASSIGN_OR_RETURN(ModelPlan plan, plan_model(config.spec, &checkpoint.weights, config.prefix,
                                                    options.for_weights()));
  return CheckpointPlan{std::move(plan), std::move(config), std::move(checkpoint)};
}

Result<Model> load_model(const std::string& path, const LoadOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const Checkpoint checkpoint, open_model(path, options));
  KRAIT_ASSIGN_OR_RETURN(const ModelConfig config, read_config(checkpoint));
  return build_model(config.spec, checkpoint.weights, config.prefix, options.for_weights());
}

}  // namespace v0_1
}  // namespace krait
