#pragma once

#include <map>
#include <string>
#include <string_view>

#include "krait/models/model_plan.hpp"

namespace krait {
inline namespace v0_1 {

/// Draws the tensors of a plan as a tree of their dotted paths, with the description of the block
/// at each inner node. Runs of equal layers are folded into one.
class ModelTree {
 public:
  /// What to write beside the node at `path`.
  void name(std::string path, std::string words) {
    words_.insert_or_assign(std::move(path), std::move(words));
  }

  std::string text(const ModelPlan& plan, const ModelSpec& spec) const;

 private:
  std::map<std::string, std::string, std::less<>> words_;
};

/// "288.0 KiB".
std::string bytes_text(Index bytes);

}  // namespace v0_1
}  // namespace krait
