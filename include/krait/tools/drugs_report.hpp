#pragma once

/// \file
/// What DRµGS does to a model's predictions.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "krait/decoding/drugs.hpp"
#include "krait/tools/evaluate.hpp"

namespace krait {
inline namespace v0_1 {

/// One dose of one site, over all positions of a text, each given the text itself before it.
struct DrugPoint {
  DrugSite site = DrugSite::A;
  double dose = 0.0;                ///< theta
  std::optional<Index> layer = {};  ///< the only one that is dosed; none: all are
  double kl = 0.0;                  ///< mean D(sober ‖ noised) of the next token, in nats
  double flips = 0.0;               ///< part of the positions whose most probable token changes
  /// 1 - cosine of the residual stream with and without noise, the mean over positions, behind each
  /// layer.
  std::vector<double> vergence = {};
};

/// Measures every site at every dose: on all layers, and on each alone. `plan` says everything else
/// (its doses are not used); the sequence is 0. The session's hook must be null.
///
/// `progress` counts points. Errors: bad_argument (no tokens, what `Drugs::make` refuses), those of
/// Session::run, cancelled.
Result<std::vector<DrugPoint>> drugs_report(Session& session, const DrugPlan& plan,
                                            std::span<const DrugSite> sites,
                                            std::span<const double> doses,
                                            std::span<const Token> tokens, Progress progress = {});

/// The vergence of such points as a picture (SVG): a panel for each site and dose, in which a row
/// is a layer that is dosed (at the bottom: all), a column the layer behind which is measured, and
/// the colour the logarithm of the vergence.
std::string vergence_picture(std::span<const DrugPoint> points);

/// `perplexity` under noise, of sequence 0.
Result<Perplexity> noised_perplexity(Session& session, std::shared_ptr<const Drugs> drugs,
                                     const Tokenizer& tokenizer, std::span<const Token> tokens,
                                     Progress progress = {});

}  // namespace v0_1
}  // namespace krait
