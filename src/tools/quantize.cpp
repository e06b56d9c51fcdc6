#include "krait/tools/quantize.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "krait/io/atomic_file.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/weights/convert.hpp"
#include "loading/checkpoint_texts.hpp"
#include "tools/checkpoint_copy.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Elements that are converted at once, between two reports of progress.
constexpr Index quantized_at_once = Index{1} << 22;

// How the part of a matrix of floats is called.
constexpr std::string_view dense_part = "weight";

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

class Conversion {
 public:
  Conversion(const RowForm& form, Executor& executor, Progress progress)
      : form_(form), executor_(executor), progress_(progress) {}

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
      KRAIT_RETURN_IF_ERROR(job.matrices ? encode(job, writer) : copy(job, writer));
    }
    return writer.commit();
  }

  const QuantizeSummary& summary() const noexcept { return summary_; }

 private:
  void add_outputs(const Job& job) {
    const std::string_view stored = to_string(job.tensor.dtype);
    if (!job.matrices) {
      outputs_.push_back({*job.name, {nullptr, job.tensor.dtype, job.tensor.shape}});
      ++summary_.forms[std::string(stored)];
      return;
    }
    const auto [count, rows, cols, is_stack] = *job.matrices;
    MatrixShape shape{.out = rows, .in = cols};
    if (is_stack) shape.count = count;
    // The floats of a factor have the factor's name, "….u", without more.
    const bool is_factor = !job.name->ends_with(dense_part);
    const std::string prefix =
        is_factor ? *job.name + "." : job.name->substr(0, job.name->size() - dense_part.size());
    for (const WeightPart& part : form_.parts(rows, cols)) {
      // Floats keep the shape that they had, extents of 1 and all.
      const bool is_dense = part.name == dense_part;
      outputs_.push_back(
          {is_dense ? *job.name : prefix + part.name,
           {nullptr, part.dtype, is_dense ? job.tensor.shape : shape.tensor(part.shape)}});
    }
    if (form_.name() != stored) ++summary_.converted;
    ++summary_.forms[std::string(form_.name())];
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
    const Index step = round_up(std::max(Index{1}, quantized_at_once / cols), form_.block_rows());
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

  Error refused(const Job& job, const std::string& expected) const {
    return {ErrorCode::bad_format, fmt::format("[quantize] {}: expected {}", *job.name, expected)};
  }

  // The rows in f32 if they are in f64, which no kernel reads.
  Result<TensorView> narrowed(const Job& job, const TensorView& part, Index first_row) {
    if (part.dtype != DType::f64) return part;
    floats_.resize(static_cast<std::size_t>(part.size()));
    const TensorView narrow{floats_.data(), DType::f32, part.shape};
    convert_floats(part, DType::f32, floats_.data());
    const auto bad = find_not_finite(narrow);
    if (bad) return refused(job, not_representable(part, *bad, to_string(DType::f32), first_row));
    return narrow;
  }

  Result<void> encode(const Job& job, SafetensorsWriter& writer) {
    const Index rows_of_matrix = job.matrices->rows;
    const Index block_rows = form_.block_rows();
    const Index blocks_of_matrix = round_up(rows_of_matrix, block_rows) / block_rows;
    return for_rows(job, [&](const TensorView& stored, Index matrix, Index first) -> Result<void> {
      const Index first_row = matrix * rows_of_matrix + first;
      KRAIT_ASSIGN_OR_RETURN(const TensorView rows, narrowed(job, stored, first_row));
      const std::vector<WeightPart> parts = form_.parts(rows.shape[0], rows.shape[1]);
      const Index blocks = round_up(rows.shape[0], block_rows) / block_rows;
      std::vector<std::byte*> memory;
      parts_.resize(parts.size());
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const Shape& part = parts[p].shape;
        if (part.rank() == 0 || part[0] != blocks) {
          return Error{
              ErrorCode::bad_argument,
              fmt::format("[quantize] {}: expected a part {} of {} blocks of rows, found "
                          "{} (form {})",
                          *job.name, parts[p].name, blocks, to_string(part), form_.name())};
        }
        const Index bytes = TensorView{nullptr, parts[p].dtype, part}.bytes();
        if (parts_[p].size() < bytes) parts_[p] = AlignedBuffer<std::byte>(bytes);
        memory.push_back(parts_[p].data());
      }
      if (const auto bad = form_.encode(executor_, rows, memory)) {
        return refused(job, form_.refusal(rows, *bad, first_row));
      }
      const Index first_block = matrix * blocks_of_matrix + first / block_rows;
      for (std::size_t p = 0; p < parts.size(); ++p) {
        const Index bytes = TensorView{nullptr, parts[p].dtype, parts[p].shape}.bytes();
        KRAIT_RETURN_IF_ERROR(writer.write(job.first + p, first_block * (bytes / blocks),
                                           bytes_of_buffer(memory[p], bytes)));
      }
      return {};
    });
  }

  Result<void> copy(const Job& job, SafetensorsWriter& writer) {
    constexpr Index step = quantized_at_once * 4;
    const auto* data = static_cast<const std::byte*>(job.tensor.data);
    for (Index first = 0; first < job.tensor.bytes(); first += step) {
      const Index count = std::min(step, job.tensor.bytes() - first);
      KRAIT_RETURN_IF_ERROR(writer.write(job.first, first, bytes_of_buffer(data + first, count)));
      KRAIT_RETURN_IF_ERROR(report(count));
    }
    return {};
  }

  const RowForm& form_;
  Executor& executor_;
  Progress progress_;
  QuantizeSummary summary_;
  std::vector<Job> jobs_;
  std::vector<NamedTensor> outputs_;
  std::vector<AlignedBuffer<std::byte>> parts_;  // of some rows
  std::vector<float> floats_;
  Index done_ = 0;
  Index total_ = 0;
};

// The ranks of factored matrices, which codes do not tell.
void note_ranks(const ModelPlan& plan, std::map<std::string, std::string, std::less<>>& metadata) {
  constexpr std::string_view factor = ".v";
  for (const TensorUse& use : plan.tensors) {
    if (use.role != TensorRole::matrix || !use.name.ends_with(factor)) continue;
    const std::string matrix = use.name.substr(0, use.name.size() - factor.size());
    metadata[fmt::format("{}:{}", weight_rank_key, matrix)] =
        fmt::to_string(use.shape[use.shape.rank() - 2]);
  }
}

}  // namespace

Result<QuantizeSummary> quantize_checkpoint(const std::string& source,
                                            const std::string& destination, std::string_view form,
                                            Executor& executor, Progress progress) {
  std::string names;
  for (const WeightForm* known : weight_forms()) {
    if (known->row_form() == nullptr) continue;
    if (known->name() == form) {
      return quantize_checkpoint(source, destination, *known->row_form(), executor, progress);
    }
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known->name());
  }
  return Error{ErrorCode::bad_argument,
               fmt::format("[quantize] form: expected one of {}, found {}", names, form)};
}

Result<QuantizeSummary> quantize_checkpoint(const std::string& source,
                                            const std::string& destination, const RowForm& form,
                                            Executor& executor, Progress progress) {
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan stored, plan_checkpoint(source));
  const auto& [stored_plan, config, checkpoint] = stored;
  KRAIT_RETURN_IF_ERROR(check_floats(stored_plan, checkpoint.weights, source, "quantize"));
  WeightOptions options{.form = std::string(form.name())};
  const bool is_known = find_form(form.name()) == &form;
  // Not owned: it outlives the plan.
  if (!is_known) options.forms.emplace_back(std::shared_ptr<const WeightForm>(), &form);
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan,
                         plan_model(config.spec, &checkpoint.weights, config.prefix, options));

  KRAIT_RETURN_IF_ERROR(check_outside(checkpoint, destination, "quantize"));
  KRAIT_RETURN_IF_ERROR(check_texts(checkpoint));
  KRAIT_ASSIGN_OR_RETURN(AtomicDirectory directory, AtomicDirectory::create(destination));
  Conversion conversion(form, executor, progress);
  conversion.plan(checkpoint.weights, plan);
  auto metadata = checkpoint.weights.metadata;
  metadata["format"] = "pt";
  metadata[std::string(weight_form_key)] = form.name();
  metadata[std::string(weight_format_version_key)] = weight_format_version;
  note_ranks(plan, metadata);
  KRAIT_RETURN_IF_ERROR(conversion.write(directory.path() + "/model.safetensors", metadata));
  KRAIT_RETURN_IF_ERROR(copy_texts(checkpoint, checkpoint.config, directory.path()));
  KRAIT_RETURN_IF_ERROR(directory.commit());
  return conversion.summary();
}

}  // namespace v0_1
}  // namespace krait
