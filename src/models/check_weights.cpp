#include "models/check_weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "krait/io/printable.hpp"
#include "models/bind_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Whether the store has that tensor, as floats or in parts.
bool has_tensor(const WeightStore& weights, std::string_view name) {
  constexpr std::string_view dense = ".weight";
  // A tensor that cannot be read is not missing: binding says what is wrong with it.
  if (weights.contains(name) || weights.unreadable().contains(name)) return true;
  return name.ends_with(dense) && has_parts(weights, name.substr(0, name.size() - dense.size()));
}

}  // namespace

// Codes in the layout of another version would give wrong weights.
Result<void> check_format(const WeightStore& weights) {
  const auto version = weights.metadata.find(weight_format_version_key);
  if (version == weights.metadata.end() || version->second == weight_format_version) return {};
  return Error{ErrorCode::unsupported,
               fmt::format("[build] {}: expected {}, found '{}'", weight_format_version_key,
                           weight_format_version, printable(version->second, 40))};
}

Result<void> check_names(const ModelSpec& spec, const WeightStore& weights,
                         const std::string& prefix) {
  WeightBinder binder(nullptr, {});
  Bookings bookings(spec.d_model());
  ModelTree tree;
  const bool embedding_is_head = is_embedding_in_head(spec, &weights, prefix);
  KRAIT_ASSIGN_OR_RETURN(const Model::Parts ignored,
                         bind_parts(spec, binder, prefix, embedding_is_head, bookings, tree));
  std::vector<std::string> missing;
  for (const TensorUse& use : binder.uses()) {
    if (!has_tensor(weights, use.name)) missing.push_back(use.name);
  }
  if (missing.empty()) return {};
  constexpr std::size_t shown = 10;
  std::string list;
  for (std::size_t i = 0; i < std::min(shown, missing.size()); ++i) {
    list += (i == 0 ? "" : ", ") + missing[i];
  }
  if (missing.size() > shown) list += fmt::format(", … ({} in all)", missing.size());
  std::string there;
  std::size_t count = 0;
  constexpr std::size_t shown_there = 5;
  for (const auto& [name, entry] : weights.entries()) {
    if (count++ == shown_there) break;
    there += (there.empty() ? "; it has " : ", ") + printable(name);
  }
  if (count > shown_there) there += ", …";
  return Error{ErrorCode::missing_tensor,
               fmt::format("[build] weights: expected {} tensors, found {}; missing: {}{}",
                           binder.uses().size(), weights.size(), list, there)};
}

}  // namespace v0_1
}  // namespace krait
