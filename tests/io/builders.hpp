#pragma once

/// \file
/// Builders of checkpoint files, right and wrong ones, byte by byte.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/io/mapped_file.hpp"

namespace krait::test {

using namespace std::string_literals;

/// `size` bytes of a number, little-endian.
inline std::string little(std::uint64_t value, std::size_t size) {
  std::string bytes;
  for (std::size_t i = 0; i < size; ++i) {
    bytes += static_cast<char>(i < 8 ? (value >> (8 * i)) & 0xFFU : 0);
  }
  return bytes;
}

/// A safetensors file of that header and data.
inline std::string safetensors(const std::string& header, const std::string& data = {}) {
  return little(header.size(), 8) + header + data;
}

/// The pieces of a GGUF file: strings, a key with its value, a tensor's entry, and all together.
inline std::string gguf_string(const std::string& text) { return little(text.size(), 8) + text; }

inline std::string gguf_pair(const std::string& key, unsigned type, const std::string& value) {
  return gguf_string(key) + little(type, 4) + value;
}
inline std::string gguf_number(const std::string& key, std::uint64_t value) {
  return gguf_pair(key, 4, little(value, 4));
}
inline std::string gguf_text(const std::string& key, const std::string& value) {
  return gguf_pair(key, 8, gguf_string(value));
}

/// Extents are innermost first, as in the file.
inline std::string gguf_tensor(const std::string& name, const std::vector<std::uint64_t>& extents,
                               unsigned type, std::uint64_t offset) {
  std::string entry = gguf_string(name) + little(extents.size(), 4);
  for (const std::uint64_t extent : extents) entry += little(extent, 8);
  return entry + little(type, 4) + little(offset, 8);
}

inline std::string gguf(const std::vector<std::string>& pairs,
                        const std::vector<std::string>& tensors = {}, const std::string& data = {},
                        std::size_t alignment = 32) {
  std::string file = "GGUF" + little(3, 4) + little(tensors.size(), 8) + little(pairs.size(), 8);
  for (const std::string& pair : pairs) file += pair;
  for (const std::string& tensor : tensors) file += tensor;
  if (tensors.empty() && data.empty()) return file;
  file.resize((file.size() + alignment - 1) / alignment * alignment);
  return file + data;
}

/// Bytes with shared ownership, as a file. The address is a multiple of 64 plus `shift`.
class OwnedBytes final : public FileBytes {
 public:
  OwnedBytes(std::string_view bytes, std::string name, std::size_t shift = 0)
      : FileBytes({}, std::move(name)), block_(bytes.size() + 64 + shift) {
    const auto start = reinterpret_cast<std::uintptr_t>(block_.data());
    std::byte* data = block_.data() + (64 - start % 64) % 64 + shift;
    for (std::size_t i = 0; i < bytes.size(); ++i) data[i] = static_cast<std::byte>(bytes[i]);
    bytes_ = {data, bytes.size()};
  }

 private:
  std::vector<std::byte> block_;
};

inline std::shared_ptr<const FileBytes> file_of(std::string_view bytes,
                                                std::string name = "test.bin",
                                                std::size_t shift = 0) {
  return std::make_shared<OwnedBytes>(bytes, std::move(name), shift);
}

/// Writes operations of the pickle protocol.
class PickleBuilder {
 public:
  PickleBuilder& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  PickleBuilder& global(std::string_view module, std::string_view name) {
    return raw("c").raw(module).raw("\n").raw(name).raw("\n");
  }
  PickleBuilder& text(std::string_view value) {
    return raw("X").raw(little(value.size(), 4)).raw(value);
  }
  PickleBuilder& number(std::int64_t value) { return raw("\x8a\x08").raw(bits(value)); }
  /// A tuple of numbers, by MARK and TUPLE.
  PickleBuilder& numbers(const std::vector<std::int64_t>& values) {
    raw("(");
    for (const std::int64_t value : values) number(value);
    return raw("t");
  }
  /// A tensor as torch writes it.
  PickleBuilder& tensor(const std::string& type, const std::string& key, std::int64_t count,
                        std::int64_t offset, const std::vector<std::int64_t>& shape,
                        const std::vector<std::int64_t>& strides) {
    global("torch._utils", "_rebuild_tensor_v2").raw("((");
    text("storage").global("torch", type).text(key).text("cpu").number(count).raw("tQ");
    number(offset).numbers(shape).numbers(strides).raw("\x89");
    return global("collections", "OrderedDict").raw(")RtR");
  }
  const std::string& bytes() const { return bytes_; }

 private:
  static std::string bits(std::int64_t value) {
    return little(static_cast<std::uint64_t>(value), 8);
  }
  std::string bytes_;
};

/// One entry of an archive.
struct ZipEntry {
  std::string name;
  std::string data;
  std::uint64_t method = 0;
  std::uint64_t flags = 0;
};

/// What of an archive's directory is to be wrong.
struct ZipLies {
  std::uint64_t extra_count = 0;
  std::uint64_t extra_size = 0;    ///< added to every entry's size
  std::uint64_t extra_offset = 0;  ///< added to every entry's offset
  std::uint64_t extra_directory = 0;
  bool is_zip64 = false;
};

/// A ZIP archive whose entries begin at multiples of 64 bytes, as torch.save makes them.
inline std::string zip(const std::vector<ZipEntry>& entries, const ZipLies& lies = {}) {
  std::string bytes;
  std::string directory;
  for (const ZipEntry& entry : entries) {
    const std::size_t offset = bytes.size();
    const std::size_t end = offset + 30 + entry.name.size() + 4;
    const std::size_t padding = (64 - end % 64) % 64;
    const std::uint64_t size = entry.data.size() + lies.extra_size;
    bytes += "PK\x03\x04" + little(0, 2) + little(entry.flags, 2) + little(entry.method, 2) +
             little(0, 8) + little(size, 4) + little(size, 4) + little(entry.name.size(), 2) +
             little(padding + 4, 2) + entry.name + "FB" + little(padding, 2) +
             std::string(padding, 'Z') + entry.data;
    const std::uint64_t place = offset + lies.extra_offset;
    const std::string wide =
        little(1, 2) + little(24, 2) + little(size, 8) + little(size, 8) + little(place, 8);
    directory += "PK\x01\x02" + little(0, 4) + little(entry.flags, 2) + little(entry.method, 2) +
                 little(0, 8);
    directory += lies.is_zip64 ? std::string(8, '\xff') : little(size, 4) + little(size, 4);
    directory += little(entry.name.size(), 2) + little(lies.is_zip64 ? wide.size() : 0, 2) +
                 little(0, 10) + (lies.is_zip64 ? std::string(4, '\xff') : little(place, 4)) +
                 entry.name + (lies.is_zip64 ? wide : "");
  }
  const std::size_t start = bytes.size();
  const std::uint64_t count = entries.size() + lies.extra_count;
  const std::uint64_t place = start + lies.extra_directory;
  bytes += directory;
  if (lies.is_zip64) {
    const std::size_t record = bytes.size();
    bytes += "PK\x06\x06" + little(44, 8) + little(0, 12) + little(count, 8) + little(count, 8) +
             little(directory.size(), 8) + little(place, 8);
    bytes += "PK\x06\x07" + little(0, 4) + little(record, 8) + little(1, 4);
    return bytes + "PK\x05\x06" + little(0, 4) + std::string(12, '\xff') + little(0, 2);
  }
  return bytes + "PK\x05\x06" + little(0, 4) + little(count, 2) + little(count, 2) +
         little(directory.size(), 4) + little(place, 4) + little(0, 2);
}

/// A torch.save archive with that pickle and storages "0", "1", ….
inline std::string torch_archive(const std::string& pickle,
                                 const std::vector<std::string>& storages = {},
                                 const std::string& byteorder = "little",
                                 const ZipLies& lies = {}) {
  std::vector<ZipEntry> entries = {{"model/data.pkl", pickle}, {"model/byteorder", byteorder}};
  for (std::size_t i = 0; i < storages.size(); ++i) {
    entries.push_back({"model/data/" + std::to_string(i), storages[i]});
  }
  entries.push_back({"model/version", "3\n"});
  return zip(entries, lies);
}

/// The bytes of an array.
template <class T>
std::string bytes_of_array(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// A file with two tensors of f32 and one of i64 that share storages "0" and "1".
inline std::string small_bin() {
  PickleBuilder pickle;
  pickle.raw("\x80\x02").global("collections", "OrderedDict").raw(")Rq").raw("\0("s);
  pickle.text("a").tensor("FloatStorage", "0", 6, 0, {2, 3}, {3, 1});
  pickle.text("t").tensor("FloatStorage", "0", 6, 0, {3, 2}, {1, 3});
  pickle.text("n").tensor("LongStorage", "1", 2, 1, {}, {});
  pickle.raw("u}").text("_metadata").raw("}sb.");
  return torch_archive(pickle.bytes(), {bytes_of_array<float>({1, 2, 3, 4, 5, 6}),
                                        bytes_of_array<std::int64_t>({7, 8})});
}

/// A file with tensors "a" (f32, [2,3]) and "b" (u8, [5]).
inline std::string small_safetensors() {
  return safetensors(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"U8","shape":[5],"data_offsets":[24,29]}})",
      bytes_of_array<float>({1, 2, 3, 4, 5, 6}) + "hello");
}

}  // namespace krait::test
