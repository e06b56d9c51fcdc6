#include "krait/io/pytorch_bin.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "io/pickle.hpp"
#include "io/place_tensor.hpp"
#include "io/weights_index.hpp"
#include "io/zip.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// What torch.load(weights_only=True) lets a file name, and the arguments that training scripts
// save. Naming is all that happens: of these only the rebuilding functions of dense tensors mean
// anything here.
constexpr std::string_view allowed_names[] = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_nested_tensor",
    "torch._utils._rebuild_wrapper_subclass",
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._tensor._rebuild_from_type_v2",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "torch.serialization._get_layout",
    "torch.Tensor",
    "torch.Size",
    "torch.device",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.per_channel_affine",
    "torch.per_channel_symmetric",
    "torch.per_channel_affine_float_qparams",
    "torch.storage.UntypedStorage",
    "torch.UntypedStorage",
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    "builtins.bytearray",
    "__builtin__.bytearray",
    "builtins.set",
    "__builtin__.set",
    "builtins.frozenset",
    "__builtin__.frozenset",
    "builtins.complex",
    "__builtin__.complex",
    "argparse.Namespace",
};

// A type of elements: torch's names of it, of its storage, and what krait makes of it.
struct ElementType {
  std::string_view storage;  // torch.<this>; empty for types without one
  std::string_view name;     // torch.<this>
  Index bytes;
  std::optional<DType> dtype;
};

constexpr ElementType element_types[] = {
    {"FloatStorage", "float32", 4, DType::f32},
    {"HalfStorage", "float16", 2, DType::f16},
    {"BFloat16Storage", "bfloat16", 2, DType::bf16},
    {"DoubleStorage", "float64", 8, DType::f64},
    {"LongStorage", "int64", 8, DType::i64},
    {"IntStorage", "int32", 4, DType::i32},
    {"ShortStorage", "int16", 2, DType::i16},
    {"CharStorage", "int8", 1, DType::i8},
    {"ByteStorage", "uint8", 1, DType::u8},
    {"BoolStorage", "bool", 1, DType::boolean},
    {"ComplexFloatStorage", "complex64", 8, {}},
    {"ComplexDoubleStorage", "complex128", 16, {}},
    {"QInt8Storage", "qint8", 1, {}},
    {"QUInt8Storage", "quint8", 1, {}},
    {"QInt32Storage", "qint32", 4, {}},
    {"QUInt4x2Storage", "quint4x2", 1, {}},
    {"QUInt2x4Storage", "quint2x4", 1, {}},
    {"", "complex32", 4, {}},
    {"", "uint16", 2, {}},
    {"", "uint32", 4, {}},
    {"", "uint64", 8, {}},
    {"", "float8_e4m3fn", 1, {}},
    {"", "float8_e4m3fnuz", 1, {}},
    {"", "float8_e5m2", 1, {}},
    {"", "float8_e5m2fnuz", 1, {}},
    {"", "float8_e8m0fnu", 1, {}},
    {"", "float4_e2m1fn_x2", 1, {}},
};

constexpr std::string_view untyped_storages[] = {"torch.storage.UntypedStorage",
                                                 "torch.UntypedStorage"};

std::vector<std::string> all_allowed_names() {
  std::vector<std::string> names(std::begin(allowed_names), std::end(allowed_names));
  for (const ElementType& type : element_types) {
    names.push_back(fmt::format("torch.{}", type.name));
    if (!type.storage.empty()) names.push_back(fmt::format("torch.{}", type.storage));
  }
  return names;
}

// The type of that storage, or of that name of a type.
const ElementType* find_type(std::string_view name, bool is_storage) {
  constexpr std::string_view module = "torch.";
  if (!name.starts_with(module)) return nullptr;
  name.remove_prefix(module.size());
  for (const ElementType& type : element_types) {
    if (name == (is_storage ? type.storage : type.name)) return &type;
  }
  return nullptr;
}

// Under which names training frameworks save the state dictionary beside other things.
constexpr std::string_view model_keys[] = {"state_dict", "model_state_dict", "model", "module",
                                           "model_state"};

// The call that makes a tensor, without the wrappings of parameters; null if it makes none.
const PickleCall* tensor_call(const PickleValue* value) {
  constexpr int most_wrappings = 8;
  for (int i = 0; i < most_wrappings; ++i) {
    const auto* call = value->as<PickleCall>();
    if (call == nullptr) return nullptr;
    const auto& arguments = call->arguments->as<PickleTuple>()->items;
    if (call->function.starts_with("torch._utils._rebuild_parameter")) {
      if (arguments.empty()) return call;
      value = arguments[0];
    } else if (call->function.starts_with("torch._utils._rebuild_")) {
      return call;
    } else {
      return nullptr;
    }
  }
  return nullptr;
}

bool has_tensors(const PickleDict& dict) {
  return std::any_of(dict.items.begin(), dict.items.end(), [](const auto& item) {
    return item.first->template as<std::string>() != nullptr && tensor_call(item.second) != nullptr;
  });
}

// The dictionary of the model's tensors in `dict`, itself included; null if there is none. Each
// dictionary is looked into once: they may contain each other.
const PickleDict* find_model(const PickleDict& dict, std::set<const PickleDict*>& seen) {
  constexpr std::size_t most_looked_at = 64;
  if (seen.size() >= most_looked_at || !seen.insert(&dict).second) return nullptr;
  for (const std::string_view name : model_keys) {
    for (const auto& [key, value] : dict.items) {
      const auto* text = key->as<std::string>();
      const auto* inner = value->as<PickleDict>();
      if (text == nullptr || *text != name || inner == nullptr) continue;
      if (const PickleDict* model = find_model(*inner, seen)) return model;
    }
  }
  return has_tensors(dict) ? &dict : nullptr;
}

class BinReader {
 public:
  explicit BinReader(std::shared_ptr<const FileBytes> file) : file_(std::move(file)) {}

  Result<void> read() {
    KRAIT_RETURN_IF_ERROR(check_kind());
    KRAIT_ASSIGN_OR_RETURN(entries_, read_zip(*file_));
    KRAIT_RETURN_IF_ERROR(find_pickle());
    const std::vector<std::string> names = all_allowed_names();
    const std::vector<std::string_view> allowed(names.begin(), names.end());
    KRAIT_ASSIGN_OR_RETURN(
        const Pickle pickle,
        read_pickle(entries_.find(folder_ + "data.pkl")->second, allowed, file_->name()));
    const auto* root = pickle.root->as<PickleDict>();
    if (root == nullptr) return fail("data.pkl", "a dictionary of tensors", "something else");
    std::set<const PickleDict*> seen;
    const PickleDict* dict = find_model(*root, seen);
    if (dict == nullptr) {
      return fail("data.pkl", "a dictionary of tensors", "no tensor in it", ErrorCode::unsupported);
    }
    std::set<std::string_view> found;
    for (const auto& [key, value] : dict->items) {
      const auto* name = key->as<std::string>();
      const PickleCall* call = tensor_call(value);
      if (name == nullptr || call == nullptr) continue;  // epochs, shapes and the like
      if (!found.insert(*name).second) return fail(*name, "every name once", "one twice");
      KRAIT_RETURN_IF_ERROR(read_call(*name, *call));
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

  Result<void> read_call(const std::string& name, const PickleCall& call) {
    constexpr std::string_view module = "torch._utils._rebuild_tensor";
    const auto& arguments = call.arguments->as<PickleTuple>()->items;
    const bool is_v3 = call.function == "torch._utils._rebuild_tensor_v3";
    if (!is_v3 && call.function != module && call.function != "torch._utils._rebuild_tensor_v2") {
      store_.add_unreadable(
          name, {fmt::format("a tensor made by {}", printable(call.function)), file_->name()});
      return {};
    }
    constexpr std::size_t type_at = 6;
    if (arguments.size() < (is_v3 ? type_at + 1 : 4)) {
      return fail(name, "a tensor", fmt::format("a call of {}", call.function),
                  ErrorCode::unsupported);
    }
    const ElementType* type = nullptr;
    if (is_v3) {
      const auto* type_name = arguments[type_at]->as<PickleGlobal>();
      type = type_name == nullptr ? nullptr : find_type(type_name->name, false);
      if (type == nullptr) return fail(name, "a type of elements", "something else");
    }
    return read_tensor(name, type, *arguments[0], *arguments[1], *arguments[2], *arguments[3]);
  }

  static bool read_numbers(const PickleValue& value, std::vector<Index>& numbers) {
    const auto* tuple = value.as<PickleTuple>();
    const auto* size = value.as<PickleCall>();  // torch.Size((2, 3))
    if (size != nullptr && size->function == "torch.Size") {
      const auto& arguments = size->arguments->as<PickleTuple>()->items;
      tuple = arguments.size() == 1 ? arguments[0]->as<PickleTuple>() : nullptr;
    }
    constexpr std::size_t most_axes = 64;  // torch's limit
    if (tuple == nullptr || tuple->items.size() > most_axes) return false;
    for (const PickleRef& item : tuple->items) {
      const auto* number = item->as<std::int64_t>();
      if (number == nullptr || *number < 0) return false;
      numbers.push_back(*number);
    }
    return true;
  }

  struct Storage {
    std::span<const std::byte> bytes;
    const ElementType* type = nullptr;
  };

  // ("storage", type, key, device, number of elements)
  Result<Storage> read_storage(const std::string& name, const ElementType* type_of_elements,
                               const PickleValue& value) const {
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
    const bool is_untyped = std::find(std::begin(untyped_storages), std::end(untyped_storages),
                                      type->name) != std::end(untyped_storages);
    const ElementType* stored = find_type(type->name, true);
    const ElementType* elements = type_of_elements != nullptr ? type_of_elements : stored;
    if (elements == nullptr || (stored == nullptr && !is_untyped)) {
      return fail(name, "a storage type", type->name);
    }
    // An untyped storage counts bytes.
    const Index width = is_untyped ? 1 : stored->bytes;
    const auto entry = entries_.find(folder_ + "data/" + *key);
    if (entry == entries_.end()) {
      return fail(name, fmt::format("an entry data/{}", printable(*key)), "none");
    }
    const auto size = checked_product(*count, width);
    if (!size || *size > static_cast<Index>(entry->second.size())) {
      return fail(name, fmt::format("a storage of {} elements", *count),
                  fmt::format("{} bytes", entry->second.size()));
    }
    return Storage{entry->second.first(static_cast<std::size_t>(*size)), elements};
  }

  Result<void> read_tensor(const std::string& name, const ElementType* type,
                           const PickleValue& storage_value, const PickleValue& offset_value,
                           const PickleValue& shape_value, const PickleValue& stride_value) {
    KRAIT_ASSIGN_OR_RETURN(const Storage storage, read_storage(name, type, storage_value));
    const auto* offset = offset_value.as<std::int64_t>();
    std::vector<Index> extents;
    std::vector<Index> strides;
    if (offset == nullptr || *offset < 0 || !read_numbers(shape_value, extents) ||
        !read_numbers(stride_value, strides) || extents.size() != strides.size()) {
      return fail(name, "an offset, a shape and strides", "something else");
    }
    if (!storage.type->dtype || extents.size() > static_cast<std::size_t>(Shape::max_rank)) {
      store_.add_unreadable(
          name,
          {fmt::format("{} [{}]", storage.type->name, fmt::join(extents, ",")), file_->name()});
      return {};
    }
    const auto shape = Shape::make(extents);
    if (!shape) return fail(name, "a shape that fits in memory", "a larger one");
    if (shape->size() == 0) {
      place_tensor(store_, name, {nullptr, *storage.type->dtype, *shape}, file_);
      return {};
    }
    const Index available = static_cast<Index>(storage.bytes.size()) / storage.type->bytes;
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
    const Index width = storage.type->bytes;
    const DType dtype = *storage.type->dtype;
    const TensorView in_place{storage.bytes.data() + offset * width, dtype, shape};
    const bool is_contiguous = BinReader::is_contiguous(shape, strides);
    if (!is_contiguous || !is_element_aligned(in_place.data, dtype)) {
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
    const Index width = storage.type->bytes;
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
    const TensorView view{copy->data(), *storage.type->dtype, shape};
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
  KRAIT_RETURN_IF_ERROR(printable(reader.read()));
  for (const auto& [name, entry] : reader.store().entries()) {
    store.add(name, entry.tensor, nullptr, entry.file);
  }
  for (const auto& [name, tensor] : reader.store().unreadable()) store.add_unreadable(name, tensor);
  for (const auto& owner : reader.store().owners()) store.keep(owner);
  return {};
}

Result<void> read_pytorch_bin_index(const std::string& index_json, const std::string& directory,
                                    WeightsMode mode, WeightStore& store, Progress progress) {
  return read_weights_index({"pytorch", "pytorch_model.bin.index.json", index_json, directory},
                            read_pytorch_bin, mode, store, progress);
}

}  // namespace v0_1
}  // namespace krait
