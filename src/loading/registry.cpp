#include "krait/loading/registry.hpp"

#include <fmt/format.h>

#include <array>
#include <filesystem>

#include "io/json.hpp"
#include "krait/io/printable.hpp"
#include "krait/loading/adapter.hpp"
#include "krait/loading/bundled_model.hpp"
#include "krait/weights/aqlm.hpp"
#include "loading/families/families.hpp"

namespace krait {
inline namespace v0_1 {

namespace {

#define KRAIT_ADDRESS(family) &family,
constexpr std::array families = {KRAIT_FAMILIES(KRAIT_ADDRESS)};  // in the order they are asked
#undef KRAIT_ADDRESS

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

// What transformers notes of a checkpoint's quantisation; very early ones call it "aqlm".
Result<void> check_quantization(const ConfigReader& config, const WeightStore& weights) {
  for (const char* key : {"quantization_config", "aqlm"}) {
    if (!config.has(key)) continue;
    KRAIT_ASSIGN_OR_RETURN(const ConfigReader reader, config.object(key));
    KRAIT_ASSIGN_OR_RETURN(const std::string method, reader.text("quant_method", "aqlm"));
    if (method != "aqlm") {
      return reader.fail("quant_method", "aqlm", method, ErrorCode::unsupported);
    }
    AqlmConfig aqlm;
    KRAIT_ASSIGN_OR_RETURN(aqlm.num_codebooks, reader.number("num_codebooks", 1, 1));
    KRAIT_ASSIGN_OR_RETURN(aqlm.nbits_per_codebook, reader.number("nbits_per_codebook", 1, 16));
    KRAIT_ASSIGN_OR_RETURN(aqlm.in_group_size, reader.number("in_group_size", 1, 8));
    KRAIT_ASSIGN_OR_RETURN(aqlm.out_group_size, reader.number("out_group_size", 1, 1));
    return check_aqlm_config(weights, aqlm);
  }
  return {};
}

// Without its last layers a model is another one, which answers nonsense without a word. Layers
// that predict further tokens (DeepSeek-V3's "multi-token prediction") follow those of the model.
Result<void> check_layers(const ConfigReader& reader, const TensorNames& tensors, Index n_layer,
                          const std::string& file) {
  KRAIT_ASSIGN_OR_RETURN(const Index n_predict,
                         reader.number("num_nextn_predict_layers", 0, Index{0}));
  const auto beyond = tensors.find_beyond(n_layer + n_predict);
  if (!beyond) return {};
  return Error{ErrorCode::bad_config,
               fmt::format("[config] {}: expected layers below {}, the number in the "
                           "configuration, found layer {} ({})",
                           beyond->name, n_layer + n_predict, beyond->layer, file)};
}

Result<ModelConfig> read_any_config(const Checkpoint& checkpoint) {
  const std::string name = checkpoint.path + "/" + checkpoint.config_file;
  KRAIT_ASSIGN_OR_RETURN(const Metadata json, parse_json(checkpoint.config, name));
  if (json.object() == nullptr) {
    return Error{ErrorCode::bad_config,
                 fmt::format("[config] expected an object, found {} ({})", json_text(json), name)};
  }
  const ConfigReader reader(json, name);
  const TensorNames tensors(checkpoint.weights);
  for (const Family* family : families) {
    if (!family->recognises(reader)) continue;
    ModelConfig config;
    KRAIT_RETURN_IF_ERROR(check_quantization(reader, checkpoint.weights));
    KRAIT_RETURN_IF_ERROR(family->read(reader, tensors, config));
    KRAIT_RETURN_IF_ERROR(check_layers(reader, tensors, std::ssize(config.spec.layers), name));
    for (std::string& key : reader.unknown()) config.ignored.push_back(std::move(key));
    tensors.apply(config);
    config.is_byte_level = checkpoint.tokenizer.empty() && checkpoint.sentencepiece.empty() &&
                           checkpoint.token_table == nullptr && config.spec.embedding.vocab == 256;
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
  KRAIT_RETURN_IF_ERROR(add_adapter(options.adapter, config, checkpoint.weights));
  KRAIT_ASSIGN_OR_RETURN(ModelPlan plan, plan_model(config.spec, &checkpoint.weights, config.prefix,
                                                    options.for_weights()));
  return CheckpointPlan{std::move(plan), std::move(config), std::move(checkpoint)};
}

Result<Model> load_model(const std::string& path, const LoadOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(Checkpoint checkpoint, open_model(path, options));
  KRAIT_ASSIGN_OR_RETURN(const ModelConfig config, read_config(checkpoint));
  KRAIT_RETURN_IF_ERROR(add_adapter(options.adapter, config, checkpoint.weights));
  return build_model(config.spec, checkpoint.weights, config.prefix, options.for_weights());
}

}  // namespace v0_1
}  // namespace krait
