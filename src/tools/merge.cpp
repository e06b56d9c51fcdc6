#include "krait/tools/merge.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/adapter.hpp"
#include "krait/loading/registry.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/linear.hpp"
#include "krait/weights/overlay.hpp"
#include "loading/checkpoint_texts.hpp"
#include "models/bind_parts.hpp"
#include "tools/checkpoint_copy.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view scale_suffix = ".lora_scale";

// A matrix, or a stack of them, and its factors in f32.
struct MergeJob {
  std::string name;    // of the matrix
  std::string result;  // of the tensor
  DType dtype = DType::f32;
  Index out = 0;
  Index in = 0;
  Index rank = 0;
  Index count = 0;  // of a stack; 0: none
  AlignedBuffer<float> A, B;
  double scale = 0.0;

  Shape shape() const { return count > 0 ? Shape{count, out, in} : Shape{out, in}; }
};

// The float that another rounding, to fewer bits, takes where it would take `x` itself.
float to_odd(double x) noexcept {
  const auto nearest = static_cast<float>(x);
  const auto wide = static_cast<double>(nearest);
  if (wide == x || !std::isfinite(nearest)) return nearest;
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::abs(wide) > std::abs(x)) --bits;
  return std::bit_cast<float>(bits | 1U);
}

class Merge {
 public:
  Merge(const CheckpointPlan& source, std::optional<DType> dtype, Executor& executor,
        Progress progress)
      : source_(source),
        base_(source.checkpoint.weights),
        dtype_(dtype),
        executor_(executor),
        progress_(progress),
        result_(base_),
        config_(source.checkpoint.config) {}

  Result<void> plan(const std::string& adapter) {
    KRAIT_RETURN_IF_ERROR(name_embedding());
    WeightStore adapted = base_;
    KRAIT_RETURN_IF_ERROR(add_adapter(adapter, source_.config, adapted));
    for (const auto& [name, entry] : adapted.entries()) {
      if (!name.ends_with(scale_suffix)) continue;
      KRAIT_RETURN_IF_ERROR(
          plan_matrix(adapted, name.substr(0, name.size() - scale_suffix.size())));
    }
    for (const auto& [name, entry] : result_.entries()) {
      outputs_.push_back({name, entry.tensor});
      summary_.bytes += entry.tensor.bytes();
    }
    summary_.tensors = std::ssize(outputs_);
    return {};
  }

  Result<void> write(const std::string& path) {
    std::map<std::string, std::string, std::less<>> metadata = result_.metadata;
    metadata["format"] = "pt";
    KRAIT_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(path, outputs_, metadata));
    for (const std::size_t i : writer.order()) {
      const auto job = jobs_.find(outputs_[i].name);
      KRAIT_RETURN_IF_ERROR(job == jobs_.end() ? copy(i, writer) : merge(job->second, i, writer));
    }
    return writer.commit();
  }

  const std::string& config() const noexcept { return config_; }
  const MergeSummary& summary() const noexcept { return summary_; }

 private:
  static Error bad(ErrorCode code, std::string_view what, const std::string& expected,
                   const std::string& found) {
    return {code, fmt::format("[merge] {}: expected {}, found {}", what, expected, found)};
  }

  Result<void> name_embedding() {
    const ModelSpec& spec = source_.config.spec;
    KRAIT_ASSIGN_OR_RETURN(const ModelPlan names, plan_model(spec, nullptr, source_.config.prefix));
    const std::string& weight = names.tensors.front().name;
    embedding_ = weight.substr(0, weight.rfind('.'));
    is_in_head_ = is_embedding_in_head(spec, &base_, source_.config.prefix);
    is_tied_ =
        is_in_head_ || std::ranges::none_of(source_.plan.tensors, [&](const TensorUse& use) {
          return use.role == TensorRole::matrix && use.path.starts_with(spec.head_name + ".");
        });
    return {};
  }

  Result<void> plan_matrix(const WeightStore& adapted, const std::string& name) {
    const TensorView& A = adapted.find(name + ".lora_A")->tensor;
    const TensorView& B = adapted.find(name + ".lora_B")->tensor;
    const TensorView& scale = adapted.find(name + std::string(scale_suffix))->tensor;
    const int last = A.shape.rank() - 1;
    MergeJob job{.name = name,
                 .result = name + ".weight",
                 .out = B.shape[last - 1],
                 .in = A.shape[last],
                 .rank = B.shape[last],
                 .count = last == 2 ? A.shape[0] : 0,
                 .A = AlignedBuffer<float>(A.size()),
                 .B = AlignedBuffer<float>(B.size()),
                 .scale = static_cast<double>(scale.as<float>().front())};
    convert_floats(A, DType::f32, job.A.data());
    convert_floats(B, DType::f32, job.B.data());
    const std::string& head = source_.config.spec.head_name;
    const bool is_embedding = name == (is_in_head_ ? head : embedding_);
    const bool is_head = !is_embedding && name == head;
    if (is_tied_ && (is_embedding || is_head)) {
      untie();
      if (is_head) job.name = embedding_;
      if (is_embedding && is_in_head_) job.result = embedding_ + ".weight";
      const bool has_head = adapted.contains(head + ".lora_A");  // a matrix of its own soon
      if (is_embedding && !is_in_head_ && !has_head) share(embedding_, head);
    }
    const WeightStore::Entry* stored = base_.find(job.name + ".weight");
    const bool is_dense = stored != nullptr && !has_parts(base_, job.name);
    if (!is_dense && !dtype_) {
      return bad(ErrorCode::bad_argument, job.name, "a matrix of floats",
                 form_of(job.name) + " (--dtype f32, bf16 or f16 has one made of it)");
    }
    job.dtype = dtype_                           ? *dtype_
                : is_float(stored->tensor.dtype) ? stored->tensor.dtype
                                                 : DType::f32;
    const TensorView merged{nullptr, job.dtype, is_dense ? stored->tensor.shape : job.shape()};
    if (is_dense || job.result != job.name + ".weight") {
      result_.add(job.result, merged, nullptr);
    } else {
      replace_matrix(result_, job.name, to_string(job.dtype), {{"weight", merged}}, nullptr);
      result_.metadata.erase(fmt::format("{}:{}", weight_rank_key, job.name));
      forget_codes(job.name);
    }
    summary_.merged += std::max(job.count, Index{1});
    jobs_.emplace(job.result, std::move(job));
    return {};
  }

  // How the matrix is stored, for messages.
  std::string form_of(const std::string& name) const {
    for (const TensorUse& use : source_.plan.tensors) {
      if (use.name == name + ".weight") return use.form;
    }
    return "factors";
  }

  // Gives the head the embedding's tensors as its own.
  void share(const std::string& from, const std::string& to) {
    const std::string prefix = from + ".";
    for (const auto& [name, entry] : base_.entries()) {
      if (!name.starts_with(prefix)) continue;
      result_.add(fmt::format("{}.{}", to, name.substr(prefix.size())), entry.tensor, nullptr);
    }
    for (const std::string_view key : {weight_form_key, weight_rank_key}) {
      const auto found = base_.metadata.find(fmt::format("{}:{}", key, from));
      if (found == base_.metadata.end()) continue;
      result_.metadata[fmt::format("{}:{}", key, to)] = found->second;
    }
  }

  void untie() {
    const bool is_ours = config_.find("\"tie_embeddings\"") != config_.npos ||
                         config_.find("\"model_type\"") == config_.npos;
    const char* key = is_ours ? "tie_embeddings" : "tie_word_embeddings";
    erase_member(key);
    config_.insert(config_.find('{') + 1, fmt::format("\n  \"{}\": false,", key));
  }

  // transformers reads codes of all that it is not told of; where none are left, of nothing.
  void forget_codes(const std::string& name) {
    const bool has_codes = std::ranges::any_of(
        result_.entries(), [](const auto& entry) { return entry.first.ends_with(".codebooks"); });
    if (!has_codes) return erase_member("quantization_config");
    constexpr std::string_view key = "\"linear_weights_not_to_quantize\"";
    const std::size_t list = config_.find('[', std::min(config_.find(key), config_.size()));
    if (list == config_.npos) return;
    const bool is_empty = config_.find_first_not_of(" \t\r\n", list + 1) == config_.find(']', list);
    config_.insert(list + 1, fmt::format("\"{0}\", \"{0}.weight\"{1}", name, is_empty ? "" : ", "));
  }

  // Takes a member of the outermost object out of the configuration, with its comma.
  void erase_member(std::string_view key) {
    int depth = 0;
    std::size_t begin = 0;  // of the member that is read
    bool is_wanted = false;
    for (std::size_t i = 0; i < config_.size(); ++i) {
      const char c = config_[i];
      if (c == '"') {
        std::size_t end = i + 1;
        while (config_[end] != '"') end += config_[end] == '\\' ? 2U : 1U;
        const std::size_t next = config_.find_first_not_of(" \t\r\n", end + 1);
        if (depth == 1 && config_[next] == ':') {
          is_wanted = std::string_view(config_).substr(i + 1, end - i - 1) == key;
        }
        i = end;
      } else if (c == '{' || c == '[') {
        if (++depth == 1) begin = i + 1;
      } else if (c == '}' || c == ']' || c == ',') {
        if (c != ',' && --depth > 0) continue;
        if (depth > (c == ',' ? 1 : 0)) continue;
        if (is_wanted) {
          const bool is_last = c != ',';
          const std::size_t first = is_last && config_[begin - 1] == ',' ? begin - 1 : begin;
          config_.erase(first, i + (is_last ? 0 : 1) - first);
          return;
        }
        begin = i + 1;
      }
    }
  }

  Result<void> report(Index bytes) {
    done_ += bytes;
    if (progress_ && progress_(done_, summary_.bytes) == Flow::stop) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[merge] stopped after {} of {} bytes", done_, summary_.bytes)};
    }
    return {};
  }

  Result<void> copy(std::size_t i, SafetensorsWriter& writer) {
    constexpr Index step = Index{1} << 24U;
    const TensorView& tensor = outputs_[i].tensor;
    const auto* data = static_cast<const std::byte*>(tensor.data);
    for (Index first = 0; first < tensor.bytes(); first += step) {
      const Index count = std::min(step, tensor.bytes() - first);
      KRAIT_RETURN_IF_ERROR(
          writer.write(i, first, {data + first, static_cast<std::size_t>(count)}));
      KRAIT_RETURN_IF_ERROR(report(count));
    }
    return {};
  }

  // Row r of matrix e: W + s · B A.
  static void merge_row(const MergeJob& job, const Linear& W, Index e, Index r, std::byte* to) {
    std::vector<float> row(static_cast<std::size_t>(job.in));
    W.row(r, row);
    const float* A = job.A.data() + e * job.rank * job.in;
    const float* B = job.B.data() + (e * job.out + r) * job.rank;
    for (Index c = 0; c < job.in; ++c) {
      double sum = 0.0;
      for (Index k = 0; k < job.rank; ++k) {
        sum += static_cast<double>(B[k]) * static_cast<double>(A[k * job.in + c]);
      }
      float& value = row[static_cast<std::size_t>(c)];
      const double exact = static_cast<double>(value) + job.scale * sum;
      value = job.dtype == DType::f32 ? static_cast<float>(exact) : to_odd(exact);
    }
    convert_floats({row.data(), DType::f32, {job.in}}, job.dtype, to);
  }

  Result<std::vector<Linear>> bind(const MergeJob& job, WeightBinder& binder) const {
    Bookings bookings(source_.config.spec.d_model());
    const WeightScope scope = WeightScope(binder, "").scope(job.name);
    if (job.count > 0) return Linear::bind_stack(scope, bookings, job.count, job.out, job.in);
    KRAIT_ASSIGN_OR_RETURN(Linear one, Linear::bind(scope, bookings, job.out, job.in, false));
    return std::vector<Linear>{one};
  }

  Result<void> merge(const MergeJob& job, std::size_t i, SafetensorsWriter& writer) {
    WeightBinder binder(&base_, {});
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Linear> W, bind(job, binder));
    const Index row_bytes = job.in * bytes_of(job.dtype);
    const Index step = std::max(Index{1}, (Index{1} << 22U) / row_bytes);
    AlignedBuffer<std::byte> rows(step * row_bytes);
    for (Index e = 0; e < std::ssize(W); ++e) {
      for (Index first = 0; first < job.out; first += step) {
        const Index count = std::min(step, job.out - first);
        parallel_for(executor_, count, 1, ItemCost::of(0, 2 * job.in * job.rank), [&](Range range) {
          for (Index r = range.begin; r < range.end; ++r) {
            merge_row(job, W[static_cast<std::size_t>(e)], e, first + r,
                      rows.data() + r * row_bytes);
          }
        });
        const auto bad_value = find_not_finite({rows.data(), job.dtype, {count, job.in}});
        if (bad_value) {
          return bad(ErrorCode::bad_format, job.result,
                     fmt::format("sums that {} can hold", to_string(job.dtype)),
                     fmt::format("another (row {}, column {})", first + *bad_value / job.in,
                                 *bad_value % job.in));
        }
        KRAIT_RETURN_IF_ERROR(
            writer.write(i, (e * job.out + first) * row_bytes,
                         {rows.data(), static_cast<std::size_t>(count * row_bytes)}));
        KRAIT_RETURN_IF_ERROR(report(count * row_bytes));
      }
    }
    return {};
  }

  const CheckpointPlan& source_;
  const WeightStore& base_;
  std::optional<DType> dtype_;
  Executor& executor_;
  Progress progress_;
  WeightStore result_;
  std::string config_;
  std::string embedding_;
  bool is_in_head_ = false;
  bool is_tied_ = false;
  std::map<std::string, MergeJob> jobs_;  // by the name of their tensor
  std::vector<NamedTensor> outputs_;
  MergeSummary summary_;
  Index done_ = 0;
};

}  // namespace

Result<MergeSummary> merge_adapter(const std::string& source, const std::string& adapter,
                                   const std::string& destination, std::optional<DType> dtype,
                                   Executor& executor, Progress progress) {
  if (dtype && !is_float(*dtype)) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[merge] dtype: expected f32, bf16 or f16, found {}", to_string(*dtype))};
  }
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan planned, plan_checkpoint(source));
  Merge merge(planned, dtype, executor, progress);
  KRAIT_RETURN_IF_ERROR(merge.plan(adapter));
  KRAIT_RETURN_IF_ERROR(check_outside(planned.checkpoint, destination, "merge"));
  KRAIT_RETURN_IF_ERROR(check_texts(planned.checkpoint));
  KRAIT_ASSIGN_OR_RETURN(AtomicDirectory directory, AtomicDirectory::create(destination));
  KRAIT_RETURN_IF_ERROR(merge.write(directory.path() + "/model.safetensors"));
  KRAIT_RETURN_IF_ERROR(copy_texts(planned.checkpoint, merge.config(), directory.path()));
  KRAIT_RETURN_IF_ERROR(directory.commit());
  return merge.summary();
}

}  // namespace v0_1
}  // namespace krait
