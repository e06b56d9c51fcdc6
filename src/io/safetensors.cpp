#include "krait/io/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "io/json.hpp"
#include "io/place_tensor.hpp"
#include "io/weights_index.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view metadata_name = "__metadata__";
constexpr std::size_t length_bytes = 8;
// The limit of the format's reference reader.
constexpr std::uint64_t largest_header = 100'000'000;
// Longer shapes are not worth keeping for a message.
constexpr std::size_t largest_list = 64;

constexpr std::array<std::pair<std::string_view, DType>, 10> dtypes = {{{"F32", DType::f32},
                                                                        {"F16", DType::f16},
                                                                        {"BF16", DType::bf16},
                                                                        {"F64", DType::f64},
                                                                        {"I64", DType::i64},
                                                                        {"I32", DType::i32},
                                                                        {"I16", DType::i16},
                                                                        {"I8", DType::i8},
                                                                        {"U8", DType::u8},
                                                                        {"BOOL", DType::boolean}}};

// Types of the format that krait does not compute with, and their bits. Tensors of them take part
// in the checks of the file; a model that needs one is refused.
constexpr std::array<std::pair<std::string_view, Index>, 12> other_dtypes = {{{"U16", 16},
                                                                              {"U32", 32},
                                                                              {"U64", 64},
                                                                              {"C64", 64},
                                                                              {"F8_E4M3", 8},
                                                                              {"F8_E5M2", 8},
                                                                              {"F8_E8M0", 8},
                                                                              {"F8_E4M3FNUZ", 8},
                                                                              {"F8_E5M2FNUZ", 8},
                                                                              {"F6_E2M3", 6},
                                                                              {"F6_E3M2", 6},
                                                                              {"F4", 4}}};

struct HeaderType {
  std::optional<DType> dtype;  // if krait has it
  std::optional<Index> bits;   // of an element, if the format's type is known
};

HeaderType find_type(std::string_view name) {
  for (const auto& [known, dtype] : dtypes) {
    if (known == name) return {dtype, 8 * bytes_of(dtype)};
  }
  for (const auto& [known, bits] : other_dtypes) {
    if (known == name) return {std::nullopt, bits};
  }
  return {};
}

// Bytes of that many elements; none if they overflow or end within a byte.
std::optional<Index> bytes_of_elements(std::span<const Index> extents, Index bits) {
  std::optional<Index> count = 1;
  for (const Index extent : extents) {
    if (count) count = checked_product(*count, extent);
  }
  if (count && bits % 8 == 0) return checked_product(*count, bits / 8);
  if (count) count = checked_product(*count, bits);
  return count && *count % 8 == 0 ? std::optional(*count / 8) : std::nullopt;
}

class HeaderReader {
 public:
  HeaderReader(const FileBytes& file) : file_(file) {}

  Result<void> read() {
    const auto bytes = file_.bytes();
    if (bytes.size() < length_bytes) {
      return fail("length", "at least 8 bytes", fmt::to_string(bytes.size()));
    }
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < length_bytes; ++i) {
      length |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
    }
    if (length > largest_header || length > bytes.size() - length_bytes) {
      const auto most = std::min<std::uint64_t>(largest_header, bytes.size() - length_bytes);
      return fail("header",
                  fmt::format("a safetensors file, which begins with the length of its header, "
                              "at most {} bytes here",
                              most),
                  fmt::format("{} bytes", length));
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + length_bytes,
                                static_cast<std::size_t>(length));
    if (!text.starts_with('{'))
      return fail("header", "'{'", fmt::format("'{}'", printable(text.substr(0, 1))));
    KRAIT_ASSIGN_OR_RETURN(const Metadata header, parse_json(text, file_.name(), JsonWords::none));
    if (header.object() == nullptr) return fail("header", "an object", "something else");
    data_ = bytes.subspan(length_bytes + static_cast<std::size_t>(length));
    for (const auto& [name, value] : *header.object()) {
      KRAIT_RETURN_IF_ERROR(name == metadata_name ? read_metadata(value)
                                                  : read_tensor(name, value));
    }
    return check_coverage();
  }

  struct Tensor {
    std::string name;
    std::optional<TensorView> view;  // unless krait cannot hold it
    std::string what;                // for messages: type and shape
    Index begin;
    Index end;
  };
  std::vector<Tensor>& tensors() { return tensors_; }
  std::map<std::string, std::string, std::less<>>& metadata() { return metadata_; }

 private:
  Error fail(std::string_view what, std::string_view expected, std::string_view found) const {
    return {ErrorCode::bad_format, fmt::format("[safetensors] {}: expected {}, found {} ({})",
                                               printable(what), expected, found, file_.name())};
  }

  Result<void> read_metadata(const Metadata& value) {
    if (value.object() == nullptr) return fail("__metadata__", "an object", "something else");
    for (const auto& [key, text] : *value.object()) {
      if (text.text() == nullptr) return fail("__metadata__", "strings", "something else");
      metadata_[key] = *text.text();
    }
    return {};
  }

  // A list of whole numbers that fit an Index.
  static bool read_numbers(const Metadata& list, std::vector<Index>& numbers) {
    if (list.array() == nullptr || list.size() > largest_list) return false;
    for (const Metadata& number : *list.array()) {
      const auto value = number.integer();
      if (!value || *value < 0) return false;
      numbers.push_back(*value);
    }
    return true;
  }

  Result<void> read_tensor(const std::string& name, const Metadata& value) {
    if (value.object() == nullptr) return fail(name, "an object", "something else");
    if (value["dtype"].text() == nullptr) return fail(name, "a dtype", "none");
    const std::string& dtype_name = *value["dtype"].text();
    const HeaderType type = find_type(dtype_name);
    std::vector<Index> extents;
    std::vector<Index> offsets;
    if (!read_numbers(value["shape"], extents)) {
      return fail(name, "a shape of whole numbers", "something else");
    }
    const std::string what =
        fmt::format("{} [{}]", printable(dtype_name, 40), fmt::join(extents, ","));
    const auto size = bytes_of_elements(extents, type.bits.value_or(8));
    if (!size && type.bits) return fail(name, "a shape of whole bytes that fits in memory", what);
    if (!read_numbers(value["data_offsets"], offsets) || offsets.size() != 2) {
      return fail(name, "two data_offsets", "something else");
    }
    const auto [begin, end] = std::pair(offsets[0], offsets[1]);
    if (begin > end || end > static_cast<Index>(data_.size())) {
      return fail(name, fmt::format("offsets within {} bytes of data", data_.size()),
                  fmt::format("{} to {}", begin, end));
    }
    if (type.bits && end - begin != *size) {
      return fail(name, fmt::format("{} bytes for {}", *size, what), fmt::to_string(end - begin));
    }
    const auto shape = Shape::make(extents);
    std::optional<TensorView> view;
    if (type.dtype && shape) view = TensorView{data_.data() + begin, *type.dtype, *shape};
    tensors_.push_back({name, view, what, begin, end});
    return {};
  }

  // Tensors lie one after another and fill the file, as the format demands: anything else would
  // let two names share bytes, or hide some.
  Result<void> check_coverage() {
    std::sort(tensors_.begin(), tensors_.end(), [](const Tensor& a, const Tensor& b) {
      return a.begin < b.begin || (a.begin == b.begin && a.end < b.end);
    });
    Index end = 0;
    for (const Tensor& tensor : tensors_) {
      if (tensor.begin != end) {
        return fail(tensor.name, fmt::format("data from byte {}", end),
                    fmt::format("{}, {}", tensor.begin,
                                tensor.begin < end ? "overlapping" : "after a hole"));
      }
      end = tensor.end;
    }
    if (end != static_cast<Index>(data_.size())) {
      return fail("data", fmt::format("{} bytes", end), fmt::to_string(data_.size()));
    }
    return {};
  }

  const FileBytes& file_;
  std::span<const std::byte> data_;
  std::vector<Tensor> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

std::string_view name_of(DType dtype) {
  for (const auto& [name, value] : dtypes) {
    if (value == dtype) return name;
  }
  return "";
}

// In which order tensors are written, since the format allows no padding between them: those that
// fill whole cache lines first, so that each of them begins one; then the others by the size of
// their elements, so that those are aligned. Equals keep the caller's order.
std::vector<std::size_t> writing_order(const std::vector<NamedTensor>& tensors) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto key = [](const TensorView& tensor) {
      const bool is_whole = tensor.bytes() % static_cast<Index>(alignment) == 0;
      return std::pair(is_whole ? 0 : 1, is_whole ? 0 : -bytes_of(tensor.dtype));
    };
    return key(tensors[a].tensor) < key(tensors[b].tensor);
  });
  return order;
}

Error not_writable(const std::string& path, const NamedTensor& tensor, std::string_view expected,
                   std::string_view found) {
  return {ErrorCode::bad_argument, fmt::format("[safetensors] {}: expected {}, found {} ({})",
                                               printable(tensor.name), expected, found, path)};
}

Result<void> check_names(const std::string& path, const std::vector<NamedTensor>& tensors) {
  std::set<std::string_view> names;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.name == metadata_name) {
      return not_writable(path, tensor, "the name of a tensor", "the metadata's");
    }
    if (!names.insert(tensor.name).second) {
      return not_writable(path, tensor, "every name once", "one twice");
    }
  }
  return {};
}

Result<void> read_file(std::shared_ptr<const FileBytes> file, WeightStore& store) {
  HeaderReader reader(*file);
  KRAIT_RETURN_IF_ERROR(reader.read());
  for (auto& tensor : reader.tensors()) {
    if (tensor.view) {
      place_tensor(store, std::move(tensor.name), *tensor.view, file);
    } else {
      store.add_unreadable(std::move(tensor.name), {std::move(tensor.what), file->name()});
    }
  }
  for (auto& [key, value] : reader.metadata()) store.metadata.insert_or_assign(key, value);
  store.keep(std::move(file));
  return {};
}

// A JSON object of members that are JSON themselves.
std::string object_of(const std::map<std::string_view, std::string>& members) {
  std::string json = "{";
  for (const auto& [key, value] : members) {
    if (json.size() > 1) json += ',';
    append_json_string(json, key);
    json += ':';
    json += value;
  }
  return json + '}';
}

}  // namespace

Result<void> read_safetensors(std::shared_ptr<const FileBytes> file, WeightStore& store) {
  return printable(read_file(std::move(file), store));
}

Result<void> read_safetensors_index(const std::string& index_json, const std::string& directory,
                                    WeightsMode mode, WeightStore& store, Progress progress) {
  return read_weights_index({"safetensors", "model.safetensors.index.json", index_json, directory},
                            read_safetensors, mode, store, progress);
}

Result<SafetensorsWriter> SafetensorsWriter::create(
    const std::string& path, const std::vector<NamedTensor>& tensors,
    const std::map<std::string, std::string, std::less<>>& metadata) {
  KRAIT_RETURN_IF_ERROR(check_names(path, tensors));
  std::vector<std::size_t> order = writing_order(tensors);
  std::vector<Index> begins(tensors.size());
  std::vector<Index> sizes(tensors.size());
  std::map<std::string_view, std::string> header;  // JSON by name
  if (!metadata.empty()) {
    std::map<std::string_view, std::string> strings;
    for (const auto& [key, value] : metadata) append_json_string(strings[key], value);
    header[metadata_name] = object_of(strings);
  }
  Index offset = 0;
  for (const std::size_t i : order) {
    const TensorView& tensor = tensors[i].tensor;
    const auto extents = tensor.shape.extents();
    begins[i] = offset;
    sizes[i] = tensor.bytes();
    header[tensors[i].name] =
        fmt::format(R"({{"data_offsets":[{},{}],"dtype":"{}","shape":[{}]}})", offset,
                    offset + sizes[i], name_of(tensor.dtype), fmt::join(extents, ","));
    offset += sizes[i];
  }
  std::string text = object_of(header);
  text.resize(static_cast<std::size_t>(round_up(static_cast<Index>(text.size() + length_bytes),
                                                static_cast<Index>(alignment))) -
                  length_bytes,
              ' ');
  std::array<std::byte, length_bytes> length{};
  for (std::size_t i = 0; i < length_bytes; ++i) {
    length[i] = static_cast<std::byte>(text.size() >> (8 * i));
  }
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  KRAIT_RETURN_IF_ERROR(file.write(length));
  KRAIT_RETURN_IF_ERROR(file.write(text));
  SafetensorsWriter writer(std::move(file));
  writer.position_ = static_cast<Index>(length_bytes + text.size());
  for (Index& begin : begins) begin += writer.position_;
  writer.order_ = std::move(order);
  writer.begins_ = std::move(begins);
  writer.sizes_ = std::move(sizes);
  writer.missing_ = offset;
  return writer;
}

Result<void> SafetensorsWriter::write(std::size_t i, Index offset,
                                      std::span<const std::byte> bytes) {
  const auto count = static_cast<Index>(bytes.size());
  check_contract(i < sizes_.size() && offset >= 0 && offset <= sizes_[i] - count,
                 "[safetensors] write: expected bytes within the tensor");
  if (count == 0) return {};
  missing_ -= count;
  const Index at = begins_[i] + offset;
  if (at != position_) return file_.write_at(static_cast<std::size_t>(at), bytes);
  position_ += count;
  return file_.write(bytes);
}

Result<void> SafetensorsWriter::commit() {
  check_contract(missing_ == 0, "[safetensors] commit: expected every byte of the tensors");
  return file_.commit();
}

Result<void> write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                               const std::map<std::string, std::string, std::less<>>& metadata) {
  for (const NamedTensor& tensor : tensors) {
    if (tensor.tensor.data == nullptr && tensor.tensor.bytes() > 0) {
      return not_writable(path, tensor, "data", "none");
    }
  }
  KRAIT_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(path, tensors, metadata));
  for (const std::size_t i : writer.order()) {
    const TensorView& tensor = tensors[i].tensor;
    KRAIT_RETURN_IF_ERROR(writer.write(
        i, 0,
        {static_cast<const std::byte*>(tensor.data), static_cast<std::size_t>(tensor.bytes())}));
  }
  return writer.commit();
}

}  // namespace v0_1
}  // namespace krait
