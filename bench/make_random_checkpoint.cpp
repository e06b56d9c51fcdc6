// Writes a checkpoint of the shape of a published Mamba model with random weights: speed does not
// depend on their values, and nothing need be downloaded.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/dtype.hpp"
#include "krait/core/rng.hpp"
#include "krait/io/safetensors.hpp"

namespace {

using krait::DType;
using krait::Index;

struct Options {
  std::string directory;
  DType dtype = DType::f32;
  Index d_model = 768;
  Index n_layer = 24;
  Index vocab = 50280;
};

constexpr Index expand = 2;
constexpr Index d_state = 16;
constexpr Index d_conv = 4;

bool parse_count(const char* text, Index& value) {
  char* end = nullptr;
  value = std::strtoll(text, &end, 10);
  return end != text && *end == '\0' && value > 0 && value <= 1'000'000;
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name.substr(0, 2) != "--") {
      if (!options.directory.empty()) return false;
      options.directory = name;
      continue;
    }
    if (++i == argc) return false;
    const std::string_view value = argv[i];
    if (name == "--dtype") {
      bool known = false;
      for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        if (value != krait::to_string(dtype)) continue;
        options.dtype = dtype;
        known = true;
      }
      if (!known) return false;
    } else if (name == "--d-model") {
      if (!parse_count(argv[i], options.d_model)) return false;
    } else if (name == "--n-layer") {
      if (!parse_count(argv[i], options.n_layer)) return false;
    } else if (name == "--vocab") {
      if (!parse_count(argv[i], options.vocab)) return false;
    } else {
      return false;
    }
  }
  return !options.directory.empty();
}

// Tensors and the memory they lie in.
class Checkpoint {
 public:
  explicit Checkpoint(DType dtype) : dtype_(dtype) {}

  /// A tensor whose elements value(i) gives.
  template <class Value>
  void add(std::string name, krait::Shape shape, Value value) {
    const Index count = shape.size();
    krait::AlignedBuffer<std::byte> bytes(count * bytes_of(dtype_));
    for (Index i = 0; i < count; ++i) put(bytes.data(), i, value(i));
    tensors_.push_back({std::move(name), {bytes.data(), dtype_, shape}});
    blocks_.push_back(std::move(bytes));
  }

  /// A tensor of values in [-scale, scale).
  void add_random(std::string name, krait::Shape shape, float scale) {
    const auto sequence = static_cast<std::uint32_t>(tensors_.size());
    add(std::move(name), shape, [=](Index i) {
      const double u = krait::random_uniform(
          {.seed = 1, .sequence = sequence, .position = static_cast<std::uint64_t>(i)});
      return scale * static_cast<float>(2.0 * u - 1.0);
    });
  }

  krait::Result<void> write(const std::string& path) const {
    return krait::write_safetensors(path, tensors_, {{"format", "pt"}});
  }

 private:
  void put(std::byte* data, Index i, float value) const {
    if (dtype_ == DType::f32) {
      reinterpret_cast<float*>(data)[i] = value;
    } else if (dtype_ == DType::f16) {
      reinterpret_cast<krait::f16*>(data)[i] = krait::to_f16(value);
    } else {
      reinterpret_cast<krait::bf16*>(data)[i] = krait::to_bf16(value);
    }
  }

  DType dtype_;
  std::vector<krait::NamedTensor> tensors_;
  std::vector<krait::AlignedBuffer<std::byte>> blocks_;
};

// Uniform weights of this scale keep the size of their input.
float scale_of(Index inputs) { return std::sqrt(3.0F / static_cast<float>(inputs)); }

void add_layer(Checkpoint& checkpoint, const Options& options, Index layer) {
  const Index d_model = options.d_model;
  const Index d_inner = expand * d_model;
  const Index dt_rank = (d_model + 15) / 16;
  const std::string at = "backbone.layers." + std::to_string(layer) + ".";
  const auto one = [](Index) { return 1.0F; };
  checkpoint.add(at + "norm.weight", {d_model}, one);
  const std::string mixer = at + "mixer.";
  checkpoint.add_random(mixer + "in_proj.weight", {2 * d_inner, d_model}, scale_of(d_model));
  checkpoint.add_random(mixer + "conv1d.weight", {d_inner, 1, d_conv}, scale_of(d_conv));
  checkpoint.add_random(mixer + "conv1d.bias", {d_inner}, 0.1F);
  checkpoint.add_random(mixer + "x_proj.weight", {dt_rank + 2 * d_state, d_inner},
                        scale_of(d_inner));
  checkpoint.add_random(mixer + "dt_proj.weight", {d_inner, dt_rank}, 0.1F * scale_of(dt_rank));
  // Time steps near 0.01, as trained models have.
  checkpoint.add(mixer + "dt_proj.bias", {d_inner}, [](Index) { return -4.6F; });
  checkpoint.add(mixer + "A_log", {d_inner, d_state},
                 [](Index i) { return std::log(static_cast<float>(i % d_state + 1)); });
  checkpoint.add(mixer + "D", {d_inner}, one);
  checkpoint.add_random(mixer + "out_proj.weight", {d_model, d_inner}, 0.3F * scale_of(d_inner));
}

std::string config_json(const Options& options) {
  const char* dtype = options.dtype == DType::f32   ? "float32"
                      : options.dtype == DType::f16 ? "float16"
                                                    : "bfloat16";
  const auto number = [](Index value) { return std::to_string(value); };
  return "{\n  \"architectures\": [\"MambaForCausalLM\"],\n  \"model_type\": \"mamba\",\n"
         "  \"hidden_size\": " +
         number(options.d_model) +
         ",\n  \"intermediate_size\": " + number(expand * options.d_model) +
         ",\n  \"num_hidden_layers\": " + number(options.n_layer) +
         ",\n  \"vocab_size\": " + number(options.vocab) +
         ",\n  \"state_size\": " + number(d_state) + ",\n  \"conv_kernel\": " + number(d_conv) +
         ",\n  \"expand\": " + number(expand) +
         ",\n  \"time_step_rank\": " + number((options.d_model + 15) / 16) +
         ",\n  \"use_bias\": false,\n  \"use_conv_bias\": true,\n  \"hidden_act\": \"silu\",\n"
         "  \"layer_norm_epsilon\": 1e-05,\n  \"residual_in_fp32\": true,\n"
         "  \"tie_word_embeddings\": true,\n  \"torch_dtype\": \"" +
         dtype + "\"\n}\n";
}

krait::Result<void> make(const Options& options) {
  std::error_code failed;
  std::filesystem::create_directories(options.directory, failed);
  const std::filesystem::path directory = options.directory;
  std::ofstream config(directory / "config.json", std::ios::binary);
  config << config_json(options);
  config.close();
  if (failed || !config) {
    return krait::Error{
        krait::ErrorCode::io_failed,
        "[checkpoint] config.json: expected to write it, found no way (" + options.directory + ")"};
  }
  Checkpoint checkpoint(options.dtype);
  checkpoint.add_random("backbone.embeddings.weight", {options.vocab, options.d_model}, 0.05F);
  for (Index layer = 0; layer < options.n_layer; ++layer) add_layer(checkpoint, options, layer);
  checkpoint.add("backbone.norm_f.weight", {options.d_model}, [](Index) { return 1.0F; });
  return checkpoint.write((directory / "model.safetensors").string());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fprintf(stderr,
                 "usage: krait_make_random_checkpoint DIR [--dtype f32|bf16|f16] [--d-model 768] "
                 "[--n-layer 24] [--vocab 50280]\n");
    return 2;
  }
  if (const auto made = make(options); !made) {
    std::fprintf(stderr, "%s\n", made.error().message.c_str());
    return 1;
  }
  return 0;
}
