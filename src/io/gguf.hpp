#pragma once

/// \file
/// The GGUF format: a magic word, key-value pairs, a list of tensors, then their data.

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/block_format.hpp"
#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/io/mapped_file.hpp"

namespace krait {
inline namespace v0_1 {

/// How the elements of a tensor are stored: plain ones, or blocks; neither if krait does not know
/// the type of that number.
struct KRAIT_API GgufType {
  std::uint32_t number = 0;
  std::optional<DType> dtype = {};
  std::optional<BlockFormat> blocks = {};

  static GgufType of(std::uint32_t number) noexcept;
  static std::optional<GgufType> of(DType dtype) noexcept;
  static std::optional<GgufType> of(BlockFormat format) noexcept;

  /// "f32", "q4_k", "type 16".
  std::string name() const;
  /// Bytes of rows of so many elements; nothing where the type is unknown, a row is not whole
  /// blocks or the number does not fit.
  std::optional<Index> bytes(std::span<const Index> extents) const noexcept;
};

struct GgufTensor {
  std::string name;
  GgufType type;
  std::vector<Index> extents;       ///< outermost first: the file has them the other way around
  const std::byte* data = nullptr;  ///< in `file`
  Index bytes = 0;                  ///< 0 where the type is unknown
  std::shared_ptr<const FileBytes> file = {};

  /// "q4_k [256,768]", for messages.
  std::string describe() const;
};

struct GgufFile {
  Metadata metadata;  ///< an object; arrays are lists
  std::vector<GgufTensor> tensors;
  std::shared_ptr<const FileBytes> file;
};

/// Reads versions 2 and 3, little-endian. Every count, length, type and offset is checked before it
/// is used; keys and names are distinct, tensors do not overlap. Refused, beside what is broken:
/// arrays of arrays, more values or longer strings than any vocabulary has. No tensor is read.
Result<GgufFile> read_gguf(std::shared_ptr<const FileBytes> file);

/// A tensor to be written.
struct GgufOutput {
  std::string name;
  GgufType type;
  std::vector<Index> extents;  ///< outermost first
};

/// Writes a file of version 3 under a temporary name; `commit` renames it. Whole numbers are
/// written as u32, in arrays as i32, but for a tokenizer's character map as bytes; other numbers as
/// f32.
class KRAIT_API GgufWriter {
 public:
  /// `metadata` is an object. Errors: io_failed; bad_argument (a number that does not fit).
  static Result<GgufWriter> create(const std::string& path, const Metadata& metadata,
                                   const std::vector<GgufOutput>& tensors);

  /// The bytes of the next tensor, in pieces. More than it has is a breach of contract.
  Result<void> write(std::span<const std::byte> bytes);

  /// A breach of contract while bytes are missing.
  Result<void> commit();

 private:
  explicit GgufWriter(AtomicFile file) : file_(std::move(file)) {}

  AtomicFile file_;
  std::vector<Index> sizes_;
  std::size_t next_ = 0;
  Index written_ = 0;  // of tensor `next_`
};

}  // namespace v0_1
}  // namespace krait
