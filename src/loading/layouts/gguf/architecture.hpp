#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.hpp"
#include "krait/models/spec.hpp"
#include "loading/config_reader.hpp"

namespace krait {
inline namespace v0_1 {

/// The keys of one file's architecture: number("ssm.state_size") is that of "mamba.ssm.state_size".
/// A value of the wrong type or range is an error that names the key.
class GgufKeys {
 public:
  GgufKeys(const GgufFile& file, std::string architecture)
      : file_(file),
        reader_(file.metadata, file.file->name()),
        prefix_(std::move(architecture) + ".") {
    for (const GgufTensor& tensor : file.tensors) tensors_.emplace(tensor.name, &tensor);
  }

  /// Without `fallback`, the key must be there.
  Result<Index> number(std::string_view key, Index least,
                       std::optional<Index> fallback = {}) const {
    return reader_.number(name(key), least, fallback);
  }
  Result<double> real(std::string_view key, float fallback) const;
  Result<bool> boolean(std::string_view key, bool fallback) const {
    return reader_.boolean(name(key), fallback);
  }
  Result<std::string> text(std::string_view key, std::string_view fallback) const {
    return reader_.text(name(key), fallback);
  }
  bool has(std::string_view key) const { return reader_.has(name(key)); }

  /// One number for every layer, written once if they are equal.
  Result<std::vector<Index>> per_layer(std::string_view key, Index n_layer,
                                       std::optional<Index> fallback = {}) const;

  /// The file's tensor of that name; null without one.
  const GgufTensor* tensor(std::string_view name) const noexcept;
  bool has_tensor(std::string_view name) const noexcept { return tensor(name) != nullptr; }

  /// Rows of the embedding. Errors: missing_tensor.
  Result<Index> vocab() const;

  /// The channels of a mixer as a multiple of the width, and of each of its heads.
  Result<Index> expansion(Index d_model) const;
  Result<Index> mixer_head_dim() const;

  Error fail(std::string_view key, std::string_view expected, std::string_view found) const {
    return reader_.fail(name(key), expected, found, ErrorCode::unsupported);
  }

 private:
  std::string name(std::string_view key) const { return prefix_ + std::string(key); }

  const GgufFile& file_;
  ConfigReader reader_;
  std::string prefix_;
  std::map<std::string_view, const GgufTensor*> tensors_;
};

/// A configuration that is made, in the order of its keys.
class ConfigObject {
 public:
  void set(std::string key, Metadata value) {
    members_.push_back({std::move(key), std::move(value)});
  }
  /// What was set, a whole number; `fallback` if it was not.
  Index number(std::string_view key, Index fallback) const {
    for (const Metadata::Member& member : members_) {
      if (member.key == key) return member.value.integer().value_or(fallback);
    }
    return fallback;
  }
  Metadata take() { return Metadata(std::move(members_)); }

 private:
  Metadata::Object members_;
};

/// How the shape of a tensor in the file follows from that in transformers.
enum class GgufShape {
  same,
  column,     ///< [n, 1] of [n]
  groups,     ///< [groups, n / groups] of [n], as many groups as the key ssm.group_count says
  depthwise,  ///< [channels, taps] of [channels, 1, taps]
};

/// What the file has in place of a value.
enum class GgufValues {
  same,
  negative_exp,  ///< -exp(x): A in place of A_log
  pairs,         ///< the rows of each head in the order in which rotary pairs are neighbours
};

/// Which of its rows, in each matrix of a stack.
enum class GgufRows { all, first_half, second_half };

/// In which models a tensor is written under a name.
enum class GgufUse {
  always,
  without_experts,
  with_experts,
  never,  ///< the name is only read
};

/// The context that the converter writes of models without positions.
inline constexpr Index gguf_unlimited_context = Index{1} << 20;

/// A factor of so many rows, one after another.
struct RowFactor {
  Index rows = 0;
  float factor = 1.0F;
};

/// What a tensor is called; without a name in transformers, it is read into the configuration. In
/// both names, * is the number of the layer; in the second, # is the number of an expert, where the
/// file has those of a layer in one tensor.
struct GgufName {
  std::string_view gguf;
  std::string_view name;  ///< in transformers
  GgufShape shape = GgufShape::same;
  GgufValues values = GgufValues::same;
  GgufRows rows = GgufRows::all;
  GgufUse use = GgufUse::always;
};

/// A vector of the file that transformers computes from its configuration.
struct GgufMadeTensor {
  std::string name;
  std::vector<float> values;
};

/// How llama.cpp's converter writes one kind of model. A new one is a file that defines one, and a
/// line in the list below.
struct GgufArchitecture {
  std::string_view name;  ///< `general.architecture`
  /// transformers' names of what is written so.
  std::span<const std::string_view> model_types;
  /// Fills in transformers' configuration. Where rows are in the order of `pairs`, it has
  /// "rope_interleave": true.
  Result<void> (*configure)(const GgufKeys& keys, ConfigObject& config);
  /// The other way: fills in the file's keys from transformers' configuration, and the model that
  /// was made of it.
  Result<void> (*describe)(const ConfigReader& config, const ModelSpec& spec,
                           ConfigObject& metadata);
  /// Two tensors of the file may be parts of one of transformers. Of names that occur twice in the
  /// file, the first is the one that is read.
  std::span<const GgufName> names;
  /// Of architectures with the same model types, whether a configuration is written as this one;
  /// null where there is one.
  bool (*is_of)(const ConfigReader& config) = nullptr;
  /// What the file has multiplied into the rows of a tensor of that name in transformers, with *
  /// for its layer; empty: nothing. Null where that is so of all.
  Result<std::vector<RowFactor>> (*factors)(const ConfigReader& config, const ModelSpec& spec,
                                            std::string_view name) = nullptr;
  /// Tensors beside those of the checkpoint; null: none.
  std::vector<GgufMadeTensor> (*made)(const ModelSpec& spec) = nullptr;
};

// clang-format off
#define KRAIT_GGUF_ARCHITECTURES(architecture) \
  architecture(gguf_mamba) \
  architecture(gguf_mamba2) \
  architecture(gguf_llama) \
  architecture(gguf_jamba) \
  architecture(gguf_granite) \
  architecture(gguf_nemotron) \
  architecture(gguf_nemotron_moe) \
  architecture(gguf_falcon_h1)
// clang-format on

#define KRAIT_DECLARE_ARCHITECTURE(architecture) extern const GgufArchitecture architecture;
KRAIT_GGUF_ARCHITECTURES(KRAIT_DECLARE_ARCHITECTURE)
#undef KRAIT_DECLARE_ARCHITECTURE

}  // namespace v0_1
}  // namespace krait
