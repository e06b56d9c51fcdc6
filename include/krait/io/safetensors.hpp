#pragma once

/// \file
/// The safetensors format: u64 little-endian header length, a JSON header, then the tensors.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "krait/io/mapped_file.hpp"
#include "krait/io/weight_store.hpp"

namespace krait::inline v0_1 {

/// Adds every tensor of a safetensors file to `store`, pointing into `file` (copied where its
/// elements would not be aligned). Checks the header's
/// length, types, shapes, offsets (in range, sized as the shape says, not overlapping, no
/// duplicate names) before anything is added.
KRAIT_API Result<void> read_safetensors(std::shared_ptr<const FileBytes> file, WeightStore& store);

/// Adds every tensor of a sharded checkpoint, given the text of model.safetensors.index.json and
/// the folder the shards lie in. Every tensor of the index must be in the shard it names.
KRAIT_API Result<void> read_safetensors_index(const std::string& index_json,
                                              const std::string& directory, WeightsMode mode,
                                              WeightStore& store, Progress progress = {});

/// A tensor to be written.
struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// Writes a safetensors file under a temporary name in the same folder and renames it when it is
/// complete, so that `path` holds either the old file or the whole new one. The data begins at a
/// multiple of 64 bytes and has no holes, as the format demands; tensors that fill whole cache
/// lines come first, the others by the size of their elements, so that all are aligned. The same
/// input gives the same bytes. Errors: io_failed, bad_argument (a name twice, a tensor without
/// data).
KRAIT_API Result<void> write_safetensors(
    const std::string& path, const std::vector<NamedTensor>& tensors,
    const std::map<std::string, std::string, std::less<>>& metadata = {});

}  // namespace krait::inline v0_1
