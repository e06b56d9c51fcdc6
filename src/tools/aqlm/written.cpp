#include "tools/aqlm/written.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string_view>

#include "krait/io/safetensors.hpp"
#include "krait/weights/form.hpp"
#include "krait/weights/overlay.hpp"
#include "tools/aqlm/finished.hpp"
#include "tools/aqlm/tune.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// The parts of a matrix, or of a stack, as the file has them, without their data.
std::vector<NamedTensor> file_parts(const Job& job, const AqlmScheme& scheme) {
  const MatrixShape shape{job.out, job.in,
                          job.each.front().is_stacked ? std::optional(job.count()) : std::nullopt};
  const DType code_type = scheme.bits <= 8 ? DType::i8 : DType::i16;
  return {
      {job.name + ".codes",
       {nullptr, code_type, shape.tensor({job.out, job.in / scheme.in_group, scheme.codebooks})}},
      {job.name + ".codebooks",
       {nullptr, DType::f16,
        shape.tensor({scheme.codebooks, scheme.codewords(), 1, scheme.in_group})}},
      {job.name + ".scales", {nullptr, DType::f16, shape.tensor({job.out, 1, 1, 1})}}};
}

// Their data, in this order.
struct PartsData {
  std::vector<std::byte> codes;
  std::vector<f16> codebooks;
  std::vector<f16> scales;

  std::array<std::span<const std::byte>, 3> bytes() const {
    return {codes, std::as_bytes(std::span(codebooks)), std::as_bytes(std::span(scales))};
  }
};

// Codes are stored as signed numbers, wrapped at 2^bits.
void append_codes(const AqlmMatrix& matrix, std::vector<std::byte>& codes) {
  const int bits = static_cast<int>(matrix.scheme.bits);
  for (const std::uint16_t code : matrix.codes) {
    const int value = (code >> (bits - 1)) != 0 ? code - (1 << bits) : code;
    codes.push_back(static_cast<std::byte>(value & 0xFF));
    if (bits > 8) codes.push_back(static_cast<std::byte>((value >> 8) & 0xFF));
  }
}

Result<PartsData> finished_parts(const PartialWork& finished, const Job& job,
                                 const AqlmScheme& scheme, bool is_tuned) {
  PartsData parts;
  for (Index k = 0; k < job.count(); ++k) {
    KRAIT_ASSIGN_OR_RETURN(const AqlmMatrix matrix,
                           finished_matrix(finished, job, k, scheme, is_tuned));
    append_codes(matrix, parts.codes);
    parts.codebooks.insert(parts.codebooks.end(), matrix.codebooks.begin(), matrix.codebooks.end());
    parts.scales.insert(parts.scales.end(), matrix.scales.begin(), matrix.scales.end());
  }
  return parts;
}

// The checkpoint's tensors as they are after tuning, those of `jobs` among them as they were.
Result<WeightStore> tuned_weights(const CheckpointPlan& plan, const PartialWork& finished,
                                  bool is_tuned) {
  WeightStore store = plan.checkpoint.weights;
  if (!is_tuned) return store;
  const auto dense = finished.read(tuned_dense);
  if (!dense) {
    return Error{ErrorCode::io_failed,
                 fmt::format("[aqlm] {}: expected the finished tensors, found none ({})",
                             tuned_dense, finished.folder())};
  }
  for (const auto& owner : dense->owners()) store.keep(owner);
  for (const auto& [name, entry] : dense->entries()) {
    const WeightStore::Entry* old = store.find(name);
    if (old == nullptr) continue;
    const std::string file = old->file;
    store.add(name, entry.tensor, nullptr, file);
  }
  return store;
}

Index bytes_of(const WeightStore& store) {
  Index bytes = 0;
  for (const auto& [name, entry] : store.entries()) bytes += entry.tensor.bytes();
  return bytes;
}

// Takes out `"key": null`, which says as little as no such member.
void erase_null(std::string& config, std::string_view key) {
  const std::string quoted = fmt::format("\"{}\"", key);
  const auto next = [&](std::size_t from) { return config.find_first_not_of(" \t\r\n", from); };
  for (std::size_t at = 0; (at = config.find(quoted, at)) != std::string::npos;) {
    const std::size_t colon = next(at + quoted.size());
    const std::size_t value = next(colon + 1);
    if (config.at(colon) != ':' || config.compare(value, 4, "null") != 0) {
      at += quoted.size();
      continue;
    }
    std::size_t end = next(value + 4);
    if (config.at(end) == ',') {
      ++end;
    } else {
      at = std::min(at, config.find_last_not_of(" \t\r\n", at - 1));
      if (config.at(at) != ',') ++at;
    }
    config.erase(at, end - at);
  }
}

}  // namespace

std::string with_quantization(const Checkpoint& checkpoint, const std::vector<Job>& jobs,
                              const AqlmScheme& scheme) {
  std::set<std::string> quantised;
  for (const Job& job : jobs) quantised.insert(job.name);
  // A tied head has no tensor; transformers 5 compares the names of modules.
  std::set<std::string> dense = {"lm_head", "lm_head.weight"};
  constexpr std::string_view weight = ".weight";
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    if (!name.ends_with(weight)) {
      dense.insert(name);
      continue;
    }
    const std::string module = name.substr(0, name.size() - weight.size());
    if (quantised.contains(module)) continue;
    dense.insert(name);
    // transformers 5 compares the names of modules.
    if (entry.tensor.shape.rank() == 2) dense.insert(module);
  }
  for (const std::string& module : quantised) {  // the head
    dense.erase(module);
    dense.erase(module + ".weight");
  }
  std::string list;
  for (const std::string& name : dense) {
    list += fmt::format("{}\"{}\"", list.empty() ? "" : ", ", name);
  }
  const std::string added = fmt::format(
      "\n  \"quantization_config\": {{\n    \"quant_method\": \"aqlm\",\n    "
      "\"nbits_per_codebook\": {},\n    \"num_codebooks\": {},\n    \"in_group_size\": {},\n    "
      "\"out_group_size\": 1,\n    \"linear_weights_not_to_quantize\": [{}]\n  }},",
      scheme.bits, scheme.codebooks, scheme.in_group, list);
  std::string config = checkpoint.config;
  erase_null(config, "quantization_config");
  config.insert(config.find('{') + 1, added);
  return config;
}

Result<AqlmMatrix> finished_matrix(const PartialWork& finished, const Job& job, Index i,
                                   const AqlmScheme& scheme, bool is_tuned) {
  const std::string name = is_tuned ? tuned_name(job.name_of(i)) : job.name_of(i);
  auto matrix = read_matrix(finished, name, scheme, job.out, job.in);
  if (matrix) return *std::move(matrix);
  return Error{ErrorCode::io_failed,
               fmt::format("[aqlm] {}: expected the finished matrix, found none ({})", name,
                           finished.folder())};
}

Result<WeightStore> overlay_weights(const CheckpointPlan& plan, const std::vector<Job>& jobs,
                                    const AqlmScheme& scheme, const PartialWork& finished,
                                    bool is_tuned, AqlmReport& report) {
  KRAIT_ASSIGN_OR_RETURN(WeightStore store, tuned_weights(plan, finished, is_tuned));
  for (const Job& job : jobs) {
    KRAIT_ASSIGN_OR_RETURN(PartsData made, finished_parts(finished, job, scheme, is_tuned));
    const auto data = std::make_shared<const PartsData>(std::move(made));
    const auto bytes = data->bytes();
    std::vector<NamedTensor> parts = file_parts(job, scheme);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      parts[i].name.erase(0, job.name.size() + 1);
      parts[i].tensor.data = bytes[i].data();
    }
    replace_matrix(store, job.name, "aqlm", parts, data);
  }
  report.bytes_before += bytes_of(plan.checkpoint.weights);
  report.bytes_after += bytes_of(store);
  return store;
}

Result<void> write_weights(const CheckpointPlan& plan, const std::vector<Job>& jobs,
                           const AqlmScheme& scheme, const PartialWork& finished, bool is_tuned,
                           const std::string& path, AqlmReport& report) {
  KRAIT_ASSIGN_OR_RETURN(WeightStore copied, tuned_weights(plan, finished, is_tuned));
  for (const Job& job : jobs) copied.remove(job.name + ".weight");
  std::vector<NamedTensor> tensors;
  for (const auto& [name, entry] : copied.entries()) tensors.push_back({name, entry.tensor});
  for (const Job& job : jobs) {
    const auto parts = file_parts(job, scheme);
    tensors.insert(tensors.end(), parts.begin(), parts.end());
  }
  report.bytes_before += bytes_of(plan.checkpoint.weights);
  for (const NamedTensor& tensor : tensors) report.bytes_after += tensor.tensor.bytes();
  auto metadata = plan.checkpoint.weights.metadata;
  metadata["format"] = "pt";
  KRAIT_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(path, tensors, metadata));
  std::size_t i = 0;
  for (; i < copied.size(); ++i) {
    const TensorView& tensor = tensors[i].tensor;
    KRAIT_RETURN_IF_ERROR(writer.write(
        i, 0,
        {static_cast<const std::byte*>(tensor.data), static_cast<std::size_t>(tensor.bytes())}));
  }
  for (const Job& job : jobs) {
    KRAIT_ASSIGN_OR_RETURN(const PartsData parts, finished_parts(finished, job, scheme, is_tuned));
    for (const auto bytes : parts.bytes()) KRAIT_RETURN_IF_ERROR(writer.write(i++, 0, bytes));
  }
  return writer.commit();
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
