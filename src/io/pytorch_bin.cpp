#include "krait/io/pytorch_bin.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "io/pickle.hpp"
#include "io/place_tensor.hpp"
#include "io/printable.hpp"
#include "io/zip.hpp"
#include "krait/core/aligned_buffer.hpp"

namespace krait::inline v0_1 {
namespace {

constexpr std::array<std::string_view, 13> allowed_names = {"torch._utils._rebuild_tensor_v2",
                                                            "torch._utils._rebuild_parameter",
                                                            "collections.OrderedDict",
                                                            "torch.FloatStorage",
                                                            "torch.HalfStorage",
                                                            "torch.BFloat16Storage",
                                                            "torch.DoubleStorage",
                                                            "torch.LongStorage",
                                                            "torch.IntStorage",
                                                            "torch.ShortStorage",
                                                            "torch.CharStorage",
                                                            "torch.ByteStorage",
                                                            "torch.BoolStorage"};

std::optional<DType> storage_dtype(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, DType>, 10> types = {
      {{"torch.FloatStorage", DType::f32},
       {"torch.HalfStorage", DType::f16},
       {"torch.BFloat16Storage", DType::bf16},
       {"torch.DoubleStorage", DType::f64},
       {"torch.LongStorage", DType::i64},
       {"torch.IntStorage", DType::i32},
       {"torch.ShortStorage", DType::i16},
       {"torch.CharStorage", DType::i8},
       {"torch.ByteStorage", DType::u8},
       {"torch.BoolStorage", DType::boolean}}};
  for (const auto& [known, dtype] : types) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

class BinReader {
 public:
  explicit BinReader(std::shared_ptr<const FileBytes> file) : file_(std::move(file)) {}

  Result<void> read() {
    KRAIT_RETURN_IF_ERROR(check_kind());
    KRAIT_ASSIGN_OR_RETURN(entries_, read_zip(*file_));
    KRAIT_RETURN_IF_ERROR(find_pickle());
    KRAIT_ASSIGN_OR_RETURN(
        const PickleRef root,
        read_pickle(entries_.find(folder_ + "data.pkl")->second, allowed_names, file_->name()));
    const auto* dict = root->as<PickleDict>();
    if (dict == nullptr) return fail("data.pkl", "a dictionary of tensors", "something else");
    if (const PickleDict* model = inner_model(*dict)) dict = model;
    std::set<std::string_view> names;
    for (const auto& [key, value] : dict->items) {
      const auto& name = *key->as<std::string>();
      if (!names.insert(name).second) return fail(name, "every name once", "one twice");
      KRAIT_RETURN_IF_ERROR(read_entry(name, *value));
    }
    if (store_.size() == 0) {
      return fail("data.pkl", "a dictionary of tensors", "no tensor in it", ErrorCode::unsupported);
    }
    store_.keep(file_);
    return {};
  }

  const WeightStore& store() const { return store_; }

 private:
  // Files before PyTorch 1.6 are a row of bare pickles.
  Result<void> check_kind() const {
    constexpr std::string_view archive = "a ZIP archive, as torch.save writes since PyTorch 1.6";
    const auto bytes = file_->bytes();
    if (bytes.size() < 4) return fail("file", archive, fmt::format("{} bytes", bytes.size()));
    if (std::memcmp(bytes.data(), "PK\x03\x04", 4) == 0) return {};
    const bool is_pickle = std::memcmp(bytes.data(), "\x80\x02", 2) == 0;
    return fail("file", archive, is_pickle ? "a pickle of an older version" : "something else",
                is_pickle ? ErrorCode::unsupported : ErrorCode::bad_format);
  }

  Error fail(std::string_view what, std::string_view expected, std::string_view found,
             ErrorCode code = ErrorCode::bad_format) const {
    return {code, fmt::format("[pytorch] {}: expected {}, found {} ({})", printable(what), expected,
                              found, file_->name())};
  }

  // The archive's entries lie in one folder, whose name is that of the file when it was saved.
  Result<void> find_pickle() {
    constexpr std::string_view pickle = "data.pkl";
    for (const auto& [name, bytes] : entries_) {
      if (name.size() > pickle.size() && name.ends_with("/data.pkl")) {
        folder_ = name.substr(0, name.size() - pickle.size());
        break;
      }
    }
    if (folder_.empty()) return fail("archive", "an entry data.pkl", "none");
    if (const auto order = entries_.find(folder_ + "byteorder"); order != entries_.end()) {
      const std::string_view text(reinterpret_cast<const char*>(order->second.data()),
                                  order->second.size());
      if (text != "little") {
        return fail("byteorder", "little", printable(text), ErrorCode::unsupported);
      }
    }
    return {};
  }

  // Training frameworks save the tensors as one entry of several, under this name.
  static const PickleDict* inner_model(const PickleDict& dict) {
    for (const auto& [key, value] : dict.items) {
      if (*key->as<std::string>() == "model") return value->as<PickleDict>();
    }
    return nullptr;
  }

  Result<void> read_entry(const std::string& name, const PickleValue& value) {
    const auto* call = value.as<PickleCall>();
    if (call == nullptr) {
      // Epoch counters and other plain values are no tensors.
      return value.as<PickleTuple>() == nullptr && value.as<PickleStorage>() == nullptr
                 ? Result<void>()
                 : fail(name, "a tensor", "something else");
    }
    const auto& arguments = call->arguments->as<PickleTuple>()->items;
    if (call->function == "torch._utils._rebuild_parameter" && !arguments.empty()) {
      return read_entry(name, *arguments[0]);
    }
    if (call->function != "torch._utils._rebuild_tensor_v2" || arguments.size() < 4) {
      return fail(name, "a tensor", fmt::format("a call of {}", call->function),
                  ErrorCode::unsupported);
    }
    return read_tensor(name, *arguments[0], *arguments[1], *arguments[2], *arguments[3]);
  }

  static bool read_numbers(const PickleValue& value, std::vector<Index>& numbers) {
    const auto* tuple = value.as<PickleTuple>();
    if (tuple == nullptr || tuple->items.size() > static_cast<std::size_t>(Shape::max_rank)) {
      return false;
    }
    for (const PickleRef& item : tuple->items) {
      const auto* number = item->as<std::int64_t>();
      if (number == nullptr || *number < 0) return false;
      numbers.push_back(*number);
    }
    return true;
  }

  struct Storage {
    std::span<const std::byte> bytes;
    DType dtype = DType::f32;
  };

  // ("storage", type, key, device, number of elements)
  Result<Storage> read_storage(const std::string& name, const PickleValue& value) const {
    const auto* storage = value.as<PickleStorage>();
    const auto* id = storage != nullptr ? storage->id->as<PickleTuple>() : nullptr;
    const auto* kind =
        id != nullptr && id->items.size() >= 5 ? id->items[0]->as<std::string>() : nullptr;
    const bool has_parts = kind != nullptr && *kind == "storage";
    const auto* type = has_parts ? id->items[1]->as<PickleGlobal>() : nullptr;
    const auto* key = has_parts ? id->items[2]->as<std::string>() : nullptr;
    const auto* count = has_parts ? id->items[4]->as<std::int64_t>() : nullptr;
    if (type == nullptr || key == nullptr || count == nullptr) {
      return fail(name, "a storage", "something else");
    }
    const auto dtype = storage_dtype(type->name);
    if (!dtype) return fail(name, "a storage type", type->name);
    const auto entry = entries_.find(folder_ + "data/" + *key);
    if (entry == entries_.end()) {
      return fail(name, fmt::format("an entry data/{}", printable(*key)), "none");
    }
    const auto size = checked_product(*count, bytes_of(*dtype));
    if (!size || *size > static_cast<Index>(entry->second.size())) {
      return fail(name, fmt::format("a storage of {} elements", *count),
                  fmt::format("{} bytes", entry->second.size()));
    }
    return Storage{entry->second.first(static_cast<std::size_t>(*size)), *dtype};
  }

  Result<void> read_tensor(const std::string& name, const PickleValue& storage_value,
                           const PickleValue& offset_value, const PickleValue& shape_value,
                           const PickleValue& stride_value) {
    KRAIT_ASSIGN_OR_RETURN(const Storage storage, read_storage(name, storage_value));
    const auto* offset = offset_value.as<std::int64_t>();
    std::vector<Index> extents;
    std::vector<Index> strides;
    if (offset == nullptr || *offset < 0 || !read_numbers(shape_value, extents) ||
        !read_numbers(stride_value, strides) || extents.size() != strides.size()) {
      return fail(name, "an offset, a shape and strides", "something else");
    }
    const auto shape = Shape::make(extents);
    if (!shape) return fail(name, "a shape that fits in memory", "a larger one");
    if (shape->size() == 0) {
      place_tensor(store_, name, {nullptr, storage.dtype, *shape}, file_);
      return {};
    }
    const Index available = static_cast<Index>(storage.bytes.size()) / bytes_of(storage.dtype);
    // No element may lie outside the storage, and none may be repeated: a stride of 0 would let a
    // small file become a large tensor.
    Index last = *offset;
    for (std::size_t axis = 0; axis < extents.size(); ++axis) {
      if (extents[axis] < 2) continue;
      const auto reach = checked_product(extents[axis] - 1, strides[axis]);
      if (strides[axis] == 0 || !reach || *reach > available - std::min(available, last)) {
        return fail(name, fmt::format("elements within a storage of {}", available),
                    "others, or some repeated");
      }
      last += *reach;
    }
    if (shape->size() > available || last >= available) {
      return fail(name, fmt::format("elements within a storage of {}", available),
                  fmt::format("{} from {}", to_string(*shape), *offset));
    }
    return add(name, storage, *offset, *shape, strides);
  }

  // Only for shapes with elements: the extents of an empty one may be too large to multiply.
  static bool is_contiguous(const Shape& shape, const std::vector<Index>& strides) {
    Index expected = 1;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      if (shape[axis] > 1 && strides[static_cast<std::size_t>(axis)] != expected) return false;
      expected *= shape[axis];
    }
    return true;
  }

  Result<void> add(const std::string& name, const Storage& storage, Index offset,
                   const Shape& shape, const std::vector<Index>& strides) {
    const Index width = bytes_of(storage.dtype);
    const TensorView in_place{storage.bytes.data() + offset * width, storage.dtype, shape};
    const bool is_contiguous = BinReader::is_contiguous(shape, strides);
    if (!is_contiguous || !is_element_aligned(in_place.data, storage.dtype)) {
      // Many tensors may name one storage; their copies must not outgrow the file.
      copied_ += in_place.bytes();
      if (copied_ > static_cast<Index>(file_->bytes().size())) {
        return fail(name, "fewer tensors that share elements in another order", "more",
                    ErrorCode::unsupported);
      }
    }
    if (is_contiguous) {
      place_tensor(store_, name, in_place, file_);
    } else {
      gather(name, storage, offset, shape, strides);
    }
    return {};
  }

  // A contiguous copy of elements that lie elsewhere in their storage, such as a transpose.
  void gather(const std::string& name, const Storage& storage, Index offset, const Shape& shape,
              const std::vector<Index>& strides) {
    const Index width = bytes_of(storage.dtype);
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(shape.size() * width);
    std::array<Index, Shape::max_rank> at{};
    for (Index i = 0; i < shape.size(); ++i) {
      Index source = offset;
      for (int axis = 0; axis < shape.rank(); ++axis) {
        source += at[static_cast<std::size_t>(axis)] * strides[static_cast<std::size_t>(axis)];
      }
      std::memcpy(copy->data() + i * width, storage.bytes.data() + source * width,
                  static_cast<std::size_t>(width));
      for (int axis = shape.rank() - 1; axis >= 0; --axis) {
        if (++at[static_cast<std::size_t>(axis)] < shape[axis]) break;
        at[static_cast<std::size_t>(axis)] = 0;
      }
    }
    const TensorView view{copy->data(), storage.dtype, shape};
    store_.add(name, view, std::move(copy), file_->name());
  }

  std::shared_ptr<const FileBytes> file_;
  WeightStore store_;
  ZipEntries entries_;
  std::string folder_;
  Index copied_ = 0;
};

}  // namespace

Result<void> read_pytorch_bin(std::shared_ptr<const FileBytes> file, WeightStore& store) {
  BinReader reader(std::move(file));
  KRAIT_RETURN_IF_ERROR(reader.read());
  for (const auto& [name, entry] : reader.store().entries()) {
    store.add(name, entry.tensor, nullptr, entry.file);
  }
  for (const auto& owner : reader.store().owners()) store.keep(owner);
  return {};
}

}  // namespace krait::inline v0_1
