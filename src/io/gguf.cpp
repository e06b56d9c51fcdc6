#include "io/gguf.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::size_t most_tensors = std::size_t{1} << 20U;
constexpr std::size_t most_pairs = std::size_t{1} << 16U;
// Of arrays and all their elements: several times what the largest vocabularies have.
constexpr std::size_t most_values = std::size_t{1} << 22U;
constexpr std::size_t most_text = std::size_t{256} << 20U;  // bytes of all strings
constexpr std::size_t longest_key = 65535;
constexpr std::size_t longest_name = 1024;
constexpr std::uint32_t most_axes = 4;
constexpr std::uint64_t largest_axis = std::uint64_t{1} << 40U;
constexpr std::uint64_t default_alignment = 32;
constexpr std::uint64_t largest_alignment = std::uint64_t{1} << 20U;
constexpr std::string_view alignment_key = "general.alignment";

constexpr std::array<std::pair<std::uint32_t, DType>, 8> plain_types = {{{0, DType::f32},
                                                                         {1, DType::f16},
                                                                         {24, DType::i8},
                                                                         {25, DType::i16},
                                                                         {26, DType::i32},
                                                                         {27, DType::i64},
                                                                         {28, DType::f64},
                                                                         {30, DType::bf16}}};

constexpr std::array<std::pair<std::uint32_t, BlockFormat>, block_formats.size()> block_types = {
    {{2, BlockFormat::q4_0},
     {3, BlockFormat::q4_1},
     {6, BlockFormat::q5_0},
     {7, BlockFormat::q5_1},
     {8, BlockFormat::q8_0},
     {10, BlockFormat::q2_k},
     {11, BlockFormat::q3_k},
     {12, BlockFormat::q4_k},
     {13, BlockFormat::q5_k},
     {14, BlockFormat::q6_k},
     {20, BlockFormat::iq4_nl},
     {23, BlockFormat::iq4_xs},
     {39, BlockFormat::mxfp4}}};

// Types of values, by their numbers in the file.
enum class ValueType : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64,
  count
};

class Reader {
 public:
  explicit Reader(const FileBytes& file) : name_(file.name()), bytes_(file.bytes()) {}

  Result<void> read(GgufFile& result) {
    KRAIT_ASSIGN_OR_RETURN(const auto counts, read_header());
    const auto [tensors, pairs] = counts;
    KRAIT_RETURN_IF_ERROR(read_pairs(pairs, result.metadata));
    KRAIT_ASSIGN_OR_RETURN(const std::uint64_t alignment, alignment_of(result.metadata));
    KRAIT_RETURN_IF_ERROR(read_tensors(tensors, result.tensors));
    return place(alignment, result.tensors);
  }

 private:
  Error fail(std::string_view what, std::string_view expected, std::string_view found) const {
    return {ErrorCode::bad_format, fmt::format("[gguf] {}: expected {}, found {} ({})",
                                               printable(what), expected, found, name_)};
  }

  Error truncated(std::string_view what, std::uint64_t needed) const {
    return fail(what, fmt::format("{} more bytes at byte {}", needed, at_),
                fmt::to_string(bytes_.size() - at_));
  }

  // Numbers are little-endian, as are the machines that krait runs on.
  template <class T>
  Result<T> take(std::string_view what) {
    if (bytes_.size() - at_ < sizeof(T)) return truncated(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  Result<std::string> take_string(std::string_view what, std::size_t longest) {
    KRAIT_ASSIGN_OR_RETURN(const std::uint64_t length, take<std::uint64_t>(what));
    if (length > longest) {
      return fail(what, fmt::format("at most {} bytes of text", longest), fmt::to_string(length));
    }
    if (bytes_.size() - at_ < length) return truncated(what, length);
    const auto* text = reinterpret_cast<const char*>(bytes_.data() + at_);
    at_ += static_cast<std::size_t>(length);
    return std::string(text, static_cast<std::size_t>(length));
  }

  Result<std::pair<std::uint64_t, std::uint64_t>> read_header() {
    constexpr std::string_view magic = "GGUF";
    if (bytes_.size() < magic.size() ||
        std::memcmp(bytes_.data(), magic.data(), magic.size()) != 0) {
      return fail("file", "the letters GGUF at its beginning", "something else");
    }
    at_ = magic.size();
    KRAIT_ASSIGN_OR_RETURN(const auto version, take<std::uint32_t>("version"));
    if (version != 2 && version != 3) {
      const bool is_swapped = version != 0 && (version & 0xFFFFU) == 0;
      return Error{ErrorCode::unsupported,
                   fmt::format("[gguf] version: expected 2 or 3, found {} ({})",
                               is_swapped ? "a big-endian file" : fmt::to_string(version), name_)};
    }
    KRAIT_ASSIGN_OR_RETURN(const auto tensors, take<std::uint64_t>("number of tensors"));
    KRAIT_ASSIGN_OR_RETURN(const auto pairs, take<std::uint64_t>("number of keys"));
    if (tensors > most_tensors) {
      return fail("number of tensors", fmt::format("at most {}", most_tensors),
                  fmt::to_string(tensors));
    }
    if (pairs > most_pairs) {
      return fail("number of keys", fmt::format("at most {}", most_pairs), fmt::to_string(pairs));
    }
    return std::pair(tensors, pairs);
  }

  Result<void> read_pairs(std::uint64_t count, Metadata& metadata) {
    Metadata::Object members;
    std::set<std::string, std::less<>> keys;
    for (std::uint64_t i = 0; i < count; ++i) {
      KRAIT_ASSIGN_OR_RETURN(std::string key, take_string("key", longest_key));
      if (key.empty()) return fail(fmt::format("key {}", i), "a name", "none");
      if (!keys.insert(key).second) return fail(key, "every key once", "it twice");
      KRAIT_ASSIGN_OR_RETURN(const auto type, take<std::uint32_t>(key));
      KRAIT_ASSIGN_OR_RETURN(Metadata value, static_cast<ValueType>(type) == ValueType::array
                                                 ? take_array(key)
                                                 : take_value(key, type));
      members.push_back({std::move(key), std::move(value)});
    }
    metadata = Metadata(std::move(members));
    return {};
  }

  Result<Metadata> take_array(std::string_view key) {
    KRAIT_ASSIGN_OR_RETURN(const auto type, take<std::uint32_t>(key));
    KRAIT_ASSIGN_OR_RETURN(const auto count, take<std::uint64_t>(key));
    if (static_cast<ValueType>(type) == ValueType::array) {
      return fail(key, "an array of single values", "one of arrays");
    }
    if (count > most_values - values_) {
      return fail(key, fmt::format("at most {} values in all arrays", most_values),
                  fmt::to_string(count));
    }
    values_ += static_cast<std::size_t>(count);
    // Every value takes a byte at least, so that a small file cannot ask for much.
    if (count > bytes_.size() - at_) return truncated(key, count);
    Metadata::Array values;
    values.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) {
      KRAIT_ASSIGN_OR_RETURN(Metadata value, take_value(key, type));
      values.push_back(std::move(value));
    }
    return Metadata(std::move(values));
  }

  template <class T>
  Result<Metadata> take_number(std::string_view key) {
    KRAIT_ASSIGN_OR_RETURN(const T value, take<T>(key));
    return Metadata(value);
  }

  Result<Metadata> take_value(std::string_view key, std::uint32_t type) {
    switch (static_cast<ValueType>(type)) {
      case ValueType::u8:
        return take_number<std::uint8_t>(key);
      case ValueType::i8:
        return take_number<std::int8_t>(key);
      case ValueType::u16:
        return take_number<std::uint16_t>(key);
      case ValueType::i16:
        return take_number<std::int16_t>(key);
      case ValueType::u32:
        return take_number<std::uint32_t>(key);
      case ValueType::i32:
        return take_number<std::int32_t>(key);
      case ValueType::u64:
        return take_number<std::uint64_t>(key);
      case ValueType::i64:
        return take_number<std::int64_t>(key);
      case ValueType::f64:
        return take_number<double>(key);
      case ValueType::f32: {
        KRAIT_ASSIGN_OR_RETURN(const float value, take<float>(key));
        return Metadata(static_cast<double>(value));
      }
      case ValueType::boolean: {
        KRAIT_ASSIGN_OR_RETURN(const auto value, take<std::uint8_t>(key));
        if (value > 1) return fail(key, "0 or 1 for false or true", fmt::to_string(value));
        return Metadata(value == 1);
      }
      case ValueType::string: {
        KRAIT_ASSIGN_OR_RETURN(std::string text, take_string(key, most_text - text_));
        text_ += text.size();
        return Metadata(std::move(text));
      }
      default:
        return fail(
            key,
            fmt::format("a type of value below {}", static_cast<std::uint32_t>(ValueType::count)),
            fmt::to_string(type));
    }
  }

  Result<std::uint64_t> alignment_of(const Metadata& metadata) const {
    const Metadata& value = metadata[alignment_key];
    if (value.is_null()) return default_alignment;
    const auto alignment = value.whole().value_or(0);
    if (!std::has_single_bit(alignment) || alignment < 8 || alignment > largest_alignment) {
      return fail(alignment_key, fmt::format("a power of two from 8 to {}", largest_alignment),
                  value.whole() ? fmt::to_string(alignment) : "something else");
    }
    return alignment;
  }

  Result<void> read_tensors(std::uint64_t count, std::vector<GgufTensor>& tensors) {
    std::set<std::string, std::less<>> names;
    for (std::uint64_t i = 0; i < count; ++i) {
      GgufTensor tensor;
      KRAIT_ASSIGN_OR_RETURN(tensor.name, take_string("name of a tensor", longest_name));
      if (tensor.name.empty()) return fail(fmt::format("tensor {}", i), "a name", "none");
      if (!names.insert(tensor.name).second) {
        return fail(tensor.name, "every tensor once", "it twice");
      }
      KRAIT_RETURN_IF_ERROR(read_extents(tensor));
      KRAIT_ASSIGN_OR_RETURN(const auto type, take<std::uint32_t>(tensor.name));
      tensor.type = GgufType::of(type);
      KRAIT_ASSIGN_OR_RETURN(const auto offset, take<std::uint64_t>(tensor.name));
      offsets_.push_back(offset);
      if (tensor.type.dtype || tensor.type.blocks) {
        const auto bytes = tensor.type.bytes(tensor.extents);
        if (!bytes) {
          return fail(tensor.name, "rows of whole blocks that fit in memory", tensor.describe());
        }
        tensor.bytes = *bytes;
      }
      tensors.push_back(std::move(tensor));
    }
    return {};
  }

  Result<void> read_extents(GgufTensor& tensor) {
    KRAIT_ASSIGN_OR_RETURN(const auto axes, take<std::uint32_t>(tensor.name));
    if (axes > most_axes) {
      return fail(tensor.name, fmt::format("at most {} axes", most_axes), fmt::to_string(axes));
    }
    for (std::uint32_t axis = 0; axis < axes; ++axis) {
      KRAIT_ASSIGN_OR_RETURN(const auto extent, take<std::uint64_t>(tensor.name));
      if (extent == 0 || extent > largest_axis) {
        return fail(tensor.name, fmt::format("extents from 1 to {}", largest_axis),
                    fmt::to_string(extent));
      }
      tensor.extents.insert(tensor.extents.begin(), static_cast<Index>(extent));
    }
    return {};
  }

  // Finds the tensors' data. No two share bytes, so that no small file stands for a large model.
  Result<void> place(std::uint64_t alignment, std::vector<GgufTensor>& tensors) {
    const std::uint64_t begin = (at_ + alignment - 1) / alignment * alignment;
    const std::uint64_t size = begin <= bytes_.size() ? bytes_.size() - begin : 0;
    std::vector<std::pair<std::uint64_t, std::size_t>> places;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      GgufTensor& tensor = tensors[i];
      const std::uint64_t offset = offsets_[i];
      if (offset % alignment != 0) {
        return fail(tensor.name, fmt::format("an offset that is a multiple of {}", alignment),
                    fmt::to_string(offset));
      }
      const auto bytes = static_cast<std::uint64_t>(tensor.bytes);
      if (offset > size || bytes > size - offset) {
        return fail(tensor.name, fmt::format("{} bytes within {} of data", bytes, size),
                    fmt::format("an offset of {}", offset));
      }
      tensor.data = bytes_.data() + begin + offset;
      places.emplace_back(offset, i);
    }
    std::sort(places.begin(), places.end());
    for (std::size_t i = 1; i < places.size(); ++i) {
      const GgufTensor& before = tensors[places[i - 1].second];
      if (places[i - 1].first + static_cast<std::uint64_t>(before.bytes) > places[i].first) {
        return fail(tensors[places[i].second].name, "bytes of its own",
                    fmt::format("those of {} too", printable(before.name)));
      }
    }
    return {};
  }

  std::string name_;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  std::size_t values_ = 0;  // in arrays so far
  std::size_t text_ = 0;    // bytes of strings so far
  std::vector<std::uint64_t> offsets_;
};

Result<GgufFile> read_file(std::shared_ptr<const FileBytes> file) {
  GgufFile result;
  KRAIT_RETURN_IF_ERROR(Reader(*file).read(result));
  for (GgufTensor& tensor : result.tensors) tensor.file = file;
  result.file = std::move(file);
  return result;
}

// ---- writing

class Header {
 public:
  template <class T>
  void put(T value) {
    const auto* bytes = reinterpret_cast<const char*>(&value);
    text_.append(bytes, sizeof(T));
  }

  void put(std::string_view text) {
    put(static_cast<std::uint64_t>(text.size()));
    text_ += text;
  }

  // False for a value that the format cannot hold.
  bool put_pair(const Metadata::Member& member) {
    put(std::string_view(member.key));
    if (const Metadata::Array* values = member.value.array()) {
      put(ValueType::array);
      const ValueType type = is_of_bytes(member.key) ? ValueType::u8
                             : values->empty()       ? ValueType::u32
                                                     : type_of((*values)[0], true);
      put(type);
      put(static_cast<std::uint64_t>(values->size()));
      return std::all_of(values->begin(), values->end(), [&](const Metadata& value) {
        return (type_of(value, true) == type || type == ValueType::u8) && put_value(value, type);
      });
    }
    const ValueType type = type_of(member.value, false);
    put(type);
    return put_value(member.value, type);
  }

  const std::string& text() const noexcept { return text_; }
  void pad(std::size_t alignment) {
    text_.resize((text_.size() + alignment - 1) / alignment * alignment, '\0');
  }

 private:
  // The one list that readers expect as bytes.
  static bool is_of_bytes(std::string_view key) {
    return key == "tokenizer.ggml.precompiled_charsmap";
  }

  static ValueType type_of(const Metadata& value, bool in_array) {
    if (value.text() != nullptr) return ValueType::string;
    if (value.boolean()) return ValueType::boolean;
    if (value.integer()) return in_array ? ValueType::i32 : ValueType::u32;
    return value.number() ? ValueType::f32 : ValueType::count;
  }

  bool put_value(const Metadata& value, ValueType type) {
    if (type == ValueType::string) {
      put(std::string_view(*value.text()));
    } else if (type == ValueType::boolean) {
      put(static_cast<std::uint8_t>(*value.boolean() ? 1 : 0));
    } else if (type == ValueType::f32) {
      put(static_cast<float>(*value.number()));
    } else if (type == ValueType::u8 && value.integer() &&
               std::in_range<std::uint8_t>(*value.integer())) {
      put(static_cast<std::uint8_t>(*value.integer()));
    } else if (type == ValueType::i32 && std::in_range<std::int32_t>(*value.integer())) {
      put(static_cast<std::int32_t>(*value.integer()));
    } else if (type == ValueType::u32 && std::in_range<std::uint32_t>(*value.integer())) {
      put(static_cast<std::uint32_t>(*value.integer()));
    } else {
      return false;
    }
    return true;
  }

  std::string text_ = "GGUF";
};

}  // namespace

GgufType GgufType::of(std::uint32_t number) noexcept {
  GgufType type{.number = number};
  for (const auto& [known, dtype] : plain_types) {
    if (known == number) type.dtype = dtype;
  }
  for (const auto& [known, format] : block_types) {
    if (known == number) type.blocks = format;
  }
  return type;
}

std::optional<GgufType> GgufType::of(DType dtype) noexcept {
  for (const auto& [number, known] : plain_types) {
    if (known == dtype) return GgufType{.number = number, .dtype = dtype};
  }
  return std::nullopt;
}

std::optional<GgufType> GgufType::of(BlockFormat format) noexcept {
  for (const auto& [number, known] : block_types) {
    if (known == format) return GgufType{.number = number, .blocks = format};
  }
  return std::nullopt;
}

std::string GgufType::name() const {
  if (dtype) return std::string(to_string(*dtype));
  if (blocks) return std::string(info_of(*blocks).name);
  return fmt::format("type {}", number);
}

std::optional<Index> GgufType::bytes(std::span<const Index> extents) const noexcept {
  constexpr Index most = std::numeric_limits<Index>::max();
  Index elements = blocks ? info_of(*blocks).elements : 1;
  const Index row = extents.empty() ? 1 : extents.back();
  if ((!dtype && !blocks) || row % elements != 0) return std::nullopt;
  Index total = blocks ? info_of(*blocks).bytes : bytes_of(*dtype);
  total *= row / elements;  // at most 2^40 times 210
  for (std::size_t i = 0; i + 1 < extents.size(); ++i) {
    if (total > most / extents[i]) return std::nullopt;
    total *= extents[i];
  }
  return total;
}

std::string GgufTensor::describe() const {
  return fmt::format("{} [{}]", type.name(), fmt::join(extents, ","));
}

Result<GgufFile> read_gguf(std::shared_ptr<const FileBytes> file) {
  return printable(read_file(std::move(file)));
}

Result<GgufWriter> GgufWriter::create(const std::string& path, const Metadata& metadata,
                                      const std::vector<GgufOutput>& tensors) {
  const auto refuse = [&](std::string_view what, std::string_view expected) {
    return printable(
        Error{ErrorCode::bad_argument,
              fmt::format("[gguf] {}: expected {}, found another ({})", what, expected, path)});
  };
  Header header;
  header.put(std::uint32_t{3});
  header.put(static_cast<std::uint64_t>(tensors.size()));
  header.put(static_cast<std::uint64_t>(metadata.size()));
  for (const Metadata::Member& member : *metadata.object()) {
    if (!header.put_pair(member)) return refuse(member.key, "a value that GGUF can hold");
  }
  std::vector<Index> sizes;
  std::uint64_t offset = 0;
  for (const GgufOutput& tensor : tensors) {
    const auto bytes = tensor.type.bytes(tensor.extents);
    if (!bytes || tensor.extents.size() > most_axes) {
      return refuse(tensor.name, "a tensor of at most 4 axes and a type of the format");
    }
    header.put(std::string_view(tensor.name));
    header.put(static_cast<std::uint32_t>(tensor.extents.size()));
    for (std::size_t axis = tensor.extents.size(); axis-- > 0;) {
      header.put(static_cast<std::uint64_t>(tensor.extents[axis]));
    }
    header.put(tensor.type.number);
    header.put(offset);
    sizes.push_back(*bytes);
    offset += (static_cast<std::uint64_t>(*bytes) + default_alignment - 1) / default_alignment *
              default_alignment;
  }
  header.pad(default_alignment);
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  KRAIT_RETURN_IF_ERROR(file.write(header.text()));
  GgufWriter writer(std::move(file));
  writer.sizes_ = std::move(sizes);
  return writer;
}

Result<void> GgufWriter::write(std::span<const std::byte> bytes) {
  const auto count = static_cast<Index>(bytes.size());
  check_contract(next_ < sizes_.size() && count <= sizes_[next_] - written_,
                 "[gguf] write: expected bytes within the tensor");
  KRAIT_RETURN_IF_ERROR(file_.write(bytes));
  written_ += count;
  if (written_ < sizes_[next_]) return {};
  const std::string padding(
      (default_alignment - static_cast<std::uint64_t>(written_) % default_alignment) %
          default_alignment,
      '\0');
  written_ = 0;
  ++next_;
  return file_.write(padding);
}

Result<void> GgufWriter::commit() {
  check_contract(next_ == sizes_.size(), "[gguf] commit: expected every byte of the tensors");
  return file_.commit();
}

}  // namespace v0_1
}  // namespace krait
