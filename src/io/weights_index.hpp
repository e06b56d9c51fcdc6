#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/core/flow.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// The index of weights in several files: {"weight_map": {TENSOR: FILE}}.
struct WeightsIndex {
  std::string_view area;  ///< for messages: "safetensors"
  std::string_view name;  ///< of the file
  const std::string& json;
  const std::string& directory;  ///< that it is in, with the others
};

/// Adds the tensors of one of them.
using ReadShard = Result<void> (*)(std::shared_ptr<const FileBytes>, WeightStore&);

/// Adds the tensors of all files that an index names. What the files hold counts, whatever the
/// index says of it; on a failure nothing is added. Errors: those of reading; bad_format (no such
/// map, names that lead elsewhere, different tensors of one name).
Result<void> read_weights_index(const WeightsIndex& index, ReadShard read_shard, WeightsMode mode,
                                WeightStore& store, Progress progress);

}  // namespace v0_1
}  // namespace krait
