#include "tools/aqlm/moments_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/bad_argument.hpp"
#include "io/content_checksum.hpp"
#include "io/lies_in.hpp"
#include "io/partial_folder.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/safetensors.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

constexpr std::string_view moments_format = "krait.aqlm.moments";
constexpr std::string_view moments_version = "1";
constexpr std::string_view parts_of_moments[] = {"moments", "rows", "difference"};

std::string piece_of(const std::string& name) { return name + ".moments"; }

std::string_view text_of(const WeightStore& store, std::string_view key) {
  const auto found = store.metadata.find(key);
  return found == store.metadata.end() ? std::string_view() : found->second;
}

Result<WeightStore> read_moments(const std::string& path) {
  KRAIT_ASSIGN_OR_RETURN(auto file, open_file(path, WeightsMode::map));
  WeightStore store;
  KRAIT_RETURN_IF_ERROR(read_safetensors(std::move(file), store));
  return store;
}

Result<WeightStore> kept_moments(const PartialWork& work, const std::string& name) {
  auto piece = work.read(piece_of(name));
  if (piece) return *std::move(piece);
  return Error{
      ErrorCode::io_failed,
      fmt::format("[aqlm] {}: expected its second moments, found none ({})", name, work.folder())};
}

std::vector<NamedTensor> tensors_of(const WeightStore& piece, const std::string& name) {
  std::vector<NamedTensor> tensors;
  for (const std::string_view part : parts_of_moments) {
    const WeightStore::Entry* entry = piece.find(part);
    if (entry != nullptr) tensors.push_back({fmt::format("{}.{}", name, part), entry->tensor});
  }
  return tensors;
}

}  // namespace

Result<void> check_moments_place(const std::string& path,
                                 const std::optional<std::string>& destination) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const auto refuse = [&](std::string_view expected, std::string_view found) {
    return bad_argument("aqlm", "save_moments", expected, fmt::format("{} ({})", found, path));
  };
  if (destination && (lies_in(path, *destination) || lies_in(path, partial_folder(*destination)))) {
    return refuse("a file outside the destination", "one in it");
  }
  if (fs::is_regular_file(path, ignored)) {
    const auto there = read_moments(path);
    if (there && text_of(*there, "format") == moments_format) return {};
    return refuse("a new file, or one of second moments", "another that is there");
  }
  if (fs::exists(path, ignored)) return refuse("a regular file", "something else");
  const fs::path folder = fs::absolute(path, ignored).parent_path();
  if (!fs::is_directory(folder, ignored)) return refuse("a folder that is there", "none");
  return {};
}

bool has_moments(const PartialWork& work, const std::string& name) {
  return work.read(piece_of(name)).has_value();
}

Result<void> keep_moments(const PartialWork& work, const std::string& name,
                          const MatrixStatistics& seen) {
  const Index in = seen.inputs.in;
  const Shape shape =
      std::ssize(seen.inputs.values) == in * in && in > 1 ? Shape{in, in} : Shape{in};
  const std::int64_t rows = seen.rows;
  std::vector<NamedTensor> tensors = {{"moments", {seen.inputs.values.data(), DType::f32, shape}},
                                      {"rows", {&rows, DType::i64, {1}}}};
  if (!seen.difference.empty()) {
    tensors.push_back(
        {"difference", {seen.difference.data(), DType::f64, {seen.difference_rows, in}}});
  }
  return work.write(piece_of(name), std::move(tensors));
}

Result<void> write_moments(const std::string& path, std::span<const Job> jobs,
                           const PartialWork& work, const MomentsNote& note) {
  std::vector<std::string> names;
  for (const Job& job : jobs) {
    for (Index i = 0; i < job.count(); ++i) names.push_back(job.name_of(i));
  }
  // Each is read twice, first for the shapes, so that no two are held of those in a folder.
  std::vector<NamedTensor> tensors;
  for (const std::string& name : names) {
    KRAIT_ASSIGN_OR_RETURN(const WeightStore piece, kept_moments(work, name));
    for (NamedTensor& tensor : tensors_of(piece, name)) {
      tensor.tensor.data = nullptr;
      tensors.push_back(std::move(tensor));
    }
  }
  KRAIT_ASSIGN_OR_RETURN(auto writer,
                         SafetensorsWriter::create(path, tensors,
                                                   {{"format", std::string(moments_format)},
                                                    {"version", std::string(moments_version)},
                                                    {"model", note.model},
                                                    {"tokens", std::to_string(note.tokens)},
                                                    {"text", note.text},
                                                    {"behind", note.behind}}));
  std::size_t at = 0;
  for (const std::string& name : names) {
    KRAIT_ASSIGN_OR_RETURN(const WeightStore piece, kept_moments(work, name));
    for (const NamedTensor& tensor : tensors_of(piece, name)) {
      KRAIT_RETURN_IF_ERROR(writer.write(at++, 0,
                                         {static_cast<const std::byte*>(tensor.tensor.data),
                                          static_cast<std::size_t>(tensor.tensor.bytes())}));
    }
  }
  return writer.commit();
}

Result<MomentsFile> MomentsFile::open(const std::string& path, std::span<const Job> jobs,
                                      const MomentsNote& wanted, Index d_model, bool diagonal) {
  MomentsFile file;
  file.path_ = path;
  file.is_diagonal_ = diagonal;
  KRAIT_ASSIGN_OR_RETURN(file.store_, read_moments(path));
  const auto text = [&](std::string_view key) { return std::string(text_of(file.store_, key)); };
  if (text("format") != moments_format) {
    return file.refused("moments", "a file that krait aqlm --save-moments wrote", "another");
  }
  if (text("version") != moments_version) {
    return file.refused("moments", fmt::format("version {}", moments_version),
                        fmt::format("'{}'", text("version")));
  }
  file.note_ = {text("model"), 0, text("text"), text("behind")};
  if (file.note_.model != wanted.model) {
    return file.refused("moments", fmt::format("those of the model {}", wanted.model),
                        fmt::format("'{}'", file.note_.model));
  }
  const std::string tokens = text("tokens");
  std::from_chars(tokens.data(), tokens.data() + tokens.size(), file.note_.tokens);
  file.is_same_run_ = !diagonal && file.note_.behind == wanted.behind;
  std::vector<std::string> missing;
  for (const Job& job : jobs) {
    for (Index i = 0; i < job.count(); ++i) {
      if (!file.store_.contains(job.name_of(i) + ".moments")) missing.push_back(job.name_of(i));
    }
  }
  if (!missing.empty()) {
    return file.refused("moments", fmt::format("those of {}", fmt::join(missing, ", ")), "none");
  }
  for (const Job& job : jobs) {
    for (Index i = 0; i < job.count(); ++i) KRAIT_RETURN_IF_ERROR(file.check(job, i, d_model));
  }
  return file;
}

std::string MomentsFile::checksum() const {
  std::vector<NamedTensor> all;
  for (const auto& [name, entry] : store_.entries()) all.push_back({name, entry.tensor});
  return content_checksum(std::move(all), store_.metadata);
}

Error MomentsFile::refused(const std::string& what, const std::string& expected,
                           const std::string& found) const {
  return bad_argument("aqlm", what, expected, fmt::format("{} ({})", found, path_));
}

Result<void> MomentsFile::check(const Job& job, Index i, Index d_model) const {
  const std::string name = job.name_of(i);
  const Index in = job.in;
  const auto check_form = [&](std::string_view part, DType dtype,
                              const Shape& shape) -> Result<void> {
    const std::string tensor = fmt::format("{}.{}", name, part);
    const WeightStore::Entry* entry = store_.find(tensor);
    if (entry != nullptr && entry->tensor.dtype == dtype && entry->tensor.shape == shape) return {};
    return refused(tensor, fmt::format("{} {}", to_string(dtype), to_string(shape)),
                   entry == nullptr ? "none"
                                    : fmt::format("{} {}", to_string(entry->tensor.dtype),
                                                  to_string(entry->tensor.shape)));
  };
  const auto not_finite = [&](std::string_view part, double value) {
    return Error{ErrorCode::not_finite,
                 fmt::format("[aqlm] {}.{}: expected finite values, found {} ({})", name, part,
                             value, path_)};
  };
  KRAIT_RETURN_IF_ERROR(check_form("rows", DType::i64, {1}));
  const TensorView& moments = store_.find(name + ".moments")->tensor;
  const bool is_of_diagonal = moments.shape.rank() == 1;
  if (is_of_diagonal && !is_diagonal_ && in > 1) {
    return refused(name + ".moments", "second moments, not the diagonal that the preset fast saves",
                   to_string(moments.shape));
  }
  KRAIT_RETURN_IF_ERROR(
      check_form("moments", DType::f32, is_of_diagonal ? Shape{in} : Shape{in, in}));
  const std::span<const float> H = moments.as<float>();
  for (const float value : H) {
    if (!std::isfinite(value)) return not_finite("moments", static_cast<double>(value));
  }
  const auto at = [&](Index row, Index column) {
    return static_cast<double>(H[static_cast<std::size_t>(row * in + column)]);
  };
  for (Index row = 0; row < in; ++row) {
    const double value =
        is_of_diagonal ? static_cast<double>(H[static_cast<std::size_t>(row)]) : at(row, row);
    if (value < 0.0) {
      return refused(name + ".moments", "a diagonal of at least 0", fmt::format("{}", value));
    }
  }
  // Sums of the same products in another order: equal but for their rounding.
  constexpr double rounding = 1e-4;
  for (Index row = 0; row < in && !is_of_diagonal; ++row) {
    for (Index column = 0; column < row; ++column) {
      const double most = rounding * std::sqrt(at(row, row) * at(column, column));
      if (std::abs(at(row, column) - at(column, row)) <= most) continue;
      return refused(name + ".moments", "a symmetric matrix",
                     fmt::format("{} at [{},{}] and {} at [{},{}]", at(row, column), row, column,
                                 at(column, row), column, row));
    }
  }
  const MatrixPlace place = job.place(i);
  if (!is_same_run_ || place.expert >= 0) return {};
  const Index rows = place.makes_output ? d_model : in;
  KRAIT_RETURN_IF_ERROR(check_form("difference", DType::f64, {rows, in}));
  for (const double value : store_.find(name + ".difference")->tensor.as<double>()) {
    if (!std::isfinite(value)) return not_finite("difference", value);
  }
  return {};
}

MatrixStatistics MomentsFile::of(const Job& job, Index i) const {
  const std::string name = job.name_of(i);
  const std::span<const float> H = store_.find(name + ".moments")->tensor.as<float>();
  MatrixStatistics result;
  result.inputs.in = job.in;
  if (is_diagonal_ && std::ssize(H) != job.in) {
    for (Index k = 0; k < job.in; ++k) {
      result.inputs.values.push_back(H[static_cast<std::size_t>(k * job.in + k)]);
    }
  } else {
    result.inputs.values.assign(H.begin(), H.end());
  }
  result.rows = store_.find(name + ".rows")->tensor.as<std::int64_t>().front();
  const MatrixPlace place = job.place(i);
  if (!is_same_run_ || place.expert >= 0) return result;
  const TensorView& difference = store_.find(name + ".difference")->tensor;
  const std::span<const double> values = difference.as<double>();
  result.difference.assign(values.begin(), values.end());
  result.difference_rows = difference.shape[0];
  result.is_of_outputs = place.makes_output;
  return result;
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
