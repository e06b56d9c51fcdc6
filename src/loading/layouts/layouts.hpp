#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "krait/io/weight_store.hpp"
#include "krait/loading/registry.hpp"

namespace krait {
inline namespace v0_1 {

/// Under which names a kind of checkpoint holds what is around the blocks. A new one is a line in
/// layouts.cpp.
struct Layout {
  std::string_view prefix;      ///< of everything but the head; may be empty
  std::string_view embedding;   ///< below the prefix
  std::string_view layers;      ///< below the prefix
  std::string_view final_norm;  ///< below the prefix
  std::string_view head;        ///< not below the prefix
};

/// The names of one checkpoint's tensors.
class TensorNames {
 public:
  /// Finds the layout whose embedding the store has, or whose head, where that stands for both.
  explicit TensorNames(const WeightStore& weights);

  /// Whether the checkpoint has that tensor of a layer ("mixer.norm.weight"); false where no layout
  /// fits.
  bool has_in_layer(Index layer, std::string_view name) const;

  /// A tensor of the first layer that is not below `n_layer`, or none. Leaves out what transformers
  /// passes over in every checkpoint: the frequencies of rotary embeddings, which early versions
  /// wrote.
  struct LayerTensor {
    std::string name;
    Index layer = 0;
  };
  std::optional<LayerTensor> find_beyond(Index n_layer) const;

  /// Gives the configuration the names. Without a layout that fits, the family's own stay, so that
  /// the error names what was expected.
  void apply(ModelConfig& config) const;

 private:
  const WeightStore& weights_;
  const Layout* layout_ = nullptr;
  std::string wrapper_;  // what stands before every name: "module"
  std::string prefix_ = "backbone";
};

}  // namespace v0_1
}  // namespace krait
