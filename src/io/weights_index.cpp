#include "io/weights_index.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "io/json.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// A file beside the index, whose name can stand in a message.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         std::none_of(name.begin(), name.end(), [](char c) {
           return c == '/' || c == '\\' || c == '\x7f' || (c >= 0 && c < ' ');
         });
}

bool same_tensor(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape &&
         (a.bytes() == 0 || std::memcmp(a.data, b.data, static_cast<std::size_t>(a.bytes())) == 0);
}

Result<void> read_index(const WeightsIndex& index, ReadShard read_shard, WeightsMode mode,
                        WeightStore& store, Progress progress) {
  const std::string path = fmt::format("{}/{}", index.directory, index.name);
  const auto fail = [&](std::string_view what, std::string_view expected, std::string_view found) {
    return Error{ErrorCode::bad_format,
                 fmt::format("[{}] {}: expected {}, found {} ({})", index.area, printable(what),
                             expected, found, path)};
  };
  KRAIT_ASSIGN_OR_RETURN(const Metadata root, parse_json(index.json, path));
  const Metadata::Object* weight_map = root["weight_map"].object();
  if (weight_map == nullptr) return fail("weight_map", "an object", "none");
  std::map<std::string_view, std::string_view> shard_of;
  std::map<std::string, WeightStore, std::less<>> shards;
  for (const auto& [tensor, value] : *weight_map) {
    if (value.text() == nullptr || !is_plain_file_name(*value.text())) {
      return fail(tensor, "the name of a file beside the index", json_text(value));
    }
    const std::string& shard_name = *value.text();
    shard_of.emplace(tensor, shard_name);
    if (shards.contains(shard_name)) continue;
    KRAIT_ASSIGN_OR_RETURN(auto file,
                           open_file(index.directory + "/" + shard_name, mode, progress));
    KRAIT_RETURN_IF_ERROR(read_shard(std::move(file), shards[shard_name]));
  }
  // What the shards hold counts, whatever the index says of it. The index decides only between
  // shards that both have a tensor.
  std::map<std::string, const WeightStore::Entry*, std::less<>> found;
  std::map<std::string, const WeightStore::Unreadable*, std::less<>> unreadable;
  for (const auto& [shard_name, shard] : shards) {
    for (const auto& [tensor, entry] : shard.entries()) {
      const auto [place, is_new] = found.try_emplace(tensor, &entry);
      if (is_new) continue;
      const auto named = shard_of.find(tensor);
      const bool decides =
          named != shard_of.end() && shards.find(named->second)->second.contains(tensor);
      if (named != shard_of.end() && named->second == shard_name) {
        place->second = &entry;
      } else if (!decides && !same_tensor(entry.tensor, place->second->tensor)) {
        return fail(tensor, "one tensor of that name",
                    fmt::format("different ones in {} and {}", place->second->file, entry.file));
      }
    }
    for (const auto& [tensor, other] : shard.unreadable()) unreadable.try_emplace(tensor, &other);
  }
  for (const auto& [tensor, other] : unreadable) {
    if (!found.contains(tensor)) store.add_unreadable(tensor, *other);
  }
  for (const auto& [tensor, entry] : found) {
    store.add(tensor, entry->tensor, nullptr, entry->file);
  }
  for (auto& [shard_name, shard] : shards) {
    for (const auto& owner : shard.owners()) store.keep(owner);
    for (auto& [key, value] : shard.metadata) store.metadata.insert_or_assign(key, value);
  }
  return {};
}

}  // namespace

Result<void> read_weights_index(const WeightsIndex& index, ReadShard read_shard, WeightsMode mode,
                                WeightStore& store, Progress progress) {
  return printable(read_index(index, read_shard, mode, store, progress));
}

}  // namespace v0_1
}  // namespace krait
