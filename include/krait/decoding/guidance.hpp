#pragma once

/// \file
/// Guidance: away from how another prompt would go on.

#include <span>
#include <vector>

#include "krait/models/session.hpp"

namespace krait {
inline namespace v0_1 {

/// Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598; for text Sanchez et al. 2023,
/// arXiv:2306.17806), with the formula of transformers' UnbatchedClassifierFreeGuidance:
///
///   scores = scale (c - u) + u,  c = log_softmax(logits), u = log_softmax(negative logits)
///
/// where the negative logits are those of a second text: a negative prompt, and behind it the
/// tokens that the first text got. A scale of 1 is the first text alone, 0 the negative one. The
/// second text is run in the same pass over the weights, so the session needs room for two items.
///
/// `generate` and `beam_search` guide by themselves (`GenerationOptions::guidance_scale`). Whoever
/// runs texts does it so, for as long as the text grows:
///
///     KRAIT_ASSIGN_OR_RETURN(Guidance guidance, Guidance::make(session, negative, 1.5));
///     …
///     KRAIT_ASSIGN_OR_RETURN(const RunItem item, generation.next(session.options().chunk / 2));
///     KRAIT_ASSIGN_OR_RETURN(const RunOutput output, guidance.run(session, item));
///     KRAIT_ASSIGN_OR_RETURN(const auto events, generation.accept(output.logits(0)));
///
/// A copy goes its own way. Tentative items have to be kept in both texts: `Session::keep` with
/// item 1 and `state()`.
class KRAIT_API Guidance {
 public:
  /// Consumes all of the negative prompt but its last token. Errors: bad_argument (no tokens, a
  /// scale that is not finite), and those of Session::prefill.
  static Result<Guidance> make(Session& session, std::span<const Token> negative, double scale);

  /// What the negative text has to consume in the run in which the text consumes `item`, with
  /// logits for as many rows; no tokens where the text is still reading its prompt. Each item is to
  /// be asked for once. Valid until the next call.
  RunItem beside(const RunItem& item);

  /// The scores [rows, vocab] of rows of both texts. Valid until the next call.
  MatrixView<const float> combine(MatrixView<const float> logits, MatrixView<const float> negative);

  /// Both items in a run, and the scores as those of item 0. Errors: those of Session::run.
  Result<RunOutput> run(Session& session, const RunItem& item);

  /// The state of the negative text.
  State& state() noexcept { return state_; }

 private:
  Guidance() = default;

  double scale_ = 1.0;
  std::size_t vocab_ = 0;
  State state_;
  bool has_begun_ = false;       // the text has grown
  std::vector<Token> tokens_;    // of the last item; before the first, the negative prompt's last
  std::vector<float> scores_;    // [rows, vocab]
  std::vector<float> negative_;  // [vocab]
  Index rows_ = 0;               // of the last run
};

}  // namespace v0_1
}  // namespace krait
