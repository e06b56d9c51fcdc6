#include "krait/tools/drugs_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "io/svg.hpp"
#include "krait/kernels/elementwise.hpp"
#include "krait/kernels/softmax.hpp"
#include "tools/divergence.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// The residual stream behind every layer, of the rows of one run: the embedding and what the blocks
// add to it.
class Streams final : public ActivationHook {
 public:
  explicit Streams(const ModelSpec& spec) : d_model_(spec.d_model()), behind_(spec.layers.size()) {
    for (std::size_t i = 0; i < spec.layers.size(); ++i) {
      for (const ResidualSpec& part : spec.layers[i].residuals) {
        factors_[fmt::format("{}.{}.{}", spec.layers_name, i, part.block_name)] =
            part.aside ? 0.0F : part.scale;
      }
    }
  }

  Result<void> begin(Session& session, std::span<const Token> tokens) {
    const Index rows = std::ssize(tokens);
    stream_ = AlignedBuffer<float>(rows * d_model_);
    return session.embed(tokens, {stream_.data(), rows, d_model_});
  }

  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
    if (place.site != Site::output) return;
    const MatrixView<float> stream(stream_.data(), values.rows, d_model_);
    const auto factor = factors_.find(place.path);
    for (Index t = 0; factor != factors_.end() && t < values.rows; ++t) {
      kernels::add_scaled(factor->second, values.row(t), stream.row(t));
    }
    std::vector<float>& behind = behind_[static_cast<std::size_t>(place.layer)];
    behind.assign(stream_.data(), stream_.data() + values.rows * d_model_);
  }

  // Of row t, behind a layer.
  std::span<const float> row(Index layer, Index t) const {
    return std::span(behind_[static_cast<std::size_t>(layer)])
        .subspan(static_cast<std::size_t>(t * d_model_), static_cast<std::size_t>(d_model_));
  }

 private:
  Index d_model_;
  AlignedBuffer<float> stream_;
  std::map<std::string, float, std::less<>> factors_;  // of blocks, by their paths
  std::vector<std::vector<float>> behind_;
};

double cosine(std::span<const float> a, std::span<const float> b) {
  double product = 0.0;
  double a_square = 0.0;
  double b_square = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    product += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    a_square += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    b_square += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return a_square > 0.0 && b_square > 0.0 ? product / std::sqrt(a_square * b_square) : 1.0;
}

// Shows some rows: the first one's token, their logits, and the streams.
using SeeRows = FunctionRef<void(Index first, MatrixView<const float> logits, const Streams&)>;

Result<void> run_text(Session& session, const std::shared_ptr<const Drugs>& drugs,
                      std::span<const Token> tokens, SeeRows see) {
  Streams streams(session.model().spec());
  NoisedRun run(session, drugs, 0, &streams);
  for (std::size_t first = 0; first < tokens.size();) {
    // Rows of the embedding for more tokens than a run may take do no harm.
    const auto rest = tokens.subspan(first, std::min<std::size_t>(tokens.size() - first, 256));
    KRAIT_RETURN_IF_ERROR(streams.begin(session, rest));
    KRAIT_ASSIGN_OR_RETURN(const MatrixView<const float> logits, run.run(rest));
    see(static_cast<Index>(first), logits, streams);
    first += static_cast<std::size_t>(logits.rows);
  }
  return {};
}

// What the model does without noise: logits [tokens, vocab], and the residual stream behind each
// layer [layers, tokens, d_model].
class SoberRun {
 public:
  static Result<SoberRun> make(Session& session, const std::shared_ptr<const Drugs>& none,
                               std::span<const Token> tokens) {
    const Model& model = session.model();
    SoberRun sober;
    sober.tokens_ = tokens;
    sober.vocab_ = model.vocab();
    sober.layers_ = std::ssize(model.spec().layers);
    sober.d_model_ = model.spec().d_model();
    const Index count = std::ssize(tokens);
    sober.logits_ = AlignedBuffer<float>(count * sober.vocab_);
    sober.streams_ = AlignedBuffer<float>(sober.layers_ * count * sober.d_model_);
    const auto keep = [&](Index first, MatrixView<const float> logits, const Streams& streams) {
      for (Index t = 0; t < logits.rows; ++t) {
        std::ranges::copy(logits.row(t).first(sober.logits(first + t).size()),
                          sober.logits(first + t).begin());
        for (Index layer = 0; layer < sober.layers_; ++layer) {
          std::ranges::copy(streams.row(layer, t), sober.stream(layer, first + t).begin());
        }
      }
    };
    KRAIT_RETURN_IF_ERROR(run_text(session, none, tokens, keep));
    return sober;
  }

  // How far the same tokens with noise are from it.
  Result<void> compare(Session& session, const std::shared_ptr<const Drugs>& drugs,
                       DrugPoint& point) {
    std::vector<double> away(static_cast<std::size_t>(layers_), 0.0);
    const auto add = [&](Index first, MatrixView<const float> noised, const Streams& streams) {
      for (Index t = 0; t < noised.rows; ++t) {
        const std::span<const float> p = logits(first + t);
        const auto q = noised.row(t).first(p.size());
        point.kl += divergence(p, q);
        point.flips += is_same_top(p, q) ? 0.0 : 1.0;
        for (Index layer = 0; layer < layers_; ++layer) {
          away[static_cast<std::size_t>(layer)] +=
              1.0 - cosine(stream(layer, first + t), streams.row(layer, t));
        }
      }
    };
    KRAIT_RETURN_IF_ERROR(run_text(session, drugs, tokens_, add));
    const auto count = static_cast<double>(tokens_.size());
    point.kl /= count;
    point.flips /= count;
    for (const double sum : away) point.vergence.push_back(sum / count);
    return {};
  }

 private:
  std::span<float> logits(Index t) noexcept {
    return {logits_.data() + t * vocab_, static_cast<std::size_t>(vocab_)};
  }
  std::span<float> stream(Index layer, Index t) noexcept {
    return {streams_.data() + (layer * std::ssize(tokens_) + t) * d_model_,
            static_cast<std::size_t>(d_model_)};
  }

  std::span<const Token> tokens_;
  Index vocab_ = 0;
  Index layers_ = 0;
  Index d_model_ = 0;
  AlignedBuffer<float> logits_;
  AlignedBuffer<float> streams_;
};

// The dose of one layer alone, or of all.
Dose dose_of(DrugSite site, double theta, std::optional<Index> layer, Index layers) {
  Dose dose{.site = site, .theta = theta};
  if (layer) {
    const double depth = static_cast<double>(*layer) / static_cast<double>(layers);
    const double half = 0.5 / static_cast<double>(layers);
    dose.shape = {{depth - half, 0.0}, {depth, 1.0}, {depth + half, 0.0}};
  }
  return dose;
}

}  // namespace

Result<std::vector<DrugPoint>> drugs_report(Session& session, const DrugPlan& plan,
                                            std::span<const DrugSite> sites,
                                            std::span<const double> doses,
                                            std::span<const Token> tokens, Progress progress) {
  if (tokens.empty()) {
    return Error{ErrorCode::bad_argument, "[drugs] text: expected at least 1 token, found none"};
  }
  const Model& model = session.model();
  const Index layers = std::ssize(model.spec().layers);
  const auto make = [&](std::vector<Dose> all) -> Result<std::shared_ptr<const Drugs>> {
    DrugPlan own = plan;
    own.doses = std::move(all);
    KRAIT_ASSIGN_OR_RETURN(Drugs drugs, Drugs::make(own, model));
    return std::shared_ptr<const Drugs>(std::make_shared<Drugs>(std::move(drugs)));
  };
  for (const DrugSite site : sites) {  // what is refused is so before anything runs
    for (const double dose : doses) KRAIT_RETURN_IF_ERROR(make({dose_of(site, dose, {}, layers)}));
  }
  KRAIT_ASSIGN_OR_RETURN(const auto none, make({}));
  KRAIT_ASSIGN_OR_RETURN(SoberRun sober, SoberRun::make(session, none, tokens));
  const Index total = std::ssize(sites) * std::ssize(doses) * (layers + 1);
  std::vector<DrugPoint> points;
  for (const DrugSite site : sites) {
    for (const double dose : doses) {
      for (Index layer = -1; layer < layers; ++layer) {
        DrugPoint point{.site = site, .dose = dose};
        if (layer >= 0) point.layer = layer;
        KRAIT_ASSIGN_OR_RETURN(const auto drugs, make({dose_of(site, dose, point.layer, layers)}));
        KRAIT_RETURN_IF_ERROR(sober.compare(session, drugs, point));
        points.push_back(std::move(point));
        if (progress && progress(std::ssize(points), total) == Flow::stop) {
          return Error{ErrorCode::cancelled,
                       fmt::format("[drugs] stopped after {} of {} points", points.size(), total)};
        }
      }
    }
  }
  return points;
}

std::string vergence_picture(std::span<const DrugPoint> points) {
  constexpr int cell = 8;
  constexpr int gap = 34;
  constexpr double least = 1e-6;  // white
  std::vector<DrugSite> sites;
  std::vector<double> doses;
  std::size_t layers = 0;
  for (const DrugPoint& point : points) {
    if (std::ranges::find(sites, point.site) == sites.end()) sites.push_back(point.site);
    if (std::ranges::find(doses, point.dose) == doses.end()) doses.push_back(point.dose);
    layers = std::max(layers, point.vergence.size());
  }
  const auto n = static_cast<int>(layers);
  const int width = n * cell + gap;
  const int height = (n + 1) * cell + gap;
  Svg svg;
  for (const DrugPoint& point : points) {
    const auto column = std::ranges::find(doses, point.dose) - doses.begin();
    const auto row = std::ranges::find(sites, point.site) - sites.begin();
    const int x = gap + static_cast<int>(column) * width;
    const int y = gap + static_cast<int>(row) * height;
    const int line = point.layer ? static_cast<int>(*point.layer) : n;
    if (!point.layer) {
      svg.text(
          x, y - 5,
          fmt::format("{} {}", drug_letters[static_cast<std::size_t>(point.site)], point.dose));
    }
    for (std::size_t i = 0; i < point.vergence.size(); ++i) {
      const double value = std::clamp(point.vergence[i], least, 1.0);
      const int shade = static_cast<int>(255.0 * std::log(value) / std::log(least));
      svg.rectangle(x + static_cast<int>(i) * cell, y + line * cell, cell, cell,
                    fmt::format("rgb({},{},{})", shade, shade, shade));
    }
  }
  const int bottom = gap + static_cast<int>(sites.size()) * height;
  svg.text(gap, bottom,
           "1 - cosine of the residual stream, white 1e-6 and below, black 1; across: behind which "
           "layer; down: which layer is dosed, last all");
  return svg.file(static_cast<int>(doses.size()) * width + gap, bottom + gap);
}

Result<Perplexity> noised_perplexity(Session& session, std::shared_ptr<const Drugs> drugs,
                                     const Tokenizer& tokenizer, std::span<const Token> tokens,
                                     Progress progress) {
  if (tokens.size() < 2) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[evaluate] tokens: expected at least 2, found {}", tokens.size())};
  }
  const auto vocab = static_cast<std::size_t>(session.model().vocab());
  NoisedRun run(session, std::move(drugs));
  Perplexity result{.tokens = std::ssize(tokens) - 1};
  for (Index first = 0; first < result.tokens;) {
    const auto rest = tokens.subspan(static_cast<std::size_t>(first),
                                     static_cast<std::size_t>(result.tokens - first));
    KRAIT_ASSIGN_OR_RETURN(const MatrixView<const float> logits, run.run(rest));
    for (Index i = 0; i < logits.rows; ++i) {
      const Token next = tokens[static_cast<std::size_t>(first + i + 1)];
      const auto row = logits.row(i).first(vocab);
      result.bytes += std::ssize(tokenizer.bytes(next));
      // A padding id has no probability.
      if (static_cast<std::size_t>(next) >= vocab) {
        result.nats = std::numeric_limits<double>::infinity();
        continue;
      }
      result.nats -=
          static_cast<double>(row[static_cast<std::size_t>(next)] - kernels::log_sum_exp(row));
    }
    first += logits.rows;
    if (progress && progress(first, result.tokens) == Flow::stop) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[evaluate] stopped after {} of {} tokens", first, result.tokens)};
    }
  }
  return result;
}

}  // namespace v0_1
}  // namespace krait
