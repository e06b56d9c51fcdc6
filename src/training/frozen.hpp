#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "krait/models/spec.hpp"
#include "krait/weights/linear.hpp"
#include "krait/weights/options.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// The tensors of a model's blocks that training leaves as they are, by their paths. Adapters that
// the matrices have are in training.
struct Frozen {
  static Result<Frozen> bind(const ModelSpec& spec, const std::string& prefix,
                             const WeightStore& weights, const WeightOptions& options);

  // The matrix of that path, of a stack number `i`; null if there is none.
  const Linear* find(std::string_view path, Index i) const;

  std::map<std::string, const float*, std::less<>> values;  // "layers.3.mixer.A_log"
  // "layers.3.mixer.in_proj": one, or those of a stack; in whatever form
  std::map<std::string, std::vector<Linear>, std::less<>> matrices;
  Index workspace = 0;  // floats per token that a product needs
  std::vector<std::shared_ptr<const void>> owners;
};

}  // namespace training
}  // namespace v0_1
}  // namespace krait
