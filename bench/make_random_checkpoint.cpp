// Writes a checkpoint of the shape of a published model with random weights: speed does not depend
// on their values, and nothing need be downloaded.

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/model_plan.hpp"
#include "krait/models/random_weights.hpp"

namespace {

using krait::DType;
using krait::Index;

struct Options {
  std::string directory;
  std::string shape = "mamba-130m";
  std::string config;  // file with the configuration; instead of a shape and its sizes
  DType dtype = DType::f32;
  Index d_model = 0;
  Index n_layer = 24;
  Index vocab = 0;
  Index n_expert = 8;
  Index top_k = 1;
  Index d_expert = 0;
  bool sparse = false;
};

bool parse_count(const char* text, Index& value) {
  char* end = nullptr;
  value = std::strtoll(text, &end, 10);
  return end != text && *end == '\0' && value > 0 && value <= 1'000'000;
}

bool parse_dtype(std::string_view text, DType& value) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    if (text != krait::to_string(dtype)) continue;
    value = dtype;
    return true;
  }
  return false;
}

bool parse(int argc, char** argv, Options& options) {
  const struct {
    std::string_view name;
    Index& value;
  } counts[] = {{"--d-model", options.d_model},   {"--n-layer", options.n_layer},
                {"--vocab", options.vocab},       {"--n-expert", options.n_expert},
                {"--d-expert", options.d_expert}, {"--top-k", options.top_k}};
  bool has_shape = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name.substr(0, 2) != "--") {
      if (!options.directory.empty()) return false;
      options.directory = name;
      continue;
    }
    if (name == "--sparse") {
      options.sparse = true;
      continue;
    }
    if (++i == argc) return false;
    if (name == "--dtype") {
      if (!parse_dtype(argv[i], options.dtype)) return false;
      continue;
    }
    if (name == "--config") {
      options.config = argv[i];
      continue;
    }
    has_shape = true;
    bool known = name == "--shape";
    if (known) options.shape = argv[i];
    for (const auto& count : counts) {
      if (name != count.name) continue;
      if (!parse_count(argv[i], count.value)) return false;
      known = true;
    }
    if (!known) return false;
  }
  if (has_shape && !options.config.empty()) return false;
  const bool is_moe = options.shape == "moe-mamba";
  const bool is_mamba2 = options.shape == "mamba2-130m";
  if (!is_moe && !is_mamba2 && options.shape != "mamba-130m") return false;
  if (options.d_model == 0) options.d_model = is_moe ? 512 : 768;
  if (options.vocab == 0) options.vocab = is_mamba2 ? 50277 : 50280;
  if (options.d_expert == 0) options.d_expert = 3 * options.d_model;
  return !options.directory.empty();
}

// The configuration as transformers writes it.
std::string transformers_config(const Options& options) {
  const char* dtype = options.dtype == DType::f32   ? "float32"
                      : options.dtype == DType::f16 ? "float16"
                                                    : "bfloat16";
  const auto number = [](Index value) { return std::to_string(value); };
  return "{\n  \"architectures\": [\"MambaForCausalLM\"],\n  \"model_type\": \"mamba\",\n"
         "  \"hidden_size\": " +
         number(options.d_model) + ",\n  \"intermediate_size\": " + number(2 * options.d_model) +
         ",\n  \"num_hidden_layers\": " + number(options.n_layer) +
         ",\n  \"vocab_size\": " + number(options.vocab) +
         ",\n  \"state_size\": 16,\n  \"conv_kernel\": 4,\n  \"expand\": 2"
         ",\n  \"time_step_rank\": " +
         number((options.d_model + 15) / 16) +
         ",\n  \"use_bias\": false,\n  \"use_conv_bias\": true,\n  \"hidden_act\": \"silu\",\n"
         "  \"layer_norm_epsilon\": 1e-05,\n  \"residual_in_fp32\": true,\n"
         "  \"tie_word_embeddings\": true,\n  \"torch_dtype\": \"" +
         dtype + "\"\n}\n";
}

// The configuration of the state-spaces repository.
std::string state_spaces_config(const Options& options) {
  const auto number = [](Index value) { return std::to_string(value); };
  const bool is_mamba2 = options.shape == "mamba2-130m";
  std::string text = "{\n  \"d_model\": " + number(options.d_model) +
                     ",\n  \"d_intermediate\": 0,\n  \"n_layer\": " + number(options.n_layer) +
                     ",\n  \"vocab_size\": " + number(options.vocab) +
                     ",\n  \"ssm_cfg\": {\"layer\": \"" + (is_mamba2 ? "Mamba2" : "Mamba1") +
                     "\"},\n  \"attn_layer_idx\": [],\n  \"attn_cfg\": {},\n  \"rms_norm\": true,\n"
                     "  \"residual_in_fp32\": true,\n  \"fused_add_norm\": true,\n"
                     "  \"pad_vocab_size_multiple\": 16,\n  \"tie_embeddings\": true";
  if (!is_mamba2) {
    text += ",\n  \"moe_cfg\": {\"n_expert\": " + number(options.n_expert) +
            ", \"top_k\": " + number(options.top_k) +
            ", \"d_expert\": " + number(options.d_expert) +
            ", \"router\": \"switch\", \"activation\": \"relu\"}";
  }
  return text + "\n}\n";
}

krait::Error cannot_write(const std::filesystem::path& path) {
  return {krait::ErrorCode::io_failed, "[checkpoint] " + path.filename().string() +
                                           ": expected to write it, found no way (" +
                                           path.parent_path().string() + ")"};
}

// A file whose tensors are one hole: zeros that take no room on the disk.
krait::Result<void> write_sparse(const krait::ModelConfig& config, DType dtype,
                                 const std::filesystem::path& path) {
  KRAIT_ASSIGN_OR_RETURN(const krait::ModelPlan plan,
                         krait::plan_model(config.spec, nullptr, config.prefix));
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  Index bytes = 0;
  for (const krait::TensorUse& use : plan.tensors) {
    const DType stored = use.role == krait::TensorRole::matrix ? dtype : DType::f32;
    header += ",\"" + use.name + "\":{\"dtype\":\"" +
              (stored == DType::f32   ? "F32"
               : stored == DType::f16 ? "F16"
                                      : "BF16") +
              "\",\"shape\":[";
    const char* separator = "";
    for (const Index extent : use.shape.extents()) {
      header += separator + std::to_string(extent);
      separator = ",";
    }
    header += "],\"data_offsets\":[" + std::to_string(bytes);
    bytes += use.shape.size() * krait::bytes_of(stored);
    header += "," + std::to_string(bytes) + "]}";
  }
  header += "}";
  header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' ');  // the data is aligned
  std::ofstream file(path, std::ios::binary);
  for (std::size_t i = 0; i < 8; ++i) file.put(static_cast<char>(header.size() >> (8 * i) & 0xFF));
  file << header;
  file.close();
  std::error_code failed;
  std::filesystem::resize_file(path, 8 + header.size() + static_cast<std::uintmax_t>(bytes),
                               failed);
  if (failed || !file) return cannot_write(path);
  return {};
}

krait::Result<void> write_random(const krait::ModelConfig& config, DType dtype,
                                 const std::filesystem::path& path) {
  KRAIT_ASSIGN_OR_RETURN(const krait::WeightStore weights,
                         krait::random_weights(config.spec, 1, config.prefix, dtype));
  std::vector<krait::NamedTensor> tensors;
  for (const auto& [name, entry] : weights.entries()) tensors.push_back({name, entry.tensor});
  return krait::write_safetensors(path.string(), tensors, {{"format", "pt"}});
}

krait::Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file) return text;
  return krait::Error{
      krait::ErrorCode::io_failed,
      "[checkpoint] --config: expected a file, found no way to read it (" + path + ")"};
}

krait::Result<void> make(const Options& options) {
  const bool is_transformers = options.config.empty() && options.shape == "mamba-130m";
  krait::Checkpoint checkpoint;
  checkpoint.path = options.directory;
  if (options.config.empty()) {
    checkpoint.config =
        is_transformers ? transformers_config(options) : state_spaces_config(options);
  } else {
    KRAIT_ASSIGN_OR_RETURN(checkpoint.config, read_file(options.config));
  }
  // Without tensors the names are those of the state-spaces repository.
  KRAIT_ASSIGN_OR_RETURN(krait::ModelConfig config, krait::read_config(checkpoint));
  if (is_transformers) config.spec.embedding_name = "embeddings";
  if (!options.config.empty() && !config.spec.family.starts_with("mamba")) {
    config.prefix = "model";
    if (config.spec.final_norm_name == "norm_f") config.spec.final_norm_name = "norm";
  }

  const std::filesystem::path directory = options.directory;
  std::error_code failed;
  std::filesystem::create_directories(directory, failed);
  std::ofstream file(directory / "config.json", std::ios::binary);
  file << checkpoint.config;
  file.close();
  if (failed || !file) return cannot_write(directory / "config.json");
  return (options.sparse ? write_sparse : write_random)(config, options.dtype,
                                                        directory / "model.safetensors");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fprintf(
        stderr,
        "usage: krait_make_random_checkpoint DIR [--shape mamba-130m|mamba2-130m|moe-mamba]\n"
        "         [--dtype f32|bf16|f16] [--d-model N] [--n-layer 24] [--vocab N]\n"
        "         [--n-expert 8] [--top-k 1] [--d-expert N] [--sparse]\n"
        "       krait_make_random_checkpoint DIR --config FILE [--dtype f32|bf16|f16] [--sparse]\n"
        "--sparse leaves all weights zero, as a hole in the file.\n");
    return 2;
  }
  if (const auto made = make(options); !made) {
    std::fprintf(stderr, "%s\n", made.error().message.c_str());
    return 1;
  }
  return 0;
}
