#include "loading/layouts/gguf/gguf.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <system_error>

#include "io/json.hpp"
#include "io/place_tensor.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/io/printable.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/options.hpp"
#include "loading/layouts/gguf/architecture.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

#define KRAIT_ADDRESS(architecture) &architecture,
constexpr std::array architectures = {KRAIT_GGUF_ARCHITECTURES(KRAIT_ADDRESS)};
#undef KRAIT_ADDRESS

// Tensors whose values change are read and kept in memory when the file is opened: none is large.
constexpr Index largest_changed = Index{64} << 20U;  // bytes of floats

Error fail(ErrorCode code, std::string_view what, std::string_view expected, std::string_view found,
           const FileBytes& file) {
  return {code, fmt::format("[gguf] {}: expected {}, found {} ({})", printable(what), expected,
                            printable(found), file.name())};
}

Error fail(ErrorCode code, std::string_view what, std::string_view expected, std::string_view found,
           const GgufFile& file) {
  return fail(code, what, expected, found, *file.file);
}

Result<const GgufArchitecture*> architecture_of(const GgufFile& file) {
  constexpr std::string_view key = "general.architecture";
  const Metadata& name = file.metadata[key];
  std::string known;
  for (const GgufArchitecture* architecture : architectures) {
    if (name.is(architecture->name)) return architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture->name);
  }
  return fail(ErrorCode::unsupported, key, "one of " + known,
              name.is_null() ? "none" : json_text(name), file);
}

// "blk.*.ssm_a" and layer "3" of "blk.3.ssm_a"; a name without a layer stays.
std::pair<std::string, std::string_view> without_layer(std::string_view name) {
  constexpr std::string_view begin = "blk.";
  if (!name.starts_with(begin)) return {std::string(name), {}};
  const std::string_view rest = name.substr(begin.size());
  const std::size_t digits = rest.find_first_not_of("0123456789");
  if (digits == 0 || digits == rest.npos) return {std::string(name), {}};
  return {fmt::format("blk.*{}", rest.substr(digits)), rest.substr(0, digits)};
}

std::string with_number(std::string_view name, char mark, std::string_view number) {
  const std::size_t place = name.find(mark);
  if (place == name.npos) return std::string(name);
  return fmt::format("{}{}{}", name.substr(0, place), number, name.substr(place + 1));
}

// Adds the tensors of a file to a store.
class Tensors {
 public:
  Tensors(const GgufFile& file, const GgufArchitecture& architecture, WeightStore& store)
      : file_(file), store_(store) {
    for (const GgufName& name : architecture.names) names_.emplace(name.gguf, &name);
  }

  Result<void> add_all() {
    for (const GgufTensor& tensor : file_.tensors) {
      const auto [pattern, layer] = without_layer(tensor.name);
      const auto known = names_.find(pattern);
      // What no rule names keeps its own name, and is reported as unused.
      static constexpr GgufName unknown;
      const GgufName& rule = known == names_.end() ? unknown : *known->second;
      if (known != names_.end() && rule.name.empty()) continue;
      const std::string name =
          known == names_.end() ? tensor.name : with_number(rule.name, '*', layer);
      KRAIT_RETURN_IF_ERROR(add_stack(tensor, rule, name));
    }
    return {};
  }

 private:
  // A tensor, or one for each expert.
  Result<void> add_stack(const GgufTensor& tensor, const GgufName& rule, const std::string& name) {
    if (rule.name.find('#') == rule.name.npos) return add(tensor, rule, name);
    constexpr Index most_experts = 4096;
    if (tensor.extents.size() != 3 || tensor.extents[0] > most_experts) {
      return fail(ErrorCode::shape_mismatch, tensor.name,
                  fmt::format("at most {} matrices in one tensor", most_experts), tensor.describe(),
                  *tensor.file);
    }
    GgufTensor one = tensor;
    one.extents.erase(one.extents.begin());
    one.bytes = tensor.bytes / tensor.extents[0];
    // Of what cannot be read, one stands for all.
    const bool is_readable = tensor.type.dtype || tensor.type.blocks;
    if (!is_readable) return add(one, rule, with_number(name, '#', "0"));
    // A few bytes of a file must not become many of names.
    constexpr Index most_matrices = Index{1} << 18U;
    n_matrices_ += tensor.extents[0];
    if (n_matrices_ > most_matrices) {
      return fail(ErrorCode::unsupported, tensor.name,
                  fmt::format("at most {} matrices of experts in a file", most_matrices), "more",
                  *tensor.file);
    }
    for (Index i = 0; i < tensor.extents[0]; ++i) {
      KRAIT_RETURN_IF_ERROR(add(one, rule, with_number(name, '#', fmt::to_string(i))));
      one.data += one.bytes;
    }
    return {};
  }

  Result<void> add(const GgufTensor& tensor, const GgufName& rule, const std::string& name) {
    if (!tensor.type.dtype && !tensor.type.blocks) {
      store_.add_unreadable(name, {tensor.describe(), tensor.file->name()});
      return {};
    }
    std::vector<Index> extents = tensor.extents;
    const bool is_flat = rule.shape == GgufShape::column || rule.shape == GgufShape::groups;
    if (is_flat && !tensor.type.blocks) {
      Index all = 1;
      for (const Index extent : extents) all *= extent;
      extents = {all};
    } else if (rule.shape == GgufShape::depthwise && extents.size() == 2) {
      extents.insert(extents.begin() + 1, 1);
    }
    if (rule.values == GgufValues::negative_exp) return add_logarithms(tensor, extents, name);
    if (tensor.type.blocks) return add_blocks(tensor, name), Result<void>();
    const auto shape = Shape::make(extents);
    if (!shape) {
      store_.add_unreadable(name, {tensor.describe(), tensor.file->name()});
      return {};
    }
    place_tensor(store_, name, {tensor.data, *tensor.type.dtype, *shape}, tensor.file);
    return {};
  }

  // The blocks of a matrix are a part of it; the metadata says in which format they are.
  void add_blocks(const GgufTensor& tensor, const std::string& name) {
    constexpr std::string_view weight = ".weight";
    const std::string matrix =
        name.ends_with(weight) ? name.substr(0, name.size() - weight.size()) : name;
    const BlockFormatInfo& info = info_of(*tensor.type.blocks);
    std::vector<Index> extents = tensor.extents;
    extents.back() /= info.elements;
    extents.push_back(info.bytes);
    store_.add(matrix + ".blocks", {tensor.data, DType::u8, *Shape::make(extents)}, tensor.file,
               tensor.file->name());
    store_.metadata[fmt::format("{}:{}", weight_form_key, matrix)] = info.name;
  }

  // x of the -exp(x) that the file has.
  Result<void> add_logarithms(const GgufTensor& tensor, const std::vector<Index>& extents,
                              const std::string& name) {
    const auto shape = Shape::make(extents);
    if (!tensor.type.dtype || !is_float(*tensor.type.dtype) || !shape ||
        shape->size() > largest_changed / bytes_of(DType::f32)) {
      return fail(ErrorCode::dtype_mismatch, tensor.name,
                  fmt::format("f32, f16 or bf16, and at most {} elements",
                              largest_changed / bytes_of(DType::f32)),
                  tensor.describe(), *tensor.file);
    }
    auto values = std::make_shared<AlignedBuffer<float>>(shape->size());
    convert_floats({tensor.data, *tensor.type.dtype, *shape}, DType::f32, values->data());
    for (float& value : values->span()) {
      if (!(value <= 0.0F)) {
        return fail(ErrorCode::bad_format, tensor.name, "numbers of at most 0",
                    fmt::to_string(value), *tensor.file);
      }
      value = static_cast<float>(std::log(-static_cast<double>(value)));
    }
    const float* data = values->data();
    store_.add(name, {data, DType::f32, *shape}, std::move(values), tensor.file->name());
    return {};
  }

  const GgufFile& file_;
  WeightStore& store_;
  std::map<std::string_view, const GgufName*, std::less<>> names_;
  Index n_matrices_ = 0;  // of experts
};

// Ids that end and begin texts, as transformers has them in a configuration. Some files write -1
// for none.
void add_marks(const Metadata& metadata, Index vocab, ConfigObject& config) {
  const auto id_of = [&](const char* key) {
    const auto id = metadata[key].integer();
    return id && *id >= 0 && *id < vocab ? id : std::nullopt;
  };
  if (const auto bos = id_of("tokenizer.ggml.bos_token_id")) config.set("bos_token_id", *bos);
  Metadata::Array ends;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    const auto id = id_of(key);
    if (id && std::find(ends.begin(), ends.end(), Metadata(*id)) == ends.end()) {
      ends.emplace_back(*id);
    }
  }
  if (ends.size() == 1) config.set("eos_token_id", ends.front());
  if (ends.size() > 1) config.set("eos_token_id", std::move(ends));
}

// Refuses blocks behind those that the file counts: without them the model is another one. The
// frequencies of rotary embeddings that early converters wrote do not count.
Result<void> check_blocks(const GgufFile& file, const GgufKeys& keys) {
  KRAIT_ASSIGN_OR_RETURN(const Index n_block, keys.number("block_count", 1));
  const GgufTensor* beyond = nullptr;
  Index first = 0;
  for (const GgufTensor& tensor : file.tensors) {
    const auto [pattern, digits] = without_layer(tensor.name);
    if (digits.empty() || pattern.starts_with("blk.*.attn_rot_embd")) continue;
    Index block = 0;
    const auto end = digits.data() + digits.size();
    if (std::from_chars(digits.data(), end, block).ec != std::errc()) block = largest_extent;
    if (block < n_block || (beyond != nullptr && block >= first)) continue;
    beyond = &tensor;
    first = block;
  }
  if (beyond == nullptr) return {};
  return fail(ErrorCode::bad_config, beyond->name,
              fmt::format("blocks below {}, the block_count", n_block),
              fmt::format("block {}", first), *beyond->file);
}

void read_gguf_chat_templates(const Metadata& metadata, Checkpoint& checkpoint) {
  constexpr std::string_view key = "tokenizer.chat_template";
  for (const Metadata::Member& member : *metadata.object()) {
    const std::string* text = member.value.text();
    if (text == nullptr || !member.key.starts_with(key)) continue;
    const std::string_view rest = std::string_view(member.key).substr(key.size());
    if (rest.empty()) checkpoint.chat_template = *text;
    if (rest.size() < 2 || rest[0] != '.') continue;
    checkpoint.more_chat_templates.push_back({gguf_template_name(rest.substr(1)), *text});
  }
}

// Adds the tensors of the other files of a model in several.
Result<void> add_parts(const OpenGgufPart& open_part, GgufFile& file) {
  constexpr std::string_view number_key = "split.no";
  constexpr std::string_view count_key = "split.count";
  const auto number_of = [&](const GgufFile& part) { return part.metadata[number_key].whole(); };
  for (const std::string_view key : {number_key, count_key}) {
    const Metadata& value = file.metadata[key];
    if (value.is_null() || value.whole()) continue;
    return fail(ErrorCode::bad_format, key, "a whole number", json_text(value), file);
  }
  const std::uint64_t all = file.metadata[count_key].whole().value_or(1);
  if (all <= 1) return {};
  constexpr std::uint64_t most_files = 0xFFFF;  // the key's type holds no more
  if (all > most_files) {
    return fail(ErrorCode::bad_format, count_key, fmt::format("at most {} files", most_files),
                fmt::to_string(all), file);
  }
  const auto count = static_cast<Index>(all);
  if (const std::uint64_t number = number_of(file).value_or(0); number != 0) {
    return fail(ErrorCode::bad_format, number_key, fmt::format("the first of {} files", count),
                fmt::format("file {}", number + 1), file);
  }
  std::set<std::string> names;
  for (const GgufTensor& tensor : file.tensors) names.insert(tensor.name);
  for (Index i = 1; i < count; ++i) {
    KRAIT_ASSIGN_OR_RETURN(auto bytes, open_part(i, count));
    KRAIT_ASSIGN_OR_RETURN(GgufFile part, read_gguf(std::move(bytes)));
    if (number_of(part) != static_cast<std::uint64_t>(i) ||
        part.metadata[count_key].whole() != all) {
      return fail(ErrorCode::bad_format, number_key,
                  fmt::format("{} (from 0) of {} files", i, count),
                  fmt::format("{} of {}", json_text(part.metadata[number_key]),
                              json_text(part.metadata[count_key])),
                  part);
    }
    for (GgufTensor& tensor : part.tensors) {
      if (!names.insert(tensor.name).second) {
        return fail(ErrorCode::bad_format, tensor.name, "one tensor of that name",
                    "another in a file before", part);
      }
      file.tensors.push_back(std::move(tensor));
    }
  }
  const auto total = file.metadata["split.tensors.count"].whole();
  if (total && *total != file.tensors.size()) {
    return fail(ErrorCode::bad_format, "split.tensors.count",
                fmt::format("{} tensors in {} files", *total, count),
                fmt::to_string(file.tensors.size()), file);
  }
  return {};
}

Result<void> read_file(std::shared_ptr<const FileBytes> bytes, const OpenGgufPart& open_part,
                       Checkpoint& checkpoint) {
  KRAIT_ASSIGN_OR_RETURN(GgufFile file, read_gguf(std::move(bytes)));
  KRAIT_RETURN_IF_ERROR(add_parts(open_part, file));
  KRAIT_ASSIGN_OR_RETURN(const GgufArchitecture* architecture, architecture_of(file));
  ConfigObject config;
  const GgufKeys keys(file, std::string(architecture->name));
  KRAIT_RETURN_IF_ERROR(architecture->configure(keys, config));
  KRAIT_RETURN_IF_ERROR(check_blocks(file, keys));
  KRAIT_ASSIGN_OR_RETURN(const Index vocab, keys.vocab());
  add_marks(file.metadata, vocab, config);
  checkpoint.config_file = "config.json";
  checkpoint.config = full_json(config.take());
  KRAIT_ASSIGN_OR_RETURN(checkpoint.token_table,
                         read_gguf_vocabulary(file.metadata, file.file->name()));
  if (checkpoint.token_table != nullptr) {
    checkpoint.tokenizer_config = tokenizer_config_of(*checkpoint.token_table);
  }
  read_gguf_chat_templates(file.metadata, checkpoint);
  return Tensors(file, *architecture, checkpoint.weights).add_all();
}

}  // namespace

Result<double> GgufKeys::real(std::string_view key, float fallback) const {
  KRAIT_ASSIGN_OR_RETURN(const float value, reader_.positive_float(name(key), fallback));
  return static_cast<double>(value);
}

Result<std::vector<Index>> GgufKeys::per_layer(std::string_view key, Index n_layer,
                                               std::optional<Index> fallback) const {
  const Metadata& list = file_.metadata[name(key)];
  if (list.array() == nullptr) {
    KRAIT_ASSIGN_OR_RETURN(const Index value, number(key, 0, fallback));
    return std::vector<Index>(static_cast<std::size_t>(n_layer), value);
  }
  std::vector<Index> values;
  for (const Metadata& value : *list.array()) {
    const auto integer = value.integer();
    if (!integer || *integer < 0 || *integer > largest_extent) break;
    values.push_back(*integer);
  }
  if (std::ssize(values) != n_layer || values.size() != list.size()) {
    return fail(key, fmt::format("a whole number for each of {} layers", n_layer), json_text(list));
  }
  return values;
}

const GgufTensor* GgufKeys::tensor(std::string_view name) const noexcept {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

Result<Index> GgufKeys::vocab() const {
  constexpr std::string_view name = "token_embd.weight";
  const GgufTensor* embedding = tensor(name);
  if (embedding == nullptr) {
    return krait::fail(ErrorCode::missing_tensor, name, "a matrix", "none", file_);
  }
  if (embedding->extents.size() != 2) {
    return krait::fail(ErrorCode::missing_tensor, name, "a matrix", embedding->describe(),
                       *embedding->file);
  }
  return embedding->extents[0];
}

Result<Index> GgufKeys::expansion(Index d_model) const {
  KRAIT_ASSIGN_OR_RETURN(const Index d_inner, number("ssm.inner_size", 1));
  if (d_inner % d_model == 0) return d_inner / d_model;
  return fail("ssm.inner_size", fmt::format("a multiple of {}, the width", d_model),
              fmt::to_string(d_inner));
}

Result<Index> GgufKeys::mixer_head_dim() const {
  KRAIT_ASSIGN_OR_RETURN(const Index d_inner, number("ssm.inner_size", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, number("ssm.time_step_rank", 1));
  if (d_inner % n_head == 0) return d_inner / n_head;
  return fail("ssm.time_step_rank", fmt::format("a divisor of {}", d_inner),
              fmt::to_string(n_head));
}

bool is_gguf(std::span<const std::byte> bytes) noexcept {
  return bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0;
}

Result<void> read_gguf_checkpoint(std::shared_ptr<const FileBytes> file,
                                  const OpenGgufPart& open_part, Checkpoint& checkpoint) {
  return printable(read_file(std::move(file), open_part, checkpoint));
}

}  // namespace v0_1
}  // namespace krait
