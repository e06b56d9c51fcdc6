#pragma once

/// \file
/// The safetensors format: u64 little-endian header length, a JSON header, then the tensors.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "krait/io/atomic_file.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// Adds every tensor of a safetensors file to `store`, pointing into `file` (copied where its
/// elements would not be aligned). Checks the header's length, shapes, offsets (in range, sized as
/// type and shape say, not overlapping, no duplicate names) before anything is added. Tensors of
/// types that krait lacks, or of more than 8 axes, are noted as unreadable.
KRAIT_API Result<void> read_safetensors(std::shared_ptr<const FileBytes> file, WeightStore& store);

/// Adds every tensor of a sharded checkpoint, given the text of model.safetensors.index.json and
/// the folder the shards lie in. Every shard that the index names must be there; which tensors they
/// hold is read from them, whatever the index says. Of tensors in two shards the one is taken that
/// the index means; where it means neither, they must be the same.
KRAIT_API Result<void> read_safetensors_index(const std::string& index_json,
                                              const std::string& directory, WeightsMode mode,
                                              WeightStore& store, Progress progress = {});

/// A tensor to be written.
struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// Writes a safetensors file piece by piece, for tensors that are made while it is written: the
/// header needs their types and shapes only. The file has a temporary name in the same folder and
/// is renamed when it is complete, so that `path` holds either the old file or the whole new one.
/// The data begins at a multiple of 64 bytes and has no holes, as the format demands; tensors that
/// fill whole cache lines come first, the others by the size of their elements, so that all are
/// aligned. The same input gives the same bytes.
class KRAIT_API SafetensorsWriter {
 public:
  /// Begins a file with these tensors; their data is not looked at. Errors: io_failed, bad_argument
  /// (a name twice).
  static Result<SafetensorsWriter> create(
      const std::string& path, const std::vector<NamedTensor>& tensors,
      const std::map<std::string, std::string, std::less<>>& metadata = {});

  /// Writes bytes of tensor `i` of the list, from its byte `offset` on. Every byte is written once,
  /// in any order; devices and pipes take the order of the file only. Bytes beyond the tensor are a
  /// breach of contract.
  Result<void> write(std::size_t i, Index offset, std::span<const std::byte> bytes);

  /// The tensors in the order of the file.
  const std::vector<std::size_t>& order() const noexcept { return order_; }

  /// Completes the file. A breach of contract while bytes are missing.
  Result<void> commit();

 private:
  explicit SafetensorsWriter(AtomicFile file) : file_(std::move(file)) {}

  AtomicFile file_;
  std::vector<std::size_t> order_;
  std::vector<Index> begins_;  // of each tensor, in the file
  std::vector<Index> sizes_;
  Index position_ = 0;  // where the file goes on
  Index missing_ = 0;   // bytes yet to come
};

/// Writes a whole safetensors file. Errors as SafetensorsWriter; bad_argument also for a tensor
/// without data.
KRAIT_API Result<void> write_safetensors(
    const std::string& path, const std::vector<NamedTensor>& tensors,
    const std::map<std::string, std::string, std::less<>>& metadata = {});

}  // namespace v0_1
}  // namespace krait
