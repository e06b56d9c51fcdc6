// A checkpoint quantised layer by layer.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "core/bad_argument.hpp"
#include "io/content_checksum.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/core/function_ref.hpp"
#include "krait/io/atomic_file.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/tools/aqlm.hpp"
#include "krait/training/model_gradient.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/form.hpp"
#include "loading/checkpoint_texts.hpp"
#include "tools/aqlm/calibration.hpp"
#include "tools/aqlm/finished.hpp"
#include "tools/aqlm/fisher.hpp"
#include "tools/aqlm/jobs.hpp"
#include "tools/aqlm/kept.hpp"
#include "tools/aqlm/moments_file.hpp"
#include "tools/aqlm/own_text.hpp"
#include "tools/aqlm/presets.hpp"
#include "tools/aqlm/tune.hpp"
#include "tools/aqlm/written.hpp"
#include "tools/checkpoint_copy.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using aqlm::Job;

// A text to tune over is made as long as this, if so many tokens are asked for.
constexpr Index tuned_text = 512 << 10;

Result<void> check_options(const AqlmOptions& options) {
  KRAIT_RETURN_IF_ERROR(aqlm::preset_of(options.preset));
  KRAIT_RETURN_IF_ERROR(parse_aqlm_scheme(to_string(options.scheme)));
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
  if (options.save_moments && options.moments) {
    return bad_argument("aqlm", "save_moments", "a run that gathers moments", "moments beside it");
  }
  if (options.save_moments && !options.calibration) {
    return bad_argument("aqlm", "save_moments", "a calibration text beside it", "none");
  }
  return {};
}

std::string checksum_of(const std::optional<std::string>& text) {
  return content_checksum({}, {{"text", text.value_or("")}});
}

// What decides, beside model and text, how matrices are quantised, and so what those behind them
// see. Outputs are weighed by a text that may be another than that of the moments.
std::string behind_of(const AqlmOptions& options) {
  return fmt::format("scheme {} preset {} seed {} keep {} quantize {} weigh {}{}",
                     to_string(options.scheme), options.preset, options.seed,
                     fmt::join(options.keep, " "), fmt::join(options.quantize, " "), options.weigh,
                     options.weigh == "fisher" ? " " + checksum_of(options.calibration) : "");
}

// What decides the result, in words. `moments` is the checksum of their file, if there is one.
std::string key_of(const CheckpointPlan& plan, const std::string& fingerprint,
                   const AqlmOptions& options, const std::string& moments) {
  const std::string text = checksum_of(options.calibration);
  Index bytes = 0;
  for (const auto& [name, entry] : plan.checkpoint.weights.entries()) bytes += entry.tensor.bytes();
  std::string key = fmt::format(
      "krait aqlm 6\nmodel {} {} bytes\nscheme {}\npreset {}\ncalibration {} bytes {}\nseed "
      "{}\nkeep {}\nweigh {}\ntune {}\n",
      fingerprint, bytes, to_string(options.scheme), options.preset,
      options.calibration ? std::ssize(*options.calibration) : -1, text, options.seed,
      fmt::join(options.keep, " "), options.weigh,
      options.tune_tokens ? std::to_string(*options.tune_tokens) : "");
  if (!options.quantize.empty()) {
    key += fmt::format("quantize {}\n", fmt::join(options.quantize, " "));
  }
  if (!moments.empty()) key += fmt::format("moments {}\n", moments);
  return key;
}

class Quantizer {
 public:
  // `moments` are taken in place of what the calibration would see; null: none.
  Quantizer(const CheckpointPlan& plan, aqlm::Calibration& calibration,
            const aqlm::MomentsFile* moments, const AqlmOptions& options,
            const aqlm::Preset& preset, std::vector<Job> jobs, Executor& executor,
            Progress progress)
      : plan_(plan),
        calibration_(calibration),
        moments_(moments),
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
      if (preset_.moves_norms && is_norm && !aqlm::is_named(name, options_.keep))
        dense.insert(name);
    }
    for (const Job& job : jobs_) {
      for (Index i = 0; i < job.count(); ++i) {
        KRAIT_ASSIGN_OR_RETURN(AqlmMatrix matrix,
                               aqlm::finished_matrix(finished, job, i, options_.scheme, false));
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
        places.push_back(job->place(i));
      }
    }
    KRAIT_ASSIGN_OR_RETURN(std::vector<aqlm::MatrixStatistics> seen,
                           see(jobs, places, known.size() < places.size(), finished));
    std::size_t k = 0;
    for (const Job* job : jobs) {
      auto decoded = std::make_shared<AlignedBuffer<float>>(job->weights());
      float* row = decoded->data();
      double error = 0.0;
      for (Index i = 0; i < job->count(); ++i, ++k) {
        const std::string name = job->name_of(i);
        if (const auto found = known.find(name); found == known.end()) {
          if (moments_ != nullptr) seen[k] = moments_->of(*job, i);
          KRAIT_ASSIGN_OR_RETURN(AqlmMatrix matrix, encode(*job, i, seen[k]));
          if (moments_ != nullptr) seen[k] = {};
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

  // What the calibration says of the matrices of some jobs, if that is wanted, or to be saved and
  // not yet among the unfinished work.
  Result<std::vector<aqlm::MatrixStatistics>> see(std::span<const Job* const> jobs,
                                                  const std::vector<aqlm::MatrixPlace>& places,
                                                  bool is_wanted, const PartialWork& finished) {
    std::vector<std::string> missing;  // names, or nothing of what is there
    for (const Job* job : jobs) {
      for (Index i = 0; options_.save_moments && i < job->count(); ++i) {
        const std::string name = job->name_of(i);
        missing.push_back(aqlm::has_moments(finished, name) ? std::string() : name);
        is_wanted = is_wanted || !missing.back().empty();
      }
    }
    if (!is_wanted || moments_ != nullptr) {
      return std::vector<aqlm::MatrixStatistics>(places.size());
    }
    const auto layer = static_cast<Index>(jobs.front()->layer);
    KRAIT_ASSIGN_OR_RETURN(auto seen, calibration_.see(layer, places, preset_.is_diagonal));
    for (std::size_t k = 0; k < missing.size(); ++k) {
      if (missing[k].empty()) continue;
      KRAIT_RETURN_IF_ERROR(aqlm::keep_moments(finished, missing[k], seen[k]));
    }
    return seen;
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
  const aqlm::MomentsFile* moments_;
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

// What the work has come to.
struct Quantized {
  std::vector<Job> jobs;
  PartialWork finished;
  bool is_tuned = false;
  AqlmReport report;
};

// All matrices, of options that were checked. `begin` is called when nothing more can be refused,
// with what says what decides the result, and gives the place of unfinished work.
Result<Quantized> quantize(const CheckpointPlan& plan, const AqlmOptions& options,
                           FunctionRef<Result<PartialWork>(FunctionRef<std::string()> key)> begin,
                           Executor& executor, Progress progress) {
  const FloatEnvironment environment;
  const Checkpoint& source = plan.checkpoint;
  KRAIT_ASSIGN_OR_RETURN(const aqlm::Preset preset, aqlm::preset_of(options.preset));
  KRAIT_RETURN_IF_ERROR(check_floats(plan.plan, source.weights, source.path, "aqlm"));
  KRAIT_RETURN_IF_ERROR(aqlm::check_kept(plan, options.keep));
  KRAIT_ASSIGN_OR_RETURN(std::vector<Job> jobs, aqlm::list_jobs(plan, options));
  std::vector<Token> text;
  if (options.calibration) {
    KRAIT_ASSIGN_OR_RETURN(text, calibration_tokens_of(plan, *options.calibration));
  }
  KRAIT_RETURN_IF_ERROR(check_finite(plan.plan, source.weights, source.path, "aqlm"));
  KRAIT_ASSIGN_OR_RETURN(const Model model,
                         build_model(plan.config.spec, source.weights, plan.config.prefix));
  aqlm::Calibration calibration(plan, model, executor);
  if (options.calibration && !options.moments) {
    KRAIT_RETURN_IF_ERROR(calibration.begin(text));
  }
  const aqlm::MomentsNote note{model.fingerprint(), std::ssize(calibration.text()),
                               checksum_of(options.calibration), behind_of(options)};
  std::optional<aqlm::MomentsFile> moments;
  if (options.moments) {
    KRAIT_ASSIGN_OR_RETURN(moments, aqlm::MomentsFile::open(*options.moments, jobs, note,
                                                            model.d_model(), preset.is_diagonal));
  }
  Quantizer quantizer(plan, calibration, moments ? &*moments : nullptr, options, preset,
                      std::move(jobs), executor, progress);
  if (options.weigh == "fisher") {
    KRAIT_RETURN_IF_ERROR(ModelGradient::create(plan.config.spec, plan.config.prefix, executor));
  }
  const auto key = [&] {  // which reads all moments
    return key_of(plan, note.model, options, moments ? moments->checksum() : std::string());
  };
  KRAIT_ASSIGN_OR_RETURN(const PartialWork finished, begin(key));
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
  for (std::size_t i = 0; i <= plan.config.spec.layers.size(); ++i) {  // the last is the head
    KRAIT_RETURN_IF_ERROR(kept(quantizer.layer(i, finished)));
  }
  if (options.save_moments) {
    KRAIT_RETURN_IF_ERROR(
        aqlm::write_moments(*options.save_moments, quantizer.jobs(), finished, note));
  }
  bool is_tuned = false;
  const Index tokens = options.tune_tokens.value_or(preset.tune_tokens(model.plan().parameters));
  if (tokens > 0 && options.calibration) {
    const Result<bool> tuned = quantizer.tune(model, std::move(text), tokens, finished);
    KRAIT_RETURN_IF_ERROR(kept(tuned ? Result<void>() : tuned.error()));
    is_tuned = *tuned;
  }
  Quantized done{quantizer.jobs(), finished, is_tuned, quantizer.take_report()};
  done.report.calibration_tokens = moments ? moments->note().tokens : note.tokens;
  return done;
}

}  // namespace

Result<AqlmWeights> quantize_aqlm(const CheckpointPlan& plan, const AqlmOptions& options,
                                  Executor& executor, Progress progress) {
  KRAIT_RETURN_IF_ERROR(check_options(options));
  if (options.save_moments) {
    KRAIT_RETURN_IF_ERROR(aqlm::check_moments_place(*options.save_moments));
  }
  const auto begin = [](FunctionRef<std::string()> /*key*/) -> Result<PartialWork> {
    return PartialWork::in_memory();
  };
  KRAIT_ASSIGN_OR_RETURN(Quantized done, quantize(plan, options, begin, executor, progress));
  AqlmWeights made;
  KRAIT_ASSIGN_OR_RETURN(made.weights,
                         aqlm::overlay_weights(plan, done.jobs, options.scheme, done.finished,
                                               done.is_tuned, done.report));
  made.report = std::move(done.report);
  return made;
}

Result<AqlmReport> quantize_aqlm(const std::string& source, const std::string& destination,
                                 const AqlmOptions& options, Executor& executor,
                                 Progress progress) {
  KRAIT_RETURN_IF_ERROR(check_options(options));
  if (options.save_moments) {
    KRAIT_RETURN_IF_ERROR(aqlm::check_moments_place(*options.save_moments, destination));
  }
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan plan, plan_checkpoint(source));
  KRAIT_RETURN_IF_ERROR(check_outside(plan.checkpoint, destination, "aqlm"));
  KRAIT_RETURN_IF_ERROR(check_texts(plan.checkpoint));
  // The folder is made last of all: what is refused leaves nothing.
  std::optional<AtomicDirectory> directory;
  const auto begin = [&](FunctionRef<std::string()> key) -> Result<PartialWork> {
    KRAIT_ASSIGN_OR_RETURN(directory, AtomicDirectory::create(destination));
    return PartialWork::open("aqlm", destination, key());
  };
  KRAIT_ASSIGN_OR_RETURN(Quantized done, quantize(plan, options, begin, executor, progress));
  KRAIT_RETURN_IF_ERROR(aqlm::write_weights(plan, done.jobs, options.scheme, done.finished,
                                            done.is_tuned, directory->path() + "/model.safetensors",
                                            done.report));
  KRAIT_RETURN_IF_ERROR(copy_texts(
      plan.checkpoint, aqlm::with_quantization(plan.checkpoint, done.jobs, options.scheme),
      directory->path()));
  KRAIT_RETURN_IF_ERROR(directory->commit());
  done.finished.remove();
  return std::move(done.report);
}

}  // namespace v0_1
}  // namespace krait
