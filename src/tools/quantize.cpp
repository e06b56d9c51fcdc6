#include "krait/tools/quantize.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "krait/io/atomic_file.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/kernels/quant.hpp"
#include "krait/models/registry.hpp"
#include "krait/weights/convert.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;
using kernels::BadWeight;
using kernels::GroupedForm;
using kernels::GroupedWeights;

// Elements that are converted at once, between two reports of progress.
constexpr Index chunk_elements = Index{1} << 22;

// The form a matrix is written in.
struct Target {
  std::optional<GroupedForm> grouped;
  DType dtype = DType::f32;  // of a matrix that is not grouped

  static std::optional<Target> of(WeightForm form) {
    switch (form) {
      case WeightForm::q8:
        return Target{.grouped = GroupedForm::q8};
      case WeightForm::q4:
        return Target{.grouped = GroupedForm::q4};
      case WeightForm::bf16:
        return Target{.grouped = {}, .dtype = DType::bf16};
      case WeightForm::f16:
        return Target{.grouped = {}, .dtype = DType::f16};
      default:
        return std::nullopt;
    }
  }
};

// What a tensor [rows, cols] or [count, rows, cols] is made of.
struct Matrices {
  Index count;
  Index rows;
  Index cols;
  bool is_stack;

  static Matrices of(const Shape& shape) {
    const int last = shape.rank() - 1;
    return {shape.size() / std::max<Index>(1, shape[last - 1] * shape[last]), shape[last - 1],
            shape[last], shape.rank() == 3};
  }
};

// A tensor of the source, and the first of those that it becomes.
struct Job {
  const std::string* name;
  TensorView tensor;
  std::optional<Matrices> matrices;  // if it is made of some
  std::size_t first;
};

std::span<const std::byte> bytes_of_buffer(const void* data, Index bytes) {
  return {static_cast<const std::byte*>(data), static_cast<std::size_t>(bytes)};
}

// Rows [first, first + count) of a matrix of floats.
TensorView rows_of(const TensorView& matrix, Index first, Index count) {
  const Index cols = matrix.shape[1];
  const auto* data = static_cast<const std::byte*>(matrix.data);
  return {data + first * cols * bytes_of(matrix.dtype), matrix.dtype, Shape{count, cols}};
}

// The first of the places that several threads found.
class FirstBad {
 public:
  void add(const BadWeight& bad) {
    const std::lock_guard lock(mutex_);
    if (!bad_ || bad.row < bad_->row) bad_ = bad;
  }
  const std::optional<BadWeight>& get() const noexcept { return bad_; }

 private:
  std::mutex mutex_;
  std::optional<BadWeight> bad_;
};

class Conversion {
 public:
  Conversion(const Target& target, Executor& executor, Progress progress)
      : target_(target), executor_(executor), progress_(progress) {}

  // Lists what is to be written.
  void plan(const WeightStore& weights, const ModelPlan& plan) {
    std::map<std::string_view, Shape> matrices;
    std::set<std::string_view> kept(plan.unused.begin(), plan.unused.end());
    for (const TensorUse& use : plan.tensors) {
      kept.insert(use.name);
      if (use.role == TensorRole::matrix) matrices.emplace(use.name, use.shape);
    }
    for (const auto& [name, entry] : weights.entries()) {
      summary_.bytes_before += entry.tensor.bytes();
      if (!kept.contains(name)) continue;  // a head that repeats the embedding
      const auto matrix = matrices.find(name);
      Job job{&name, entry.tensor, std::nullopt, outputs_.size()};
      if (matrix != matrices.end()) job.matrices = Matrices::of(matrix->second);
      total_ += entry.tensor.bytes();
      add_outputs(job);
      jobs_.push_back(job);
    }
    summary_.tensors = static_cast<Index>(jobs_.size());
    for (const NamedTensor& output : outputs_) summary_.bytes_after += output.tensor.bytes();
  }

  Result<void> write(const std::string& path,
                     const std::map<std::string, std::string, std::less<>>& metadata) {
    KRAIT_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(path, outputs_, metadata));
    for (const Job& job : jobs_) {
      if (!job.matrices) {
        KRAIT_RETURN_IF_ERROR(copy(job, writer));
      } else if (target_.grouped) {
        KRAIT_RETURN_IF_ERROR(pack(job, writer));
      } else {
        KRAIT_RETURN_IF_ERROR(convert(job, writer));
      }
    }
    return writer.commit();
  }

  const QuantizeSummary& summary() const noexcept { return summary_; }

 private:
  void add_outputs(const Job& job) {
    std::string form(to_string(job.tensor.dtype));
    if (job.matrices && target_.grouped) {
      const GroupedWeights packed = grouped(job, job.matrices->rows);
      const auto shape = [&](Index last) -> Shape {
        if (!job.matrices->is_stack) return {packed.row_blocks(), packed.groups(), last};
        return {job.matrices->count, packed.row_blocks(), packed.groups(), last};
      };
      constexpr std::string_view last_part = "weight";
      const std::string prefix = job.name->substr(0, job.name->size() - last_part.size());
      form = to_string(*target_.grouped);
      outputs_.push_back(
          {prefix + "codes", {nullptr, DType::u8, shape(kernels::block_bytes(*target_.grouped))}});
      outputs_.push_back({prefix + "scales", {nullptr, DType::f16, shape(kernels::row_block)}});
    } else if (job.matrices) {
      form = to_string(target_.dtype);
      outputs_.push_back({*job.name, {nullptr, target_.dtype, job.tensor.shape}});
    } else {
      outputs_.push_back({*job.name, {nullptr, job.tensor.dtype, job.tensor.shape}});
    }
    if (job.matrices && form != to_string(job.tensor.dtype)) ++summary_.converted;
    ++summary_.forms[form];
  }

  GroupedWeights grouped(const Job& job, Index rows) const {
    return {.form = *target_.grouped,
            .codes = nullptr,
            .scales = nullptr,
            .rows = rows,
            .cols = job.matrices->cols};
  }

  Result<void> report(Index bytes) {
    done_ += bytes;
    if (progress_ && progress_(done_, total_) == Flow::stop) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[quantize] stopped after {} of {} bytes", done_, total_)};
    }
    return {};
  }

  // Calls body(part, matrix, first row in it) with all rows of all matrices, some at a time.
  template <class Body>
  Result<void> for_rows(const Job& job, Body&& body) {
    const auto [count, rows, cols, is_stack] = *job.matrices;
    const Index step = round_up(std::max(Index{1}, chunk_elements / cols), kernels::row_block);
    const TensorView all{job.tensor.data, job.tensor.dtype, {count * rows, cols}};
    for (Index matrix = 0; matrix < count; ++matrix) {
      for (Index first = 0; first < rows; first += step) {
        const TensorView part = rows_of(all, matrix * rows + first, std::min(step, rows - first));
        KRAIT_RETURN_IF_ERROR(body(part, matrix, first));
        KRAIT_RETURN_IF_ERROR(report(part.bytes()));
      }
    }
    return {};
  }

  Error refused(const Job& job, const BadWeight& bad, Index first_row) const {
    return {ErrorCode::bad_format,
            fmt::format("[quantize] {}: expected weights that {} can represent, found one that is "
                        "not finite or too large (row {}, column {})",
                        *job.name, to_string(*target_.grouped), bad.row + first_row, bad.col)};
  }
  Error refused(const Job& job, const TensorView& part, std::string_view form, Index element,
                Index first_row) const {
    return {ErrorCode::bad_format, fmt::format("[quantize] {}: expected {}", *job.name,
                                               not_representable(part, element, form, first_row))};
  }

  // The rows in f32 if they are in f64, which no kernel reads.
  Result<TensorView> narrowed(const Job& job, const TensorView& part, Index first_row) {
    if (part.dtype != DType::f64) return part;
    floats_.resize(static_cast<std::size_t>(part.size()));
    const TensorView narrow{floats_.data(), DType::f32, part.shape};
    convert_floats(part, DType::f32, floats_.data());
    const auto bad = find_not_finite(narrow);
    if (bad) return refused(job, part, to_string(DType::f32), *bad, first_row);
    return narrow;
  }

  Result<void> pack(const Job& job, SafetensorsWriter& writer) {
    const Index blocks_of_matrix = grouped(job, job.matrices->rows).row_blocks();
    return for_rows(job, [&](const TensorView& stored, Index matrix, Index first) -> Result<void> {
      KRAIT_ASSIGN_OR_RETURN(const TensorView part,
                             narrowed(job, stored, matrix * job.matrices->rows + first));
      const GroupedWeights packed = grouped(job, part.shape[0]);
      const Index blocks = packed.row_blocks();
      const Index codes_per_block = packed.groups() * kernels::block_bytes(packed.form);
      const Index scales_per_block = packed.groups() * kernels::row_block * bytes_of(DType::f16);
      codes_.resize(static_cast<std::size_t>(blocks * codes_per_block));
      scales_.resize(static_cast<std::size_t>(blocks * packed.groups() * kernels::row_block));
      if (const auto bad =
              kernels::quantize(executor_, packed.form, part, codes_.data(), scales_.data())) {
        return refused(job, *bad, matrix * job.matrices->rows + first);
      }
      const Index first_block = matrix * blocks_of_matrix + first / kernels::row_block;
      KRAIT_RETURN_IF_ERROR(writer.write(job.first, first_block * codes_per_block,
                                         bytes_of_buffer(codes_.data(), blocks * codes_per_block)));
      return writer.write(job.first + 1, first_block * scales_per_block,
                          bytes_of_buffer(scales_.data(), blocks * scales_per_block));
    });
  }

  Result<void> convert(const Job& job, SafetensorsWriter& writer) {
    return for_rows(job,
                    [&](const TensorView& part, Index matrix, Index first_row) -> Result<void> {
                      const Index first = matrix * job.matrices->rows + first_row;
                      const Index cols = part.shape[1];
                      const Index row_bytes = cols * bytes_of(target_.dtype);
                      codes_.resize(static_cast<std::size_t>(part.shape[0] * row_bytes));
                      auto* out = reinterpret_cast<std::byte*>(codes_.data());
                      FirstBad bad;
                      parallel_for(executor_, part.shape[0], 1, [&](Range range) {
                        std::byte* values = out + range.begin * row_bytes;
                        const TensorView rows = rows_of(part, range.begin, range.size());
                        convert_floats(rows, target_.dtype, values);
                        const auto found = find_not_finite({values, target_.dtype, rows.shape});
                        if (found) bad.add({range.begin + *found / cols, *found % cols});
                      });
                      if (bad.get()) {
                        const Index element = bad.get()->row * cols + bad.get()->col;
                        return refused(job, part, to_string(target_.dtype), element, first);
                      }
                      return writer.write(job.first, first * row_bytes,
                                          bytes_of_buffer(out, part.shape[0] * row_bytes));
                    });
  }

  Result<void> copy(const Job& job, SafetensorsWriter& writer) {
    constexpr Index step = chunk_elements * 4;
    const auto* data = static_cast<const std::byte*>(job.tensor.data);
    for (Index first = 0; first < job.tensor.bytes(); first += step) {
      const Index count = std::min(step, job.tensor.bytes() - first);
      KRAIT_RETURN_IF_ERROR(writer.write(job.first, first, bytes_of_buffer(data + first, count)));
      KRAIT_RETURN_IF_ERROR(report(count));
    }
    return {};
  }

  Target target_;
  Executor& executor_;
  Progress progress_;
  QuantizeSummary summary_;
  std::vector<Job> jobs_;
  std::vector<NamedTensor> outputs_;
  std::vector<std::uint8_t> codes_;  // or the floats of a matrix that is not grouped
  std::vector<f16> scales_;
  std::vector<float> floats_;
  Index done_ = 0;
  Index total_ = 0;
};

// Whether `inner` is `outer` or lies in it, links followed as far as folders exist.
bool lies_in(const fs::path& inner, const fs::path& outer) {
  std::error_code error;
  const fs::path in = fs::weakly_canonical(fs::absolute(inner, error), error);
  const fs::path out = fs::canonical(outer, error);
  if (error) return false;
  const auto [end, ignored] = std::mismatch(out.begin(), out.end(), in.begin(), in.end());
  return end == out.end();
}

// A matrix of the checkpoint that has no floats.
Result<void> check_floats(const ModelPlan& plan, const WeightStore& weights,
                          const std::string& path) {
  for (const TensorUse& use : plan.tensors) {
    if (use.role == TensorRole::matrix && !weights.contains(use.name)) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[quantize] {}: expected a matrix of floats, found {} ({})",
                               use.name, use.form, path)};
    }
  }
  return {};
}

Result<void> write_text(const std::string& path, std::string_view text) {
  KRAIT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  KRAIT_RETURN_IF_ERROR(file.write(text));
  return file.commit();
}

// The files beside the weights.
Result<void> copy_texts(const Checkpoint& checkpoint, const fs::path& source,
                        const fs::path& destination) {
  KRAIT_RETURN_IF_ERROR(write_text(destination / checkpoint.config_file, checkpoint.config));
  const auto copy = [&](const char* name, const std::string& text) -> Result<void> {
    if (text.empty()) return {};
    return write_text(destination / name, text);
  };
  KRAIT_RETURN_IF_ERROR(copy("tokenizer.json", checkpoint.tokenizer));
  KRAIT_RETURN_IF_ERROR(copy("tokenizer_config.json", checkpoint.tokenizer_config));
  KRAIT_RETURN_IF_ERROR(copy("chat_template.jinja", checkpoint.chat_template));
  // What krait does not read itself, other programs may.
  constexpr std::size_t largest = std::size_t{1} << 30U;
  const auto copy_file = [&](const fs::path& name) -> Result<void> {
    KRAIT_ASSIGN_OR_RETURN(const std::string text, read_text_file(source / name, largest));
    return write_text(destination / name, text);
  };
  std::error_code ignored;
  for (const char* name : {"generation_config.json", "special_tokens_map.json", "added_tokens.json",
                           "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model",
                           "tokenizer.model.v3", "tekken.json"}) {
    if (fs::is_regular_file(source / name, ignored)) KRAIT_RETURN_IF_ERROR(copy_file(name));
  }
  const fs::path templates = "additional_chat_templates";
  for (const auto& entry : fs::directory_iterator(source / templates, ignored)) {
    if (!entry.is_regular_file(ignored) || entry.path().extension() != ".jinja") continue;
    fs::create_directory(destination / templates, ignored);
    KRAIT_RETURN_IF_ERROR(copy_file(templates / entry.path().filename()));
  }
  return {};
}

}  // namespace

Result<QuantizeSummary> quantize_checkpoint(const std::string& source,
                                            const std::string& destination, WeightForm form,
                                            Executor& executor, Progress progress) {
  const auto target = Target::of(form);
  if (!target) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[quantize] form: expected q8, q4, bf16 or f16, found {}", to_string(form))};
  }
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan stored, plan_checkpoint(source));
  const auto& [stored_plan, config, checkpoint] = stored;
  KRAIT_RETURN_IF_ERROR(check_floats(stored_plan, checkpoint.weights, source));
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan, plan_model(config.spec, &checkpoint.weights,
                                                          config.prefix, {.form = form}));

  std::error_code ignored;
  const bool is_folder = fs::is_directory(checkpoint.path, ignored);
  fs::path folder = is_folder ? fs::path(checkpoint.path) : fs::path(checkpoint.path).parent_path();
  if (folder.empty()) folder = ".";
  if (is_folder && lies_in(destination, folder)) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[quantize] destination: expected a place outside the source, found "
                             "one in it ({})",
                             destination)};
  }
  KRAIT_ASSIGN_OR_RETURN(AtomicDirectory directory, AtomicDirectory::create(destination));
  Conversion conversion(*target, executor, progress);
  conversion.plan(checkpoint.weights, plan);
  auto metadata = checkpoint.weights.metadata;
  metadata["format"] = "pt";
  metadata[std::string(weight_form_key)] = to_string(form);
  metadata[std::string(weight_format_version_key)] = weight_format_version;
  KRAIT_RETURN_IF_ERROR(conversion.write(directory.path() + "/model.safetensors", metadata));
  KRAIT_RETURN_IF_ERROR(copy_texts(checkpoint, folder, directory.path()));
  KRAIT_RETURN_IF_ERROR(directory.commit());
  return conversion.summary();
}

}  // namespace v0_1
}  // namespace krait
