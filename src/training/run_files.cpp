#include "training/run_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "io/json.hpp"
#include "io/write_text_file.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/weights/convert.hpp"
#include "loading/checkpoint_texts.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view identity_prefix = "krait.training.";
constexpr std::string_view steps_key = "krait.training.steps_done";
constexpr const char* run_file = "training.json";

std::uint64_t hash_of(const void* data, std::size_t bytes) {  // FNV-1a over words of 4 bytes
  const auto* p = static_cast<const std::byte*>(data);
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (std::size_t i = 0; i + sizeof(std::uint32_t) <= bytes; i += sizeof(std::uint32_t)) {
    std::uint32_t word = 0;
    std::memcpy(&word, p + i, sizeof word);
    hash = (hash ^ word) * 0x100000001B3ULL;
    hash ^= hash >> 29U;
  }
  return hash;
}

// Of all tensors of a checkpoint.
std::string hash_of_weights(const WeightStore& weights) {
  std::uint64_t hash = 0;
  for (const auto& [name, entry] : weights.entries()) {
    const TensorView& tensor = entry.tensor;
    hash = hash * 0x9E3779B97F4A7C15ULL ^ hash_of(name.data(), name.size());
    hash = hash * 0x9E3779B97F4A7C15ULL ^
           hash_of(tensor.data, static_cast<std::size_t>(tensor.bytes()));
  }
  return fmt::format("{:016x}", hash);
}

Error other_run(std::string_view what, std::string_view expected, std::string_view found,
                const std::string& place) {
  return {ErrorCode::bad_argument,
          fmt::format("[training] {}: expected {}, as in the interrupted run, found {} ({})", what,
                      expected, found, place)};
}

// What one of the two has alone is a difference, too.
Result<void> compare(const Identity& identity, const Identity& stored, const std::string& place) {
  const auto value_of = [](const Identity& entries, const std::string& key) -> std::string_view {
    const auto it = std::ranges::find(entries, key, &Identity::value_type::first);
    return it == entries.end() ? "none" : std::string_view(it->second);
  };
  for (const Identity* entries : {&identity, &stored}) {
    for (const auto& [key, value] : *entries) {
      const std::string_view expected = value_of(stored, key);
      const std::string_view found = value_of(identity, key);
      if (expected != found) return other_run(key, expected, found, place);
    }
  }
  return {};
}

std::string identity_json(const Identity& identity) {
  std::string json = "{";
  for (const auto& [key, value] : identity) {
    json += json.size() > 1 ? ",\n  " : "\n  ";
    append_json_string(json, key);
    json += ": ";
    append_json_string(json, value);
  }
  return json + "\n}\n";
}

Error failed(std::string_view what, const std::string& path) {
  return {ErrorCode::io_failed, fmt::format("[training] {}: expected to write it, found: {} ({})",
                                            what, std::generic_category().message(errno), path)};
}

using FileMetadata = std::map<std::string, std::string, std::less<>>;

FileMetadata metadata_of(const Identity& identity) {
  FileMetadata metadata;
  for (const auto& [key, value] : identity) {
    metadata.emplace(std::string(identity_prefix) + key, value);
  }
  return metadata;
}

// Unfinished work of this run, up to the result's type, which is free until there is a result: it
// may be what could not be written.
Result<void> check_unfinished(const Identity& identity, const FileMetadata& metadata,
                              const std::string& place) {
  constexpr std::string_view dtype_key = "dtype";
  Identity own = identity;
  std::erase_if(own, [&](const auto& entry) { return entry.first == dtype_key; });
  Identity stored;
  for (const auto& [key, value] : metadata) {
    if (!key.starts_with(identity_prefix) || key == steps_key) continue;
    std::string name = key.substr(identity_prefix.size());
    if (name != dtype_key) stored.emplace_back(std::move(name), value);
  }
  return compare(own, stored, place);
}

}  // namespace

Identity identity_of(const TrainTask& task, const TrainOptions& options, const TrainFiles& files) {
  const auto hash = [](const auto& array) {
    return fmt::format("{:016x}", hash_of(array.data(), array.size() * sizeof(array[0])));
  };
  std::vector<Token> examples;  // with the number of given tokens before each
  const auto put = [&](const Row& row) {
    examples.push_back(static_cast<Token>(row.given));
    examples.insert(examples.end(), row.tokens.begin(), row.tokens.end());
  };
  if (task.preference) {
    for (const PreferencePair& pair : task.preference->pairs) {
      put(pair.chosen);
      put(pair.rejected);
    }
  }
  const std::string data =
      examples.empty()  ? fmt::format("{} tokens {}", task.text.size(), hash(task.text))
      : task.preference ? fmt::format("{} pairs {}", task.preference->pairs.size(), hash(examples))
                        : fmt::format("{} examples {}", task.examples.size(), hash(examples));
  const std::string config = hash(task.checkpoint.config + "   ");
  Identity identity = {
      {"model", task.lora == nullptr ? hash(task.values.span()) + " " + config
                                     : hash_of_weights(task.lora->base()) + " " + config},
      {"data", data},
      {"seed", fmt::to_string(options.seed)},
      {"steps", fmt::to_string(options.steps)},
      {"batch", fmt::to_string(options.batch)},
      {"length", fmt::to_string(options.length)},
      {"accumulate", fmt::to_string(options.accumulate)},
      {"shards", fmt::to_string(options.used_shards())},
      {"order", std::string(to_string(options.order))},
      {"lr", fmt::to_string(options.learning_rate)},
      {"schedule", std::string(to_string(options.schedule))},
      {"warmup", fmt::to_string(options.warmup)},
      {"weight-decay", fmt::to_string(options.weight_decay)},
      {"beta1", fmt::to_string(options.beta1)},
      {"beta2", fmt::to_string(options.beta2)},
      {"eps", fmt::to_string(options.eps)},
      {"optimizer", std::string(to_string(options.optimizer))},
      {"clip", fmt::to_string(options.clip)},
      {"balance-loss", fmt::to_string(options.balance)},
      {"z-loss", fmt::to_string(options.z_loss)},
      {"dtype", std::string(to_string(files.dtype))}};
  if (task.teacher) {
    const Distillation& distillation = task.teacher->distillation;
    identity.insert(identity.end(), {{"teacher", task.teacher->model.fingerprint()},
                                     {"distill", fmt::to_string(distillation.alpha)},
                                     {"temperature", fmt::to_string(distillation.temperature)}});
  }
  if (options.capacity > 0.0) identity.emplace_back("capacity", fmt::to_string(options.capacity));
  if (options.optimizer == Optimizer::muon) {
    identity.emplace_back("momentum", fmt::to_string(options.momentum));
  }
  if (task.preference) {
    const PreferenceOptions& preference = task.preference->options;
    const std::optional<ReferenceModel>& reference = task.preference->reference;
    identity.insert(identity.end(),
                    {{"ref", reference ? hash(reference->values.span()) : "itself"},
                     {"loss", std::string(to_string(preference.loss))},
                     {"beta", fmt::to_string(preference.beta)},
                     {"label-smoothing", fmt::to_string(preference.label_smoothing)},
                     {"sft", fmt::to_string(preference.sft)},
                     {"ld-alpha", fmt::to_string(preference.ld_alpha)}});
    if (const std::optional<Replay>& replay = task.preference->replay; replay) {
      examples.clear();
      for (const Row& row : replay->examples) put(row);
      identity.insert(
          identity.end(),
          {{"replay", fmt::format("{} examples {}", replay->examples.size(), hash(examples))},
           {"replay-weight", fmt::to_string(replay->weight)}});
    }
  }
  if (task.lora != nullptr) {
    identity.insert(identity.begin(), {"lora", to_string(task.lora->options())});
    identity.emplace_back("factors", hash(task.values.span()));
  }
  return identity;
}

bool Checkpoints::exist() const {
  std::error_code ignored;
  return fs::is_regular_file(file(), ignored);
}

Result<void> Checkpoints::make_folder() const {
  std::error_code error;
  fs::create_directory(folder_, error);
  if (!error) return {};
  return Error{ErrorCode::io_failed,
               fmt::format("[training] checkpoint: expected to make its folder, found: {} ({})",
                           error.message(), folder_)};
}

Result<void> Checkpoints::save(Trainer& trainer, const Identity& identity) const {
  KRAIT_RETURN_IF_ERROR(make_folder());
  FileMetadata metadata = metadata_of(identity);
  metadata.emplace(steps_key, fmt::to_string(trainer.steps()));
  const Trainer::Arrays arrays = trainer.arrays();
  const auto tensor = [](std::span<float> values) {
    return TensorView{values.data(), DType::f32, {std::ssize(values)}};
  };
  return write_safetensors(file(),
                           {{"first_moments", tensor(arrays.first_moments)},
                            {"second_moments", tensor(arrays.second_moments)},
                            {"values", tensor(arrays.values)}},
                           metadata);
}

Result<void> Checkpoints::load(Trainer& trainer, const Identity& identity) const {
  KRAIT_ASSIGN_OR_RETURN(const auto bytes, open_file(file(), WeightsMode::map));
  WeightStore store;
  KRAIT_RETURN_IF_ERROR(read_safetensors(bytes, store));
  KRAIT_RETURN_IF_ERROR(check_unfinished(identity, store.metadata, folder_));
  const Trainer::Arrays arrays = trainer.arrays();
  for (const auto& [name, to] :
       {std::pair{"first_moments", arrays.first_moments},
        std::pair{"second_moments", arrays.second_moments}, std::pair{"values", arrays.values}}) {
    const WeightStore::Entry* entry = store.find(name);
    if (entry == nullptr || entry->tensor.dtype != DType::f32 ||
        entry->tensor.size() != std::ssize(to)) {
      return Error{ErrorCode::bad_format,
                   fmt::format("[training] {}: expected {} floats, found none or others ({})", name,
                               to.size(), file())};
    }
    std::ranges::copy(entry->tensor.as<float>(), to.begin());
  }
  const auto found = store.metadata.find(steps_key);
  const std::string text = found == store.metadata.end() ? "" : found->second;
  Index steps = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), steps);
  if (error != std::errc() || end != text.data() + text.size() || steps < 0 ||
      steps > trainer.options().steps) {
    return Error{ErrorCode::bad_format,
                 fmt::format("[training] steps: expected 0 to {}, found '{}' ({})",
                             trainer.options().steps, text, file())};
  }
  trainer.set_steps(steps);
  return {};
}

Result<void> Checkpoints::save_reference(std::span<const PreferencePair> pairs,
                                         const Identity& identity) const {
  KRAIT_RETURN_IF_ERROR(make_folder());
  std::vector<float> all;
  for (const PreferencePair& pair : pairs) {
    all.insert(all.end(), pair.chosen_reference.begin(), pair.chosen_reference.end());
    all.insert(all.end(), pair.rejected_reference.begin(), pair.rejected_reference.end());
  }
  return write_safetensors(reference_file(),
                           {{"log_probs", {all.data(), DType::f32, {std::ssize(all)}}}},
                           metadata_of(identity));
}

Result<bool> Checkpoints::load_reference(std::span<PreferencePair> pairs,
                                         const Identity& identity) const {
  std::error_code ignored;
  if (!fs::is_regular_file(reference_file(), ignored)) return false;
  KRAIT_ASSIGN_OR_RETURN(const auto bytes, open_file(reference_file(), WeightsMode::map));
  WeightStore store;
  KRAIT_RETURN_IF_ERROR(read_safetensors(bytes, store));
  KRAIT_RETURN_IF_ERROR(check_unfinished(identity, store.metadata, folder_));
  Index count = 0;
  for (const PreferencePair& pair : pairs) count += pair.chosen.targets() + pair.rejected.targets();
  const WeightStore::Entry* entry = store.find("log_probs");
  if (entry == nullptr || entry->tensor.dtype != DType::f32 || entry->tensor.size() != count) {
    return Error{ErrorCode::bad_format,
                 fmt::format("[training] log_probs: expected {} floats, found none or others ({})",
                             count, reference_file())};
  }
  const float* from = entry->tensor.as<float>().data();
  for (PreferencePair& pair : pairs) {
    pair.chosen_reference.assign(from, from + pair.chosen.targets());
    from += pair.chosen.targets();
    pair.rejected_reference.assign(from, from + pair.rejected.targets());
    from += pair.rejected.targets();
  }
  return true;
}

void Checkpoints::remove() const {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

Result<bool> has_identity(const std::string& path, const Identity& identity,
                          const std::string& place) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  KRAIT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, std::size_t{1} << 20U));
  KRAIT_ASSIGN_OR_RETURN(const Metadata json, parse_json(text, path));
  Identity stored;
  if (const Metadata::Object* members = json.object(); members != nullptr) {
    for (const auto& [key, value] : *members) {
      stored.emplace_back(key, value.text() != nullptr ? *value.text() : json_text(value));
    }
  }
  KRAIT_RETURN_IF_ERROR(compare(identity, stored, place));
  return true;
}

Result<void> write_identity(const std::string& path, const Identity& identity) {
  return write_text_file(path, identity_json(identity));
}

Result<bool> is_finished(const std::string& destination, const Identity& identity) {
  return has_identity(destination + "/" + run_file, identity, destination);
}

Result<void> check_result(const TensorView& trained, const TensorView& written,
                          std::string_view name) {
  const auto bad = find_not_finite(written);
  if (!bad) return {};
  return Error{ErrorCode::not_finite,
               fmt::format("[training] {}: expected {}", name,
                           not_representable(trained, *bad, to_string(written.dtype)))};
}

Result<void> write_result(const TrainTask& task, const TrainFiles& files, Trainer& trainer,
                          const Identity& identity) {
  KRAIT_ASSIGN_OR_RETURN(AtomicDirectory folder, AtomicDirectory::create(files.destination));
  if (task.lora != nullptr) {
    KRAIT_RETURN_IF_ERROR(task.lora->write(folder.path(), task.checkpoint.path,
                                           trainer.arrays().values.data(), files.dtype));
    KRAIT_RETURN_IF_ERROR(write_text_file(folder.path() + "/" + run_file, identity_json(identity)));
    return folder.commit();
  }
  std::vector<NamedTensor> tensors;
  std::vector<AlignedBuffer<std::byte>> rounded;
  for (const Parameter& parameter : trainer.parameters().all()) {
    const TensorView trained{trainer.arrays().values.data() + parameter.offset, DType::f32,
                             parameter.shape};
    TensorView view = trained;
    if (parameter.is_matrix && files.dtype != DType::f32) {
      rounded.emplace_back(view.size() * bytes_of(files.dtype));
      convert_floats(trained, files.dtype, rounded.back().data());
      view = {rounded.back().data(), files.dtype, parameter.shape};
    }
    KRAIT_RETURN_IF_ERROR(check_result(trained, view, parameter.name));
    tensors.push_back({parameter.name, view});
  }
  KRAIT_RETURN_IF_ERROR(
      write_safetensors(folder.path() + "/model.safetensors", tensors, {{"format", "pt"}}));
  KRAIT_RETURN_IF_ERROR(write_texts(task.checkpoint, task.checkpoint.config, folder.path()));
  KRAIT_RETURN_IF_ERROR(write_identity(folder.path() + "/" + run_file, identity));
  return folder.commit();
}

Result<Log> Log::open(const std::string& path, Index steps) {
  Log log;
  log.path_ = path;
  if (path.empty()) return log;
  std::error_code ignored;
  if (steps > 0 && fs::is_regular_file(path, ignored)) {
    std::string kept;
    {
      std::ifstream old(path);
      std::string line;
      for (Index i = 0; i < steps && std::getline(old, line); ++i) {
        kept += line + "\n";
        log.curve_.add(line);
      }
    }
    KRAIT_RETURN_IF_ERROR(write_text_file(path, kept));
    log.stream_.open(path, std::ios::app);
  } else {
    log.stream_.open(path, std::ios::trunc);
  }
  if (!log.stream_) return failed("log", path);
  log.is_drawn_ = fs::is_regular_file(path, ignored);
  return log;
}

Result<void> Log::write(const TrainProgress& progress) {
  if (path_.empty()) return {};
  const TrainStep& step = progress.step;
  curve_.add(step.step, step.loss, progress.held_out_loss);
  stream_ << fmt::format(
      "{{\"step\": {}, \"loss\": {}, \"grad_norm\": {}, \"learning_rate\": {}, "
      "\"tokens_per_second\": {:.1f}",
      step.step, step.loss, step.grad_norm, step.learning_rate, progress.tokens_per_second);
  if (step.pairs) {
    const PairStatistics& pairs = *step.pairs;
    stream_ << fmt::format(
        ", \"rewards/chosen\": {}, \"rewards/rejected\": {}, \"rewards/margins\": {}, "
        "\"rewards/accuracies\": {}, \"logps/chosen\": {}, \"logps/rejected\": {}",
        pairs.chosen_reward, pairs.rejected_reward, pairs.chosen_reward - pairs.rejected_reward,
        pairs.accuracy, pairs.chosen_log_p, pairs.rejected_log_p);
  }
  if (step.replay) stream_ << fmt::format(", \"loss/replay\": {}", *step.replay);
  if (step.divergence) stream_ << fmt::format(", \"kl\": {}", *step.divergence);
  if (progress.held_out_loss) {
    stream_ << fmt::format(", \"held_out_loss\": {}", *progress.held_out_loss);
  }
  stream_ << "}\n";
  stream_.flush();
  if (!stream_) return failed("log", path_);
  return {};
}

Result<void> Log::draw() const {
  if (!is_drawn_) return {};
  return write_text_file(path_ + ".svg", curve_.svg());
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
