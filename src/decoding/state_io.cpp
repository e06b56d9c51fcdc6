#include "krait/decoding/state_io.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "io/content_checksum.hpp"
#include "krait/io/printable.hpp"
#include "krait/io/safetensors.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view format_name = "krait-state";
constexpr std::string_view format_version = "2";
constexpr std::string_view tokens_name = "tokens";
constexpr std::string_view kv_dtype_key = "kv_dtype";  // left out where it is f32
constexpr std::string_view clean_prefix = "clean.";    // of the names of the clean state's tensors

class Reader {
 public:
  Reader(const WeightStore& store, const std::string& path) : store_(store), path_(path) {}

  Result<void> expect(std::string_view key, std::string_view value, ErrorCode code,
                      std::string_view meaning) const {
    const std::string* found = find(key);
    if (found == nullptr || *found != value) {
      return fail(code, meaning, fmt::format("{} {}", key, value),
                  found == nullptr ? "none" : *found);
    }
    return {};
  }

  Result<Index> number(std::string_view key, Index most) const {
    const std::string* text = find(key);
    Index value = -1;
    const char* end = text != nullptr ? text->data() + text->size() : nullptr;
    if (text == nullptr || text->empty() || std::from_chars(text->data(), end, value).ptr != end ||
        value < 0 || value > most) {
      return fail(ErrorCode::bad_format, key, fmt::format("a number from 0 to {}", most),
                  text == nullptr ? "none" : *text);
    }
    return value;
  }

  Result<TensorView> tensor(std::string_view name, DType dtype, std::optional<Shape> shape) const {
    const WeightStore::Entry* entry = store_.find(name);
    const std::string expected =
        fmt::format("{} {}", to_string(dtype), shape ? to_string(*shape) : std::string("[n]"));
    if (entry == nullptr) return fail(ErrorCode::bad_format, name, expected, "no such tensor");
    const TensorView& found = entry->tensor;
    if (found.dtype != dtype || (shape ? found.shape != *shape : found.shape.rank() != 1)) {
      return fail(ErrorCode::bad_format, name, expected,
                  fmt::format("{} {}", to_string(found.dtype), to_string(found.shape)));
    }
    return found;
  }

  bool has(std::string_view key) const { return find(key) != nullptr; }
  const std::string* find(std::string_view key) const {
    const auto it = store_.metadata.find(key);
    return it == store_.metadata.end() ? nullptr : &it->second;
  }

  Error fail(ErrorCode code, std::string_view what, std::string_view expected,
             std::string_view found) const {
    return {code, fmt::format("[state] {}: expected {}, found {} ({})", what, expected,
                              printable(found), path_)};
  }

 private:
  const WeightStore& store_;
  const std::string& path_;
};

// The fixed block of a state, and its cache of so many rows. `prefix` is of the tensors' names.
Result<void> read_values(const Reader& reader, const Model& model, const std::string& prefix,
                         Index position, State& state) {
  for (const StateTensor& tensor : model.parts().state_layout->tensors) {
    KRAIT_ASSIGN_OR_RETURN(const TensorView view,
                           reader.tensor(prefix + tensor.path, DType::f32, tensor.shape));
    if (view.size() > 0) {
      std::memcpy(state.tensor(tensor.path).data(), view.data,
                  static_cast<std::size_t>(view.bytes()));
    }
  }
  for (const CacheTensor& tensor : model.parts().state_layout->cache) {
    const Shape shape{position, tensor.slot.floats};
    KRAIT_ASSIGN_OR_RETURN(const TensorView view,
                           reader.tensor(prefix + tensor.path, tensor.slot.dtype, shape));
    KRAIT_RETURN_IF_ERROR(state.reserve(position));
    const auto* values = static_cast<const std::byte*>(view.data);
    const Index bytes = tensor.slot.floats * bytes_of(tensor.slot.dtype);
    for (Index t = 0; t < position; ++t) {
      std::memcpy(cache_row(state.cache().pages().data(), tensor.slot, t), values + t * bytes,
                  static_cast<std::size_t>(bytes));
    }
  }
  state.cache().set_rows(position);
  state.set_position(position);
  return {};
}

// The state in front of noised passes, if there were any: its tokens are among the last.
Result<void> read_clean(const Reader& reader, const Model& model, Sequence& sequence) {
  if (!reader.has("noised")) return {};
  const Index consumed = std::ssize(sequence.tokens) - sequence.pending;
  const Index position = sequence.state.position();
  KRAIT_ASSIGN_OR_RETURN(const Index clean, reader.number("clean_position", position));
  if (position - clean > consumed) {
    return reader.fail(ErrorCode::bad_format, "clean_position",
                       fmt::format("at least {}, with all tokens behind it", position - consumed),
                       fmt::to_string(clean));
  }
  KRAIT_ASSIGN_OR_RETURN(sequence.noised, reader.number("noised", position - clean));
  sequence.clean = model.initial_state();
  return read_values(reader, model, std::string(clean_prefix), clean, sequence.clean);
}

// "3-5,7-8": which of the pending tokens were sampled.
std::string written_ranges(const Sequence& sequence) {
  const Index first = std::ssize(sequence.tokens) - sequence.pending;
  std::string text;
  for (const Range& range : sequence.sampled) {
    const Index begin = std::max(range.begin, first);
    const Index end = std::min(range.end, std::ssize(sequence.tokens));
    if (begin >= end) continue;
    text += fmt::format("{}{}-{}", text.empty() ? "" : ",", begin, end);
  }
  return text;
}

Result<std::vector<Range>> read_ranges(const Reader& reader, Index tokens) {
  std::vector<Range> ranges;
  if (!reader.has("sampled")) return ranges;
  const std::string& text = *reader.find("sampled");
  const char* at = text.data();
  const char* const end = at + text.size();
  Index last = 0;
  while (at < end) {
    Range range;
    auto read = std::from_chars(at, end, range.begin);
    const bool has_dash = read.ec == std::errc() && read.ptr < end && *read.ptr == '-';
    if (has_dash) read = std::from_chars(read.ptr + 1, end, range.end);
    const bool ends = read.ec == std::errc() && (read.ptr == end || *read.ptr == ',');
    if (!has_dash || !ends || range.begin < last || range.end <= range.begin ||
        range.end > tokens) {
      return reader.fail(ErrorCode::bad_format, "sampled",
                         fmt::format("ascending ranges within 0 to {}", tokens), text);
    }
    ranges.push_back(range);
    last = range.end;
    at = read.ptr == end ? end : read.ptr + 1;
  }
  return ranges;
}

}  // namespace

namespace {

// The tensors of a state. The rows of a cache lie in pages; in the file they follow one another, as
// they do in `rows`.
void add_values(const std::string& prefix, const State& state, std::vector<NamedTensor>& tensors,
                std::vector<AlignedBuffer<std::byte>>& rows) {
  const StateLayout& layout = *state.layout();
  const Index position = state.position();
  for (const StateTensor& tensor : layout.tensors) {
    tensors.push_back(
        {prefix + tensor.path, {state.tensor(tensor.path).data(), DType::f32, tensor.shape}});
  }
  for (const CacheTensor& tensor : layout.cache) {
    const Index bytes = tensor.slot.floats * bytes_of(tensor.slot.dtype);
    AlignedBuffer<std::byte>& all = rows.emplace_back(position * bytes);
    for (Index t = 0; t < position; ++t) {
      std::memcpy(all.data() + t * bytes, state.cache().row(tensor.slot, t).data,
                  static_cast<std::size_t>(bytes));
    }
    tensors.push_back(
        {prefix + tensor.path, {all.data(), tensor.slot.dtype, {position, tensor.slot.floats}}});
  }
}

}  // namespace

Result<void> save_state(const Sequence& sequence, const std::string& path) {
  const auto refuse = [](std::string_view what, std::string_view expected, std::string_view found) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[state] {}: expected {}, found {}", what, expected, found)};
  };
  if (sequence.state.layout() == nullptr) return refuse("state", "one of a model", "an empty one");
  const StateLayout& layout = *sequence.state.layout();
  const Index position = sequence.state.position();
  const Index known = std::ssize(sequence.tokens);
  if (position < 0 || position > State::largest_position) {
    return refuse("position", fmt::format("0 to {}", State::largest_position),
                  fmt::to_string(position));
  }
  if (sequence.pending < 0 || sequence.pending > known || known - sequence.pending > position) {
    return refuse("pending", fmt::format("at most {} of {} tokens consumed", position, known),
                  fmt::format("{} pending", sequence.pending));
  }
  if (sequence.unshown < 0) {
    return refuse("unshown", "a number of at least 0", fmt::to_string(sequence.unshown));
  }
  const bool has_clean = sequence.noised > 0;
  if (has_clean && (sequence.clean.layout() != sequence.state.layout() ||
                    position - sequence.clean.position() > known - sequence.pending ||
                    position - sequence.clean.position() < sequence.noised)) {
    return refuse("clean", "a state in front of the noised tokens", "another");
  }
  if (!layout.cache.empty() && sequence.state.cache().rows() != position) {
    return refuse("cache", fmt::format("{} rows", position),
                  fmt::to_string(sequence.state.cache().rows()));
  }
  std::vector<NamedTensor> tensors;
  std::vector<AlignedBuffer<std::byte>> rows;
  add_values("", sequence.state, tensors, rows);
  if (has_clean) add_values(std::string(clean_prefix), sequence.clean, tensors, rows);
  tensors.push_back({std::string(tokens_name), {sequence.tokens.data(), DType::i32, {known}}});
  std::map<std::string, std::string, std::less<>> metadata = {
      {"format", std::string(format_name)},
      {"format_version", std::string(format_version)},
      {"krait_version", version()},
      {"model", layout.fingerprint},
      {"position", std::to_string(position)},
      {"pending", std::to_string(sequence.pending)},
      {"unshown", std::to_string(sequence.unshown)}};
  if (layout.kv_dtype != DType::f32) {
    metadata.emplace(kv_dtype_key, to_string(layout.kv_dtype));
  }
  if (const std::string ranges = written_ranges(sequence); !ranges.empty()) {
    metadata.emplace("sampled", ranges);
  }
  if (has_clean) {
    metadata.emplace("clean_position", std::to_string(sequence.clean.position()));
    metadata.emplace("noised", std::to_string(sequence.noised));
  }
  metadata.emplace(content_checksum_key, content_checksum(tensors, metadata));
  return write_safetensors(path, tensors, metadata);
}

Result<void> save_state(const State& state, const std::string& path) {
  Sequence sequence;
  sequence.state = state;
  return save_state(sequence, path);
}

Result<Sequence> load_state(const Model& model, const std::string& path) {
  KRAIT_ASSIGN_OR_RETURN(auto file, open_file(path, WeightsMode::copy));
  return load_state(model, std::move(file));
}

Result<Sequence> load_state(const Model& model, std::shared_ptr<const FileBytes> file) {
  const std::string path = file->name();
  WeightStore store;
  KRAIT_RETURN_IF_ERROR(read_safetensors(std::move(file), store));
  const Reader reader(store, path);
  KRAIT_RETURN_IF_ERROR(reader.expect("format", format_name, ErrorCode::bad_format, "file"));
  KRAIT_RETURN_IF_ERROR(
      reader.expect("format_version", format_version, ErrorCode::unsupported, "file"));
  std::vector<NamedTensor> content;
  for (const auto& [name, entry] : store.entries()) content.push_back({name, entry.tensor});
  KRAIT_RETURN_IF_ERROR(reader.expect(content_checksum_key,
                                      content_checksum(std::move(content), store.metadata),
                                      ErrorCode::bad_format, "content"));
  const DType kv_dtype = model.parts().state_layout->kv_dtype;
  const std::string* stored = reader.find(kv_dtype_key);
  const std::string_view found = stored == nullptr ? to_string(DType::f32) : *stored;
  if (found != to_string(kv_dtype)) {
    return reader.fail(ErrorCode::incompatible_state, "keys and values", to_string(kv_dtype),
                       found);
  }
  KRAIT_RETURN_IF_ERROR(reader.expect("model", model.fingerprint(), ErrorCode::incompatible_state,
                                      "model fingerprint"));
  KRAIT_ASSIGN_OR_RETURN(const Index position, reader.number("position", State::largest_position));
  KRAIT_ASSIGN_OR_RETURN(const Index pending, reader.number("pending", State::largest_position));
  KRAIT_ASSIGN_OR_RETURN(const Index unshown, reader.number("unshown", State::largest_position));

  Sequence sequence(model);
  KRAIT_RETURN_IF_ERROR(read_values(reader, model, "", position, sequence.state));

  KRAIT_ASSIGN_OR_RETURN(const TensorView tokens,
                         reader.tensor(tokens_name, DType::i32, std::nullopt));
  sequence.tokens.resize(static_cast<std::size_t>(tokens.size()));
  if (tokens.size() > 0) {
    std::memcpy(sequence.tokens.data(), tokens.data, static_cast<std::size_t>(tokens.bytes()));
  }
  for (const Token token : sequence.tokens) {
    if (token < 0 || token >= model.vocab_padded()) {
      return reader.fail(ErrorCode::bad_format, tokens_name,
                         fmt::format("ids from 0 to {}", model.vocab_padded() - 1),
                         fmt::to_string(token));
    }
  }
  // A text may be known in part only, but what is pending must be.
  if (pending > tokens.size() || tokens.size() - pending > position) {
    return reader.fail(ErrorCode::bad_format, tokens_name,
                       fmt::format("at most {}, the last {} pending", position, pending),
                       fmt::to_string(tokens.size()));
  }
  sequence.pending = pending;
  sequence.unshown = unshown;
  KRAIT_ASSIGN_OR_RETURN(sequence.sampled, read_ranges(reader, std::ssize(sequence.tokens)));
  KRAIT_RETURN_IF_ERROR(read_clean(reader, model, sequence));
  return sequence;
}

}  // namespace v0_1
}  // namespace krait
