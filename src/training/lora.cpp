#include "krait/training/lora.hpp"
#include "krait/core/float_environment.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "io/json.hpp"
#include "io/write_text_file.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/weights/adapter.hpp"
#include "krait/weights/convert.hpp"
#include "models/bind_parts.hpp"
#include "training/draws.hpp"
#include "training/run_files.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view peft_prefix = "base_model.model.";
constexpr Index most_rank = 65536;

struct TargetWord {
  std::string_view word;
  std::string_view matrix;  // of a block
};
constexpr TargetWord mixer_words[] = {{"in", "in_proj"},   {"x", "x_proj"}, {"dt", "dt_proj"},
                                      {"out", "out_proj"}, {"q", "q_proj"}, {"k", "k_proj"},
                                      {"v", "v_proj"},     {"o", "o_proj"}};

std::string_view word_of(const BlockMatrix& matrix) {
  if (matrix.expert >= 0) return "experts";
  for (const TargetWord& one : mixer_words) {
    if (matrix.name == one.matrix) return one.word;
  }
  return "mlp";
}

template <class Words>
std::string joined(const Words& words, std::string_view between) {
  return fmt::format("{}", fmt::join(words, between));
}

Error bad_option(std::string_view what, const std::string& expected, std::string_view found) {
  return {ErrorCode::bad_argument,
          fmt::format("[lora] {}: expected {}, found {}", what, expected, found)};
}

Result<void> validate(const LoraOptions& options) {
  if (options.rank < 1 || options.rank > most_rank) {
    return bad_option("r", fmt::format("1 to {}", most_rank), fmt::to_string(options.rank));
  }
  if (!std::isfinite(options.alpha) || options.alpha <= 0.0) {
    return bad_option("alpha", "a number above 0", fmt::to_string(options.alpha));
  }
  const auto known = lora_targets();
  std::set<std::string_view> seen;
  for (const std::string& word : options.targets) {
    if (std::ranges::find(known, word) == known.end()) {
      return bad_option("targets", "some of " + joined(known, ", "), "'" + word + "'");
    }
    if (!seen.insert(word).second) return bad_option("targets", "each once", word + " twice");
  }
  if (options.targets.empty()) return bad_option("targets", "at least one", "none");
  return {};
}

template <class Number>
bool read_number(std::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

void split(std::string_view text, std::string_view separators, std::vector<std::string_view>& to) {
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find_first_of(separators, begin), text.size());
    to.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

}  // namespace

std::vector<std::string_view> lora_targets() {
  std::vector<std::string_view> words;
  for (const TargetWord& one : mixer_words) words.push_back(one.word);
  words.insert(words.end(), {"mlp", "experts", "emb"});
  return words;
}

Result<LoraOptions> parse_lora(std::string_view text) {
  LoraOptions options;
  std::set<std::string_view> given;
  std::vector<std::string_view> pieces;
  split(text, ",", pieces);
  std::string_view key;
  for (const std::string_view piece : pieces) {
    const std::size_t equals = piece.find('=');
    const bool goes_on = equals == piece.npos && key == "targets";
    if (!goes_on) key = piece.substr(0, std::min(equals, piece.size()));
    const std::string_view value =
        goes_on ? piece : piece.substr(std::min(equals, piece.size() - 1) + 1);
    const auto wrong = [&](const std::string& expected) {
      return bad_option(key, expected, fmt::format("'{}'", value));
    };
    if (!goes_on && (equals == piece.npos || !given.insert(key).second)) {
      return bad_option("options", "r=16,alpha=32,targets=in+out", fmt::format("'{}'", text));
    }
    if (key == "r") {
      if (!read_number(value, options.rank)) return wrong(fmt::format("1 to {}", most_rank));
    } else if (key == "alpha") {
      if (!read_number(value, options.alpha)) return wrong("a number above 0");
    } else if (key == "rslora") {
      if (value != "true" && value != "false") return wrong("true or false");
      options.by_root = value == "true";
    } else if (key == "targets") {
      if (!goes_on) options.targets.clear();
      std::vector<std::string_view> words;
      split(value, "+", words);
      options.targets.insert(options.targets.end(), words.begin(), words.end());
    } else {
      return bad_option("options", "r, alpha, targets, rslora", fmt::format("'{}'", key));
    }
  }
  if (!given.contains("alpha")) options.alpha = 2.0 * static_cast<double>(options.rank);
  KRAIT_RETURN_IF_ERROR(validate(options));
  return options;
}

std::string to_string(const LoraOptions& options) {
  return fmt::format("r={},alpha={},targets={}{}", options.rank, options.alpha,
                     joined(options.targets, "+"), options.by_root ? ",rslora=true" : "");
}

Result<std::shared_ptr<const Lora>> Lora::create(const ModelSpec& spec, const std::string& prefix,
                                                 WeightStore weights, const LoraOptions& options) {
  KRAIT_RETURN_IF_ERROR(validate(options));
  auto lora = std::make_shared<Lora>();
  lora->options_ = options;
  lora->base_ = std::move(weights);
  KRAIT_RETURN_IF_ERROR(lora->choose(spec, prefix));
  return std::shared_ptr<const Lora>(std::move(lora));
}

namespace {

// The matrices of a model by target: paths without "weight", each once.
std::map<std::string, std::vector<std::string>, std::less<>> matrices_of(const ModelSpec& spec) {
  std::map<std::string, std::vector<std::string>, std::less<>> all;
  all["emb"] = {spec.embedding_name};
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    for (const ResidualSpec& residual : spec.layers[i].residuals) {
      const auto matrices = std::visit(
          [&](const auto& block) { return block.matrices(spec.d_model()); }, residual.block);
      for (const BlockMatrix& matrix : matrices) {
        std::vector<std::string>& paths = all[std::string(word_of(matrix))];
        std::string path =
            fmt::format("{}.{}.{}.{}", spec.layers_name, i, residual.block_name, matrix.name);
        if (std::ranges::find(paths, path) == paths.end()) paths.push_back(std::move(path));
      }
    }
  }
  return all;
}

std::string_view last_word(std::string_view path) { return path.substr(path.rfind('.') + 1); }

}  // namespace

Result<void> Lora::choose(const ModelSpec& spec, const std::string& prefix) {
  KRAIT_ASSIGN_OR_RETURN(const Parameters model, Parameters::of(spec, prefix));
  const auto all = matrices_of(spec);
  const bool is_in_head = is_embedding_in_head(spec, &base_, prefix);
  std::vector<TensorUse> factors;
  std::set<std::string> chosen;
  for (const std::string& word : options_.targets) {
    const auto found = all.find(word);
    if (found == all.end()) {
      std::vector<std::string_view> known;
      for (const auto& [name, paths] : all) known.push_back(name);
      return bad_option("targets", "some that the model has, which are " + joined(known, ", "),
                        word);
    }
    for (const std::string& path : found->second) {
      const Parameter* whole = model.find(path + ".weight");
      if (whole == nullptr) {  // of a block that cannot be trained either
        return Error{ErrorCode::unsupported,
                     fmt::format("[lora] {}: expected a matrix of its own, found none", path)};
      }
      const int last = whole->shape.rank() - 1;
      Matrix matrix{.name = whole->name.substr(0, whole->name.size() - 7),
                    .out = whole->shape[last - 1],
                    .in = whole->shape[last],
                    .count = last == 2 ? whole->shape[0] : 0,
                    .is_embedding = word == "emb",
                    .A = factors.size()};
      matrix.module = matrix.name;
      if (matrix.is_embedding && is_in_head) matrix.name = spec.head_name;
      const auto add = [&](const char* name, Index rows, Index cols) {
        TensorUse factor;
        factor.name = fmt::format("{}.{}", matrix.name, name);
        factor.path = fmt::format("{}.{}", path, name);
        factor.shape = last == 2 ? Shape{matrix.count, rows, cols} : Shape{rows, cols};
        factor.role = TensorRole::matrix;
        factors.push_back(std::move(factor));
      };
      add("lora_A", options_.rank, matrix.in);
      add("lora_B", matrix.out, options_.rank);
      chosen.insert(matrix.module);
      matrices_.push_back(std::move(matrix));
    }
  }
  parameters_ = Parameters(factors);
  // PEFT takes every module that ends with a word: only where all those were chosen does it do.
  std::set<std::string> words;
  for (const Matrix& matrix : matrices_) {
    const std::string_view word = last_word(matrix.module);
    const bool is_common = std::ranges::all_of(model.all(), [&](const Parameter& other) {
      const std::string_view module =
          std::string_view(other.name)
              .substr(0, other.name.size() - std::min(other.name.size(), std::size_t{7}));
      return !other.name.ends_with(".weight") || last_word(module) != word ||
             chosen.contains(std::string(module));
    });
    if (matrix.count == 0) words.emplace(is_common ? word : matrix.module);
    for (Index e = 0; e < matrix.count; ++e) words.insert(fmt::format("{}.{}", matrix.module, e));
  }
  words_.assign(words.begin(), words.end());
  return {};
}

WeightStore Lora::store(const float* values) const {
  WeightStore store = base_;
  const auto rank = static_cast<double>(options_.rank);
  const double scale = options_.alpha / (options_.by_root ? std::sqrt(rank) : rank);
  for (const Matrix& matrix : matrices_) {
    const auto factor = [&](std::size_t i) {
      const Parameter& parameter = parameters_.all()[i];
      return TensorView{values + parameter.offset, DType::f32, parameter.shape};
    };
    attach_adapter(store, matrix.name, factor(matrix.A), factor(matrix.A + 1),
                   static_cast<float>(scale), nullptr);
  }
  return store;
}

void Lora::initial_values(std::uint64_t seed, std::span<float> values) const {
  const FloatEnvironment environment;
  std::ranges::fill(values, 0.0F);
  std::uint32_t tensor = 0;
  for (const Matrix& matrix : matrices_) {
    training::Draws draws(seed, tensor++);
    const Parameter& A = parameters_.all()[matrix.A];
    float* to = values.data() + A.offset;
    const double bound = 1.0 / std::sqrt(static_cast<double>(matrix.in));
    for (Index i = 0; i < A.shape.size(); ++i) {
      to[i] = static_cast<float>(matrix.is_embedding ? draws.normal(i)
                                                     : bound * (2.0 * draws.uniform(i) - 1.0));
    }
  }
}

std::string Lora::config_json(const std::string& model) const {
  std::string name;
  append_json_string(name, model);
  std::string targets;
  for (const std::string& word : words_) {
    targets += targets.empty() ? "\n    " : ",\n    ";
    append_json_string(targets, word);
  }
  return fmt::format(
      "{{\n  \"alpha_pattern\": {{}},\n  \"base_model_name_or_path\": {},\n  \"bias\": \"none\",\n"
      "  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n"
      "  \"lora_alpha\": {},\n  \"lora_dropout\": 0.0,\n  \"modules_to_save\": null,\n"
      "  \"peft_type\": \"LORA\",\n  \"r\": {},\n  \"rank_pattern\": {{}},\n"
      "  \"target_modules\": [{}\n  ],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n"
      "  \"use_rslora\": {}\n}}\n",
      name, options_.alpha, options_.rank, targets, options_.by_root);
}

Result<void> Lora::write(const std::string& folder, const std::string& model, const float* values,
                         DType dtype) const {
  std::vector<NamedTensor> tensors;
  std::vector<AlignedBuffer<std::byte>> blocks;
  const auto add = [&](std::string name, const float* from, Index rows, Index cols,
                       bool turned) -> Result<void> {
    AlignedBuffer<float> floats(rows * cols);
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < cols; ++c) {
        floats.data()[turned ? c * rows + r : r * cols + c] = from[r * cols + c];
      }
    }
    const Shape shape = turned ? Shape{cols, rows} : Shape{rows, cols};
    blocks.emplace_back(rows * cols * bytes_of(dtype));
    const TensorView trained{floats.data(), DType::f32, shape};
    const TensorView written{blocks.back().data(), dtype, shape};
    convert_floats(trained, dtype, blocks.back().data());
    KRAIT_RETURN_IF_ERROR(training::check_result(trained, written, name));
    tensors.push_back({std::move(name), written});
    return {};
  };
  for (const Matrix& matrix : matrices_) {
    const Index rank = options_.rank;
    const float* A = values + parameters_.all()[matrix.A].offset;
    const float* B = values + parameters_.all()[matrix.A + 1].offset;
    const std::string name = fmt::format("{}{}", peft_prefix, matrix.module);
    if (matrix.is_embedding) {  // x E = (x onehot) with B first
      KRAIT_RETURN_IF_ERROR(add(name + ".lora_embedding_A", B, matrix.out, rank, true));
      KRAIT_RETURN_IF_ERROR(add(name + ".lora_embedding_B", A, rank, matrix.in, true));
      continue;
    }
    for (Index e = 0; e < std::max(matrix.count, Index{1}); ++e) {
      const std::string own = matrix.count == 0 ? name : fmt::format("{}.{}", name, e);
      KRAIT_RETURN_IF_ERROR(
          add(own + ".lora_A.weight", A + e * rank * matrix.in, rank, matrix.in, false));
      KRAIT_RETURN_IF_ERROR(
          add(own + ".lora_B.weight", B + e * matrix.out * rank, matrix.out, rank, false));
    }
  }
  KRAIT_RETURN_IF_ERROR(
      write_safetensors(folder + "/adapter_model.safetensors", tensors, {{"format", "pt"}}));
  return write_text_file(folder + "/adapter_config.json", config_json(model));
}

}  // namespace v0_1
}  // namespace krait
