// A checkpoint quantised layer by layer.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "core/bad_argument.hpp"
#include "io/content_checksum.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/tools/aqlm.hpp"
#include "krait/training/model_gradient.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/form.hpp"
#include "loading/checkpoint_texts.hpp"
#include "tools/aqlm/calibration.hpp"
#include "tools/aqlm/finished.hpp"
#include "tools/aqlm/fisher.hpp"
#include "tools/aqlm/kept.hpp"
#include "tools/aqlm/own_text.hpp"
#include "tools/aqlm/presets.hpp"
#include "tools/aqlm/tune.hpp"
#include "tools/checkpoint_copy.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

// A text to tune over is made as long as this, if so many tokens are asked for.
constexpr Index tuned_text = 512 << 10;

Result<void> check_options(const AqlmOptions& options) {
  const Index tune_tokens = options.tune_tokens.value_or(0);
  const Index least = aqlm::TuneOptions().tokens_per_step();
  if (tune_tokens < 0 || (tune_tokens > 0 && tune_tokens < least)) {
    return bad_argument("aqlm", "tune_tokens", fmt::format("0 or at least {}", least),
                        std::to_string(tune_tokens));
  }
  if (tune_tokens > 0 && !options.calibration) {
    return bad_argument("aqlm", "tune_tokens", "a calibration text beside it", "none");
  }
  if (options.weigh != "inputs" && options.weigh != "fisher") {
    return bad_argument("aqlm", "weigh", "inputs or fisher", fmt::format("'{}'", options.weigh));
  }
  if (options.weigh == "fisher" && !options.calibration) {
    return bad_argument("aqlm", "weigh", "a calibration text for fisher", "none");
  }
  return {};
}

// A tensor of weights that is quantised: a matrix, or a stack of experts' matrices.
struct Job {
  std::string name;  // without ".weight"
  std::size_t layer = 0;
  std::string path;               // of the block
  std::vector<BlockMatrix> each;  // one, or one of each expert
  Index out = 0;
  Index in = 0;

  Index count() const noexcept { return std::ssize(each); }
  Index weights() const noexcept { return count() * out * in; }
  // How the i-th matrix is called in the folder of finished ones.
  std::string name_of(Index i) const {
    return each.front().is_stacked ? fmt::format("{}.{}", name, i) : name;
  }
  // The path of its tensor in the model, and where it begins there.
  std::string tensor(Index i) const {
    return fmt::format("{}.{}.weight", path, each[static_cast<std::size_t>(i)].name);
  }
  Index first_of(Index i) const { return each.front().is_stacked ? i * out * in : 0; }
};

// Whether the block's matrix is one that AQLM is for: what is small, or steers the state, is not.
bool is_quantised(const BlockMatrix& matrix) {
  return matrix.expert >= 0 || matrix.name == "in_proj" || matrix.name == "out_proj";
}

Result<std::vector<Job>> list_jobs(const CheckpointPlan& plan, const AqlmOptions& options) {
  const ModelSpec& spec = plan.config.spec;
  std::map<std::string_view, const TensorUse*> uses;  // by path
  for (const TensorUse& use : plan.plan.tensors) uses.emplace(use.path, &use);
  std::vector<Job> jobs;
  std::map<std::string, std::size_t> stacks;
  bool has_any = false;
  for (std::size_t layer = 0; layer < spec.layers.size(); ++layer) {
    for (const ResidualSpec& residual : spec.layers[layer].residuals) {
      const std::string path =
          fmt::format("{}.{}.{}", spec.layers_name, layer, residual.block_name);
      for (BlockMatrix& matrix : matrices(residual, spec.d_model())) {
        if (!is_quantised(matrix)) continue;
        const auto use = uses.find(fmt::format("{}.{}.weight", path, matrix.name));
        if (use == uses.end()) continue;
        has_any = true;
        std::string name = use->second->name;
        name.resize(name.size() - std::string_view(".weight").size());
        if (aqlm::is_kept(name + ".weight", options.keep)) continue;
        if (matrix.is_stacked) {
          const auto [known, is_new] = stacks.emplace(name, jobs.size());
          if (!is_new) {
            jobs[known->second].each.push_back(std::move(matrix));
            continue;
          }
        }
        const Shape& shape = use->second->shape;
        Job job;
        job.name = std::move(name);
        job.layer = layer;
        job.path = path;
        job.out = shape[shape.rank() - 2];
        job.in = shape[shape.rank() - 1];
        job.each.push_back(std::move(matrix));
        if (job.in % options.scheme.in_group != 0) {
          return bad_argument("aqlm", job.name,
                              fmt::format("inputs in groups of {}", options.scheme.in_group),
                              fmt::format("{} inputs", job.in));
        }
        jobs.push_back(std::move(job));
      }
    }
  }
  if (!jobs.empty()) return jobs;
  // Either patterns keep them all, or the model has none.
  return has_any ? bad_argument("aqlm", "keep", "a matrix to quantise", "none")
                 : bad_argument("aqlm", "model", "in_proj or out_proj of a mixer, or experts",
                                fmt::format("none ({})", plan.checkpoint.path));
}

// What decides the result, in words.
std::string key_of(const CheckpointPlan& plan, const std::string& fingerprint,
                   const AqlmOptions& options) {
  const std::string text = content_checksum({}, {{"text", options.calibration.value_or("")}});
  Index bytes = 0;
  for (const auto& [name, entry] : plan.checkpoint.weights.entries()) bytes += entry.tensor.bytes();
  return fmt::format(
      "krait aqlm 6\nmodel {} {} bytes\nscheme {}\npreset {}\ncalibration {} bytes {}\nseed "
      "{}\nkeep {}\nweigh {}\ntune {}\n",
      fingerprint, bytes, to_string(options.scheme), options.preset,
      options.calibration ? std::ssize(*options.calibration) : -1, text, options.seed,
      fmt::join(options.keep, " "), options.weigh,
      options.tune_tokens ? std::to_string(*options.tune_tokens) : "");
}

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

// Codes are stored as signed numbers, wrapped at 2^bits.
void append_codes(const AqlmMatrix& matrix, std::vector<std::byte>& codes) {
  const int bits = static_cast<int>(matrix.scheme.bits);
  for (const std::uint16_t code : matrix.codes) {
    const int value = (code >> (bits - 1)) != 0 ? code - (1 << bits) : code;
    codes.push_back(static_cast<std::byte>(value & 0xFF));
    if (bits > 8) codes.push_back(static_cast<std::byte>((value >> 8) & 0xFF));
  }
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

// The configuration with what transformers wants to know in front of everything else, which stays
// as it is written.
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
  const std::string name = is_tuned ? aqlm::tuned_name(job.name_of(i)) : job.name_of(i);
  auto matrix = aqlm::read_matrix(finished, name, scheme, job.out, job.in);
  if (matrix) return *std::move(matrix);
  return Error{ErrorCode::io_failed,
               fmt::format("[aqlm] {}: expected the finished matrix, found none ({})", name,
                           finished.folder())};
}

class Quantizer {
 public:
  Quantizer(const CheckpointPlan& plan, aqlm::Calibration& calibration, const AqlmOptions& options,
            const aqlm::Preset& preset, std::vector<Job> jobs, Executor& executor,
            Progress progress)
      : plan_(plan),
        calibration_(calibration),
        options_(options),
        preset_(preset),
        jobs_(std::move(jobs)),
        executor_(executor),
        progress_(progress) {
    for (const Job& job : jobs_) total_ += job.weights() * steps();
  }

  const std::vector<Job>& jobs() const noexcept { return jobs_; }

  // All matrices of a layer, and the activations behind it. `finished` has those of earlier calls.
  Result<void> layer(std::size_t index, const PartialWork& finished) {
    std::vector<const Job*> jobs;
    for (const Job& job : jobs_) {
      if (job.layer == index) jobs.push_back(&job);
    }
    // Together what reads the same: it is seen behind what was quantised before.
    for (auto first = jobs.begin(); first != jobs.end();) {
      const auto end = std::find_if(first, jobs.end(), [&](const Job* job) {
        return job->path != (*first)->path ||
               job->each.front().input != (*first)->each.front().input;
      });
      KRAIT_RETURN_IF_ERROR(step({first, end}, finished));
      first = end;
    }
    // Nothing reads the activations behind the last quantised layer.
    if (index >= jobs_.back().layer) return {};
    return calibration_.advance(static_cast<Index>(index));
  }

  // From now on errors count by how much the outputs move the cross-entropy, too.
  Result<void> weigh_outputs(std::span<const Token> tokens, const PartialWork& finished) {
    std::vector<aqlm::FisherPlace> places;
    for (const Job& job : jobs_) {
      for (Index i = 0; i < job.count(); ++i) {
        places.push_back({job.tensor(i), job.first_of(i), job.out, job.in});
      }
    }
    const auto piece = [&](Index, Index) -> Flow {
      return progress_ ? progress_(done_, total_) : Flow::go_on;
    };
    KRAIT_ASSIGN_OR_RETURN(auto weights, aqlm::finished_output_fisher(finished, plan_, tokens,
                                                                      places, executor_, piece));
    std::size_t k = 0;
    for (const Job& job : jobs_) {
      for (Index i = 0; i < job.count(); ++i) {
        output_weights_.emplace(job.name_of(i), std::move(weights[k++]));
      }
    }
    return {};
  }

  // Moves all matrices together, and norms where the preset does; whether that was possible: a
  // model that has a block without a backward pass stays as it is.
  Result<bool> tune(const Model& original, std::vector<Token> text, Index tokens,
                    const PartialWork& finished) {
    const auto is_possible =
        ModelGradient::create(plan_.config.spec, plan_.config.prefix, executor_);
    if (!is_possible) {
      const bool is_left_out =
          is_possible.error().code == ErrorCode::unsupported && !options_.tune_tokens;
      return is_left_out ? Result<bool>(false) : is_possible.error();
    }
    const Index missing = std::min(tokens, tuned_text) - std::ssize(text);
    if (missing > 0) {
      KRAIT_ASSIGN_OR_RETURN(std::vector<Token> own,
                             aqlm::own_text(original, text, {.tokens = missing}, options_.seed,
                                            finished, executor_, progress_));
      // The end decides.
      text.insert(text.end() - std::ssize(text) / 4, own.begin(), own.end());
    }
    std::vector<aqlm::TuneTarget> targets;
    std::set<std::string> dense;
    for (const auto& [name, entry] : plan_.checkpoint.weights.entries()) {
      const bool is_norm = name.find("norm") != std::string::npos && entry.tensor.shape.rank() == 1;
      if (preset_.moves_norms && is_norm && !aqlm::is_kept(name, options_.keep)) dense.insert(name);
    }
    for (const Job& job : jobs_) {
      for (Index i = 0; i < job.count(); ++i) {
        KRAIT_ASSIGN_OR_RETURN(AqlmMatrix matrix,
                               finished_matrix(finished, job, i, options_.scheme, false));
        targets.push_back({job.name_of(i), job.tensor(i), job.first_of(i), std::move(matrix)});
      }
    }
    const auto tuning = aqlm::tune(plan_, original, text, targets, dense, {.tokens = tokens},
                                   finished, executor_, progress_);
    if (tuning) {
      report_.tuning = {tuning->first, tuning->last};
      return true;
    }
    if (tuning.error().code != ErrorCode::unsupported) return tuning.error();
    return false;
  }

  AqlmReport take_report() {
    double bits = 0.0;
    double weights = 0.0;
    for (const Job& job : jobs_) {
      const auto size = static_cast<double>(job.weights());
      bits += size * bits_per_weight(options_.scheme, job.out, job.in);
      weights += size;
    }
    report_.bits_per_weight = bits / weights;
    return std::move(report_);
  }

 private:
  // Reports of progress for each matrix.
  Index steps() const noexcept { return preset_.effort.rounds + 2; }

  Result<void> step(std::span<const Job* const> jobs, const PartialWork& finished) {
    std::map<std::string, AqlmMatrix> known;  // of earlier calls
    std::vector<aqlm::MatrixPlace> places;
    for (const Job* job : jobs) {
      for (Index i = 0; i < job->count(); ++i) {
        const std::string name = job->name_of(i);
        auto matrix = aqlm::read_matrix(finished, name, options_.scheme, job->out, job->in);
        if (matrix) known.emplace(name, *std::move(matrix));
        const BlockMatrix& of_block = job->each[static_cast<std::size_t>(i)];
        places.push_back(
            {job->path, of_block.input, of_block.expert, job->in, of_block.name == "out_proj"});
      }
    }
    std::vector<aqlm::MatrixStatistics> seen(places.size());
    if (known.size() < places.size()) {
      const auto layer = static_cast<Index>(jobs.front()->layer);
      KRAIT_ASSIGN_OR_RETURN(seen, calibration_.see(layer, places, preset_.is_diagonal));
    }
    std::size_t k = 0;
    for (const Job* job : jobs) {
      auto decoded = std::make_shared<AlignedBuffer<float>>(job->weights());
      float* row = decoded->data();
      double error = 0.0;
      for (Index i = 0; i < job->count(); ++i, ++k) {
        const std::string name = job->name_of(i);
        if (const auto found = known.find(name); found == known.end()) {
          KRAIT_ASSIGN_OR_RETURN(AqlmMatrix matrix, encode(*job, i, seen[k]));
          KRAIT_RETURN_IF_ERROR(aqlm::write_matrix(finished, name, matrix));
          known.emplace(name, std::move(matrix));
        }
        const AqlmMatrix& matrix = known.at(name);
        for (Index r = 0; r < job->out; ++r, row += job->in) {
          matrix.row(r, {row, static_cast<std::size_t>(job->in)});
        }
        error += matrix.error;
        done_ += job->out * job->in * steps();
      }
      report_.matrices.push_back(
          {job->name, job->out, job->in, error / static_cast<double>(job->count())});
      const MatrixShape shape{
          job->out, job->in,
          job->each.front().is_stacked ? std::optional(job->count()) : std::nullopt};
      calibration_.replace(job->name, shape.tensor({job->out, job->in}), std::move(decoded));
    }
    return {};
  }

  Result<AqlmMatrix> encode(const Job& job, Index i, const aqlm::MatrixStatistics& seen) {
    const Index weights = job.out * job.in;
    const auto round = [&](Index done, Index) -> Flow {
      return progress_ ? progress_(done_ + done * weights, total_) : Flow::go_on;
    };
    const TensorView& all = plan_.checkpoint.weights.find(job.name + ".weight")->tensor;
    AlignedBuffer<float> values(weights);
    const auto* data = static_cast<const std::byte*>(all.data) + i * weights * bytes_of(all.dtype);
    convert_floats({data, all.dtype, {weights}}, DType::f32, values.data());
    const MatrixView<float> W(values.data(), job.out, job.in);
    // A matrix whose inputs hardly occurred is fitted to the weights alone, as is one whose inputs
    // were zero throughout: an expert's whose hidden units are all dead.
    const bool is_known =
        seen.rows >= job.in / 8 &&
        std::ranges::any_of(seen.inputs.values, [](float v) { return v != 0.0F; });
    if (is_known) seen.correct(executor_, W);
    // Σ_i f_i ‖Δw_i‖² is the error of rows that are √f_i times as large, and so are their scales.
    const auto weighed = output_weights_.find(job.name_of(i));
    const bool is_weighed = weighed != output_weights_.end();
    for (Index r = 0; is_weighed && r < job.out; ++r) {
      const float root = std::sqrt(weighed->second[static_cast<std::size_t>(r)]);
      for (float& w : W.row(r)) w *= root;
    }
    auto matrix = encode_aqlm(W, is_known ? seen.inputs : SecondMoments{}, options_.scheme,
                              preset_.effort, options_.seed, executor_, round);
    for (std::size_t r = 0; matrix && is_weighed && r < matrix->scales.size(); ++r) {
      matrix->scales[r] = to_f16(to_float(matrix->scales[r]) / std::sqrt(weighed->second[r]));
    }
    if (matrix) return matrix;
    return Error{matrix.error().code,
                 fmt::format("{} ({})", matrix.error().message, job.name_of(i))};
  }

  const CheckpointPlan& plan_;
  aqlm::Calibration& calibration_;
  const AqlmOptions& options_;
  aqlm::Preset preset_;
  std::vector<Job> jobs_;
  Executor& executor_;
  Progress progress_;
  AqlmReport report_;
  std::map<std::string, std::vector<float>> output_weights_;  // of matrices by name; none: all 1
  Index done_ = 0;
  Index total_ = 0;
};

Result<std::vector<Token>> calibration_tokens_of(const CheckpointPlan& plan,
                                                 std::string_view text) {
  if (text.empty()) return bad_argument("aqlm", "calibration", "text", "none");
  KRAIT_ASSIGN_OR_RETURN(const auto tokenizer, make_tokenizer(plan.checkpoint, plan.config));
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenizer->encode(text));
  if (std::ssize(tokens) < least_calibration_tokens) {
    return bad_argument("aqlm", "calibration",
                        fmt::format("at least {} tokens", least_calibration_tokens),
                        fmt::to_string(tokens.size()));
  }
  return tokens;
}

// Writes all tensors, those of `jobs` from the folder of finished ones.
Result<void> write_weights(const CheckpointPlan& plan, const std::vector<Job>& jobs,
                           const AqlmScheme& scheme, const PartialWork& finished, bool is_tuned,
                           const std::string& path, AqlmReport& report) {
  const auto dense = is_tuned ? finished.read(aqlm::tuned_dense) : std::nullopt;
  if (is_tuned && !dense) {
    return Error{ErrorCode::io_failed,
                 fmt::format("[aqlm] {}: expected the finished tensors, found none ({})",
                             aqlm::tuned_dense, finished.folder())};
  }
  std::vector<NamedTensor> tensors;
  std::map<std::string, const Job*, std::less<>> quantised;
  for (const Job& job : jobs) quantised.emplace(job.name + ".weight", &job);
  for (const auto& [name, entry] : plan.checkpoint.weights.entries()) {
    report.bytes_before += entry.tensor.bytes();
    if (quantised.contains(name)) continue;
    const WeightStore::Entry* moved = dense ? dense->find(name) : nullptr;
    tensors.push_back({name, moved != nullptr ? moved->tensor : entry.tensor});
  }
  const std::size_t copied = tensors.size();
  for (const Job& job : jobs) {
    const auto parts = file_parts(job, scheme);
    tensors.insert(tensors.end(), parts.begin(), parts.end());
  }
  for (const NamedTensor& tensor : tensors) report.bytes_after += tensor.tensor.bytes();
  auto metadata = plan.checkpoint.weights.metadata;
  metadata["format"] = "pt";
  KRAIT_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::create(path, tensors, metadata));
  for (std::size_t i = 0; i < copied; ++i) {
    const TensorView& tensor = tensors[i].tensor;
    KRAIT_RETURN_IF_ERROR(writer.write(
        i, 0,
        {static_cast<const std::byte*>(tensor.data), static_cast<std::size_t>(tensor.bytes())}));
  }
  std::size_t i = copied;
  for (const Job& job : jobs) {
    std::vector<std::byte> codes;
    std::vector<f16> codebooks;
    std::vector<f16> scales;
    for (Index k = 0; k < job.count(); ++k) {
      KRAIT_ASSIGN_OR_RETURN(const AqlmMatrix matrix,
                             finished_matrix(finished, job, k, scheme, is_tuned));
      append_codes(matrix, codes);
      codebooks.insert(codebooks.end(), matrix.codebooks.begin(), matrix.codebooks.end());
      scales.insert(scales.end(), matrix.scales.begin(), matrix.scales.end());
    }
    KRAIT_RETURN_IF_ERROR(writer.write(i++, 0, codes));
    KRAIT_RETURN_IF_ERROR(writer.write(i++, 0, std::as_bytes(std::span(codebooks))));
    KRAIT_RETURN_IF_ERROR(writer.write(i++, 0, std::as_bytes(std::span(scales))));
  }
  return writer.commit();
}

}  // namespace

Result<AqlmReport> quantize_aqlm(const std::string& source, const std::string& destination,
                                 const AqlmOptions& options, Executor& executor,
                                 Progress progress) {
  const FloatEnvironment environment;
  KRAIT_ASSIGN_OR_RETURN(const aqlm::Preset preset, aqlm::preset_of(options.preset));
  KRAIT_RETURN_IF_ERROR(parse_aqlm_scheme(to_string(options.scheme)));
  KRAIT_RETURN_IF_ERROR(check_options(options));
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan plan, plan_checkpoint(source));
  KRAIT_RETURN_IF_ERROR(check_floats(plan.plan, plan.checkpoint.weights, source, "aqlm"));
  KRAIT_RETURN_IF_ERROR(check_outside(plan.checkpoint, destination, "aqlm"));
  KRAIT_RETURN_IF_ERROR(check_texts(plan.checkpoint));
  KRAIT_RETURN_IF_ERROR(aqlm::check_kept(plan, options.keep));
  KRAIT_ASSIGN_OR_RETURN(std::vector<Job> jobs, list_jobs(plan, options));
  std::vector<Token> text;
  if (options.calibration) {
    KRAIT_ASSIGN_OR_RETURN(text, calibration_tokens_of(plan, *options.calibration));
  }
  KRAIT_RETURN_IF_ERROR(check_finite(plan.plan, plan.checkpoint.weights, source, "aqlm"));
  KRAIT_ASSIGN_OR_RETURN(const Model model, build_model(plan.config.spec, plan.checkpoint.weights,
                                                        plan.config.prefix));
  aqlm::Calibration calibration(plan, model, executor);
  if (options.calibration) {
    KRAIT_RETURN_IF_ERROR(calibration.begin(text));
  }
  Quantizer quantizer(plan, calibration, options, preset, std::move(jobs), executor, progress);
  if (options.weigh == "fisher") {
    KRAIT_RETURN_IF_ERROR(ModelGradient::create(plan.config.spec, plan.config.prefix, executor));
  }
  // The folder is made last of all: what is refused leaves nothing.
  KRAIT_ASSIGN_OR_RETURN(AtomicDirectory directory, AtomicDirectory::create(destination));
  KRAIT_ASSIGN_OR_RETURN(
      const auto finished,
      PartialWork::open("aqlm", destination, key_of(plan, model.fingerprint(), options)));
  // Weights and moments that cannot be used will not be better next time.
  const auto kept = [&finished](Result<void> done) {
    if (done) return done;
    const ErrorCode code = done.error().code;
    if (code == ErrorCode::not_finite || code == ErrorCode::bad_argument) finished.remove();
    return done;
  };
  if (options.weigh == "fisher") {
    KRAIT_RETURN_IF_ERROR(kept(quantizer.weigh_outputs(text, finished)));
  }
  for (std::size_t i = 0; i < plan.config.spec.layers.size(); ++i) {
    KRAIT_RETURN_IF_ERROR(kept(quantizer.layer(i, finished)));
  }
  const Index calibration_tokens = std::ssize(calibration.text());
  bool is_tuned = false;
  const Index tokens = options.tune_tokens.value_or(preset.tune_tokens(model.plan().parameters));
  if (tokens > 0 && options.calibration) {
    const Result<bool> tuned = quantizer.tune(model, std::move(text), tokens, finished);
    KRAIT_RETURN_IF_ERROR(kept(tuned ? Result<void>() : tuned.error()));
    is_tuned = *tuned;
  }
  AqlmReport report = quantizer.take_report();
  report.calibration_tokens = calibration_tokens;
  KRAIT_RETURN_IF_ERROR(write_weights(plan, quantizer.jobs(), options.scheme, finished, is_tuned,
                                      directory.path() + "/model.safetensors", report));
  KRAIT_RETURN_IF_ERROR(copy_texts(
      plan.checkpoint, with_quantization(plan.checkpoint, quantizer.jobs(), options.scheme),
      directory.path()));
  KRAIT_RETURN_IF_ERROR(directory.commit());
  finished.remove();
  return report;
}

}  // namespace v0_1
}  // namespace krait
