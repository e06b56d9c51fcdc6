#include "krait/weights/overlay.hpp"

#include <fmt/format.h>

#include "krait/weights/options.hpp"
#include "weights/adapted.hpp"

namespace krait {
inline namespace v0_1 {

void replace_matrix(WeightStore& store, std::string_view name, std::string_view form,
                    const std::vector<NamedTensor>& parts, std::shared_ptr<const void> owner) {
  const std::string prefix = fmt::format("{}.", name);
  std::vector<std::string> old;
  const auto collect = [&](const auto& tensors) {
    for (auto it = tensors.lower_bound(prefix); it != tensors.end(); ++it) {
      if (!it->first.starts_with(prefix)) break;
      const std::string part = it->first.substr(prefix.size());
      if (is_part_of_adapter(part)) continue;
      const bool is_of_factor = part.starts_with("u.") || part.starts_with("v.");
      if (is_of_factor || (part != "bias" && part.find('.') == part.npos)) old.push_back(it->first);
    }
  };
  collect(store.entries());
  collect(store.unreadable());
  for (const std::string& tensor : old) store.remove(tensor);
  for (const NamedTensor& part : parts) store.add(prefix + part.name, part.tensor, owner);
  store.metadata[fmt::format("{}:{}", weight_form_key, name)] = form;
}

}  // namespace v0_1
}  // namespace krait
