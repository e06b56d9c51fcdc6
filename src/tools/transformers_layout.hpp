#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "krait/loading/registry.hpp"

namespace krait {
inline namespace v0_1 {

/// How transformers has a checkpoint that krait reads: its configuration and the names of its
/// tensors. Checkpoints of transformers stay as they are; those of the original state-spaces
/// repository get other names and keys.
class TransformersLayout {
 public:
  /// `dtype` is the type that the matrices will have, if it changes. Errors: unsupported (an
  /// original configuration that transformers has no class for).
  static Result<TransformersLayout> of(const CheckpointPlan& stored, std::optional<DType> dtype);

  /// config.json.
  const std::string& config() const noexcept { return config_; }

  /// The name of a tensor of the checkpoint.
  std::string name(const std::string& stored) const;

  /// Rows of a head, if the tensor of that (new) name holds queries or keys whose rotary pairs are
  /// neighbours; transformers pairs halves. Otherwise 0.
  Index pair_rows(std::string_view name) const noexcept;

 private:
  std::string config_;
  std::string old_prefix_;  // of all tensors, if they are renamed
  std::string old_embedding_, old_layers_, old_norm_, old_head_;
  bool renames_ = false;
  Index pair_rows_ = 0;
};

}  // namespace v0_1
}  // namespace krait
