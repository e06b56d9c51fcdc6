#include "krait/tools/convert.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "core/block_format.hpp"
#include "io/json.hpp"
#include "io/write_text_file.hpp"
#include "kernels/gguf_blocks.hpp"
#include "krait/core/function_ref.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/io/printable.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/options.hpp"
#include "loading/checkpoint_texts.hpp"
#include "loading/layouts/gguf/export.hpp"
#include "loading/layouts/gguf/gguf.hpp"
#include "tools/checkpoint_copy.hpp"
#include "tools/transformers_layout.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view area = "convert";
constexpr std::string_view blocks_part = ".blocks";
constexpr Index chunk_elements = Index{1} << 20;  // converted at once

Error fail(ErrorCode code, std::string_view what, std::string_view expected,
           std::string_view found) {
  return {code, fmt::format("[convert] {}: expected {}, found {}", what, expected, found)};
}

// A tensor of the source and what it becomes.
struct ConvertJob {
  NamedTensor output;
  TensorView stored;
  std::optional<BlockFormat> blocks;    // of which `stored` is the bytes
  bool keeps_blocks = false;            // they are copied
  bool negative_exp = false;            // values become -exp(x)
  Index pairs_from = 0;                 // rows of a head whose rotary pairs become halves; or 0
  Index pairs_to = 0;                   // rows of a head whose rotary pairs become neighbours; or 0
  GgufRows rows = GgufRows::all;        // of each matrix of the source
  std::vector<RowFactor> factors = {};  // that rows are multiplied by

  // Of a row of blocks.
  Index row_bytes() const noexcept {
    const Shape& shape = stored.shape;
    return shape[shape.rank() - 2] * shape[shape.rank() - 1];
  }

  bool is_by_row() const noexcept {
    return blocks || pairs_from > 0 || pairs_to > 0 || rows != GgufRows::all;
  }

  bool changes_values() const noexcept { return negative_exp || !factors.empty(); }

  float factor_of(Index row) const noexcept {
    for (const RowFactor& part : factors) {
      if (row < part.rows) return part.factor;
      row -= part.rows;
    }
    return 1.0F;
  }

  // The row of the source that row r becomes: within a head of d rows, pairs are rows i and i + d/2
  // in transformers, 2 i and 2 i + 1 in GGUF.
  Index source_row(Index r) const noexcept {
    if (rows != GgufRows::all) {
      const Shape& shape = output.tensor.shape;
      const Index half = shape[shape.rank() - 2];
      return r / half * 2 * half + (rows == GgufRows::second_half ? half : 0) + r % half;
    }
    const Index d = std::max(pairs_from, pairs_to);
    if (d == 0) return r;
    const Index at = r % d;
    if (pairs_from > 0) return r - at + (at < d / 2 ? 2 * at : 2 * (at - d / 2) + 1);
    return r - at + (at % 2 == 0 ? at / 2 : d / 2 + at / 2);
  }
};

// Tensors that llama.cpp's converter leaves out: frequencies that follow from the configuration,
// and layers that predict several tokens.
bool is_left_out(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.starts_with("mtp.");
}

// Which tensors there are, and their types and names in the new checkpoint.
class Plan {
 public:
  Plan(const Checkpoint& checkpoint, const TransformersLayout& layout,
       const ConvertOptions& options)
      : checkpoint_(checkpoint), layout_(layout), options_(options) {}

  Result<std::vector<ConvertJob>> make(const ModelPlan& model, const ModelSpec& spec) {
    // A stored head that repeats the embedding goes on repeating it.
    if (spec.tied_head) matrices_.insert(spec.head_name + ".weight");
    for (const TensorUse& use : model.tensors) {
      if (use.role == TensorRole::matrix) matrices_.insert(use.name);
    }
    const WeightStore& weights = checkpoint_.weights;
    if (options_.to_gguf && !weights.unreadable().empty()) {
      const auto& [name, tensor] = *weights.unreadable().begin();
      return fail(ErrorCode::unsupported, name, "a tensor of the model",
                  "one that it does not use, " + tensor.what);
    }
    const std::set<std::string_view> unused(model.unused.begin(), model.unused.end());
    std::vector<ConvertJob> jobs;
    for (const auto& [name, entry] : weights.entries()) {
      const bool is_used = !unused.contains(name);
      if (!is_used && options_.to_gguf && is_left_out(name)) continue;
      if (!is_used && options_.to_gguf) {
        return fail(ErrorCode::unsupported, name, "a tensor of the model",
                    "one that it does not use");
      }
      KRAIT_ASSIGN_OR_RETURN(ConvertJob job, job_of(name, entry.tensor));
      if (is_used) job.pairs_from = layout_.pair_rows(job.output.name);
      jobs.push_back(std::move(job));
    }
    return jobs;
  }

  // New names of the matrices.
  std::set<std::string, std::less<>> matrices() const {
    std::set<std::string, std::less<>> names;
    for (const std::string& name : matrices_) names.insert(layout_.name(name));
    return names;
  }

 private:
  std::optional<BlockFormat> block_format(std::string_view matrix) const {
    const auto form =
        checkpoint_.weights.metadata.find(fmt::format("{}:{}", weight_form_key, matrix));
    return form == checkpoint_.weights.metadata.end() ? std::nullopt
                                                      : find_block_format(form->second);
  }

  Result<ConvertJob> job_of(const std::string& name, const TensorView& stored) const {
    ConvertJob job{{layout_.name(name), stored}, stored, std::nullopt};
    if (std::string_view(name).ends_with(blocks_part)) {
      const std::string matrix = name.substr(0, name.size() - blocks_part.size());
      job.blocks = block_format(matrix);
      if (job.blocks) {
        KRAIT_ASSIGN_OR_RETURN(const Shape shape, decoded_shape(name, stored, *job.blocks));
        job.output = {layout_.name(matrix + ".weight"),
                      {nullptr, options_.dtype.value_or(DType::f32), shape}};
      }
    }
    if (!job.blocks && options_.dtype) {
      if (matrices_.contains(name)) {
        job.output.tensor.dtype = *options_.dtype;
      } else if (!is_float(stored.dtype) && stored.dtype != DType::f64) {
        return fail(ErrorCode::bad_argument, name, "floats to convert",
                    fmt::format("{}", to_string(stored.dtype)));
      }
    }
    return job;
  }

  // Of the floats that blocks become; a tensor that the model does not use has not been checked.
  static Result<Shape> decoded_shape(const std::string& name, const TensorView& stored,
                                     BlockFormat format) {
    const BlockFormatInfo& info = info_of(format);
    std::vector<Index> extents(stored.shape.extents().begin(), stored.shape.extents().end());
    if (stored.dtype == DType::u8 && extents.size() >= 2 && extents.back() == info.bytes) {
      extents.pop_back();
      extents.back() *= info.elements;
      if (const auto shape = Shape::make(extents)) return *shape;
    }
    return fail(ErrorCode::shape_mismatch, name,
                fmt::format("rows of {} blocks, u8 [..., {}]", info.name, info.bytes),
                fmt::format("{} {}", to_string(stored.dtype), to_string(stored.shape)));
  }

  const Checkpoint& checkpoint_;
  const TransformersLayout& layout_;
  const ConvertOptions& options_;
  std::set<std::string, std::less<>> matrices_;
};

// Writes the values of jobs, some rows at a time.
class Writing {
 public:
  Writing(const std::vector<ConvertJob>& jobs, Progress progress) : progress_(progress) {
    for (const ConvertJob& job : jobs) total_ += job.output.tensor.bytes();
  }

  // A job's bytes in order, handed to `sink(offset, bytes)`.
  using Sink = FunctionRef<Result<void>(Index offset, std::span<const std::byte> bytes)>;
  Result<void> write(const ConvertJob& job, Sink sink) {
    if (job.keeps_blocks) return write_blocks(job, sink);
    const TensorView& out = job.output.tensor;
    const bool is_vector = out.shape.rank() < 2;  // of one number for each row
    const Index cols = is_vector ? 1 : out.shape[out.shape.rank() - 1];
    const Index rows = cols == 0 ? 0 : out.shape.size() / cols;
    const Index step = std::max(Index{1}, chunk_elements / std::max(cols, Index{1}));
    for (Index first = 0; first < rows; first += step) {
      const Index count = std::min(step, rows - first);
      const TensorView stored =
          job.is_by_row() ? gathered(job, first, count, cols) : direct(job, first, count, cols);
      KRAIT_ASSIGN_OR_RETURN(const TensorView made, converted(job, stored, first));
      const auto bytes = static_cast<std::size_t>(made.bytes());
      KRAIT_RETURN_IF_ERROR(sink(first * cols * bytes_of(out.dtype),
                                 std::span(static_cast<const std::byte*>(made.data), bytes)));
      KRAIT_RETURN_IF_ERROR(report(made.bytes()));
    }
    return {};
  }

 private:
  Result<void> report(Index bytes) {
    done_ += bytes;
    if (progress_ && progress_(done_, total_) == Flow::stop) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[convert] stopped after {} of {} bytes", done_, total_)};
    }
    return {};
  }

  Result<void> write_blocks(const ConvertJob& job, Sink sink) {
    const Index rows = job.stored.shape.size() / job.row_bytes();
    for (Index r = 0; r < rows; ++r) {
      const auto* row = static_cast<const std::byte*>(job.stored.data);
      KRAIT_RETURN_IF_ERROR(
          sink(r * job.row_bytes(), std::span(row + job.source_row(r) * job.row_bytes(),
                                              static_cast<std::size_t>(job.row_bytes()))));
    }
    return report(job.output.tensor.bytes());
  }

  // Rows as they lie in the source.
  static TensorView direct(const ConvertJob& job, Index first, Index count, Index cols) {
    const auto* data = static_cast<const std::byte*>(job.stored.data);
    return {data + first * cols * bytes_of(job.stored.dtype), job.stored.dtype, {count, cols}};
  }

  // Rows that are decoded, or that lie in another order.
  TensorView gathered(const ConvertJob& job, Index first, Index count, Index cols) {
    const BlockFormatInfo* info = job.blocks ? &info_of(*job.blocks) : nullptr;
    const DType dtype = info != nullptr ? DType::f32 : job.stored.dtype;
    const Index stored_bytes =
        info != nullptr ? cols / info->elements * info->bytes : cols * bytes_of(dtype);
    rows_.resize(static_cast<std::size_t>(count * cols * bytes_of(dtype)));
    for (Index r = 0; r < count; ++r) {
      const auto* row =
          static_cast<const std::byte*>(job.stored.data) + job.source_row(first + r) * stored_bytes;
      std::byte* to = rows_.data() + r * cols * bytes_of(dtype);
      if (info != nullptr) {
        kernels::decode_blocks(info->format, row,
                               {reinterpret_cast<float*>(to), static_cast<std::size_t>(cols)});
      } else {
        std::copy_n(row, stored_bytes, to);
      }
    }
    return {rows_.data(), dtype, {count, cols}};
  }

  // In f32, whatever is written.
  TensorView with_other_values(const ConvertJob& job, const TensorView& stored, Index first) {
    floats_.resize(static_cast<std::size_t>(stored.size()));
    convert_floats(stored, DType::f32, floats_.data());
    const Index cols = stored.shape[1];
    for (Index r = 0; r < stored.shape[0]; ++r) {
      const float factor = job.factor_of(first + r);
      for (Index c = 0; c < cols; ++c) {
        float& value = floats_[static_cast<std::size_t>(r * cols + c)];
        if (job.negative_exp) value = static_cast<float>(-std::exp(static_cast<double>(value)));
        value *= factor;
      }
    }
    return {floats_.data(), DType::f32, stored.shape};
  }

  Result<TensorView> converted(const ConvertJob& job, const TensorView& stored, Index first) {
    const DType dtype = job.output.tensor.dtype;
    if (stored.dtype == dtype && !job.changes_values()) return stored;
    const TensorView changed =
        job.changes_values() ? with_other_values(job, stored, first) : stored;
    values_.resize(static_cast<std::size_t>(stored.size() * bytes_of(dtype)));
    convert_floats(changed, dtype, values_.data());
    const TensorView made{values_.data(), dtype, stored.shape};
    if (const auto bad = find_not_finite(made)) {
      return Error{ErrorCode::bad_format,
                   fmt::format("[convert] {}: expected {}", job.output.name,
                               not_representable(stored, *bad, to_string(dtype), first))};
    }
    return made;
  }

  Progress progress_;
  std::vector<std::byte> rows_;
  std::vector<float> floats_;
  std::vector<std::byte> values_;
  Index done_ = 0;
  Index total_ = 0;
};

// Jobs [first, last) of each file.
std::vector<Range> shards_of(const std::vector<ConvertJob>& jobs, Index most_bytes) {
  std::vector<Range> shards = {{0, 0}};
  Index bytes = 0;
  for (const ConvertJob& job : jobs) {
    const Index size = job.output.tensor.bytes();
    if (bytes > 0 && size > most_bytes - bytes) {
      shards.push_back({shards.back().end, shards.back().end});
      bytes = 0;
    }
    bytes += size;
    ++shards.back().end;
  }
  return shards;
}

std::string shard_name(std::size_t shard, std::size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, count);
}

Result<ConvertSummary> write_folder(const std::vector<ConvertJob>& jobs, const std::string& folder,
                                    std::map<std::string, std::string, std::less<>> metadata,
                                    const ConvertOptions& options, Progress progress) {
  ConvertSummary summary;
  summary.tensors = std::ssize(jobs);
  Writing writing(jobs, progress);
  const std::vector<Range> shards = shards_of(jobs, options.shard_bytes);
  Metadata::Object places;
  metadata["format"] = "pt";
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const std::string name = shard_name(s, shards.size());
    std::vector<NamedTensor> outputs;
    const std::span<const ConvertJob> of_shard = std::span(jobs).subspan(
        static_cast<std::size_t>(shards[s].begin), static_cast<std::size_t>(shards[s].size()));
    for (const ConvertJob& job : of_shard) {
      outputs.push_back(job.output);
      summary.bytes += job.output.tensor.bytes();
      places.push_back({job.output.name, name});
    }
    KRAIT_ASSIGN_OR_RETURN(auto writer,
                           SafetensorsWriter::create(folder + "/" + name, outputs, metadata));
    for (const std::size_t i : writer.order()) {
      KRAIT_RETURN_IF_ERROR(
          writing.write(of_shard[i], [&](Index offset, std::span<const std::byte> bytes) {
            return writer.write(i, offset, bytes);
          }));
    }
    KRAIT_RETURN_IF_ERROR(writer.commit());
    summary.files.push_back(name);
  }
  if (shards.size() > 1) {
    Metadata::Object index = {{"metadata", Metadata::Object{{"total_size", summary.bytes}}},
                              {"weight_map", std::move(places)}};
    KRAIT_RETURN_IF_ERROR(write_text_file(folder + "/model.safetensors.index.json",
                                          full_json(Metadata(std::move(index)))));
  }
  return summary;
}

// A job as a tensor of a GGUF file, or a part of one.
Result<ConvertJob> part_of(ConvertJob job, const GgufExportTensor& tensor, Index pair_rows) {
  const bool is_changed = tensor.rows != GgufRows::all || !tensor.factors.empty();
  if (job.keeps_blocks && is_changed) {
    return fail(ErrorCode::unsupported, job.output.name, "floats, which are changed",
                info_of(*job.blocks).name);
  }
  if (!job.keeps_blocks) job.output.tensor.dtype = *tensor.output.type.dtype;
  job.negative_exp = tensor.values == GgufValues::negative_exp;
  // What a GGUF file had in pairs stays so.
  if (tensor.values == GgufValues::pairs && job.pairs_from == 0) job.pairs_to = pair_rows;
  job.pairs_from = 0;
  job.factors = tensor.factors;
  job.rows = tensor.rows;
  if (job.rows != GgufRows::all) {
    const Shape& shape = job.output.tensor.shape;
    std::vector<Index> extents(shape.extents().begin(), shape.extents().end());
    extents[extents.size() - 2] /= 2;
    job.output.tensor.shape = *Shape::make(extents);
  }
  return job;
}

// The jobs as tensors of a GGUF file.
Result<ConvertSummary> write_gguf(std::vector<ConvertJob> jobs, const Checkpoint& checkpoint,
                                  const TransformersLayout& layout, const ModelSpec& spec,
                                  const std::string& path,
                                  const std::set<std::string, std::less<>>& matrices,
                                  std::optional<DType> dtype, Progress progress) {
  std::vector<GgufSource> sources;
  for (ConvertJob& job : jobs) {
    const Shape& shape = job.output.tensor.shape;
    GgufSource source;
    source.name = job.output.name;
    source.extents.assign(shape.extents().begin(), shape.extents().end());
    source.is_matrix = job.blocks || matrices.contains(job.output.name);
    job.keeps_blocks = job.blocks && !dtype;
    const auto type =
        job.keeps_blocks ? GgufType::of(*job.blocks) : GgufType::of(job.output.tensor.dtype);
    if (!type) {
      return fail(ErrorCode::unsupported, job.output.name, "a type that GGUF has",
                  to_string(job.output.tensor.dtype));
    }
    source.type = *type;
    sources.push_back(std::move(source));
  }
  KRAIT_ASSIGN_OR_RETURN(const GgufExport plan,
                         export_gguf(checkpoint, layout.config(), spec, sources));
  std::vector<ConvertJob> parts;
  for (const GgufExportTensor& tensor : plan.tensors) {
    KRAIT_ASSIGN_OR_RETURN(ConvertJob part, part_of(jobs[tensor.source], tensor, plan.pair_rows));
    parts.push_back(std::move(part));
  }
  std::vector<GgufOutput> outputs;
  ConvertSummary summary;
  std::vector<std::size_t> order;  // experts of a stack one after another
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const GgufExportTensor& tensor = plan.tensors[i];
    if (tensor.expert > 0) continue;
    outputs.push_back(tensor.output);
    summary.bytes += tensor.output.type.bytes(tensor.output.extents).value_or(0);
    if (tensor.expert < 0) {
      order.push_back(i);
      continue;
    }
    const std::size_t first = order.size();
    order.resize(first + static_cast<std::size_t>(tensor.output.extents.front()));
    for (std::size_t k = 0; k < parts.size(); ++k) {
      if (plan.tensors[k].output.name == tensor.output.name) {
        order[first + static_cast<std::size_t>(plan.tensors[k].expert)] = k;
      }
    }
  }
  for (const GgufMadeTensor& tensor : plan.made) {
    outputs.push_back({tensor.name, *GgufType::of(DType::f32), {std::ssize(tensor.values)}});
    summary.bytes += std::ssize(tensor.values) * bytes_of(DType::f32);
  }
  summary.tensors = std::ssize(outputs);
  summary.files = {path};
  KRAIT_ASSIGN_OR_RETURN(auto writer, GgufWriter::create(path, plan.metadata, outputs));
  Writing writing(parts, progress);
  for (const std::size_t i : order) {
    KRAIT_RETURN_IF_ERROR(writing.write(
        parts[i], [&](Index, std::span<const std::byte> bytes) { return writer.write(bytes); }));
  }
  for (const GgufMadeTensor& tensor : plan.made) {
    KRAIT_RETURN_IF_ERROR(writer.write(std::as_bytes(std::span(tensor.values))));
  }
  KRAIT_RETURN_IF_ERROR(writer.commit());
  return summary;
}

Result<void> check_new(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  return Error{ErrorCode::bad_argument,
               fmt::format("[convert] destination: expected the name of a new file, found one that "
                           "exists ({})",
                           printable(path))};
}

// The source's metadata without the forms of what was decoded.
std::map<std::string, std::string, std::less<>> kept_metadata(const WeightStore& weights) {
  auto metadata = weights.metadata;
  std::erase_if(metadata, [](const auto& entry) {
    return entry.first.starts_with(weight_form_key) && find_block_format(entry.second);
  });
  return metadata;
}

}  // namespace

Result<ConvertSummary> convert_checkpoint(const std::string& source, const std::string& destination,
                                          const ConvertOptions& options, Progress progress) {
  KRAIT_ASSIGN_OR_RETURN(CheckpointPlan stored, plan_checkpoint(source));
  Checkpoint& checkpoint = stored.checkpoint;
  KRAIT_RETURN_IF_ERROR(check_outside(checkpoint, destination, area));
  KRAIT_ASSIGN_OR_RETURN(const TransformersLayout layout,
                         TransformersLayout::of(stored, options.dtype));
  Plan plan(checkpoint, layout, options);
  KRAIT_ASSIGN_OR_RETURN(std::vector<ConvertJob> jobs, plan.make(stored.plan, stored.config.spec));
  if (options.to_gguf) {
    KRAIT_RETURN_IF_ERROR(check_new(destination));
    return write_gguf(std::move(jobs), checkpoint, layout, stored.config.spec, destination,
                      plan.matrices(), options.dtype, progress);
  }
  KRAIT_RETURN_IF_ERROR(check_texts(checkpoint));
  KRAIT_ASSIGN_OR_RETURN(AtomicDirectory directory, AtomicDirectory::create(destination));
  KRAIT_ASSIGN_OR_RETURN(
      ConvertSummary summary,
      write_folder(jobs, directory.path(), kept_metadata(checkpoint.weights), options, progress));
  checkpoint.config_file = "config.json";
  KRAIT_RETURN_IF_ERROR(copy_texts(checkpoint, layout.config(), directory.path()));
  KRAIT_RETURN_IF_ERROR(directory.commit());
  for (const auto& [name, tensor] : checkpoint.weights.unreadable()) {
    summary.left_out.push_back(fmt::format("{}, {}", printable(name), tensor.what));
  }
  return summary;
}

}  // namespace v0_1
}  // namespace krait
