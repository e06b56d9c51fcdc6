#pragma once

/// \file
/// Additive quantisation (AQLM): weights as sums of codewords, about 2 bits each.
///
/// Papers  Egiazarian et al., "Extreme Compression of Large Language Models via Additive
///         Quantization", 2024 (arXiv:2401.06118): the representation. Codes are found by another
///         search: all codes of a group at once, by an additive beam search in the metric of the
///         inputs' second moments; codebooks by conjugate gradients; scales in closed form.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/dtype.hpp"
#include "krait/core/error.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/io/weight_store.hpp"
#include "krait/kernels/aqlm.hpp"
#include "krait/loading/registry.hpp"

namespace krait {
inline namespace v0_1 {

/// How many codewords of which length make a group of weights: "4x4g8" is four codebooks of 2⁴
/// codewords for groups of 8 inputs. Encoders make groups of one output, with 1 to 16 codebooks and
/// at most 64 inputs.
using kernels::AqlmScheme;

/// Reads "MxBgG", or "MxB" for groups of 8. Errors: bad_argument.
KRAIT_API Result<AqlmScheme> parse_aqlm_scheme(std::string_view text);
KRAIT_API std::string to_string(const AqlmScheme& scheme);

/// Bits per weight of a matrix [out, in], its f16 codebooks and scales included:
/// M·B/g + M·2^B·g·16/(out·in) + 16/in.
KRAIT_API double bits_per_weight(const AqlmScheme& scheme, Index out, Index in);

/// How long to look for good codes.
struct AqlmEffort {
  Index beam = 8;             ///< hypotheses kept per group, 1 to 64
  Index rounds = 10;          ///< at most so many sweeps over codebooks, scales and codes
  double least_gain = 0.005;  ///< stop when a round takes less than this part off the error
  Index solver_steps = 10;    ///< conjugate-gradient steps per round
  Index kmeans_rounds = 20;   ///< Lloyd's iterations for each codebook at the start
};

/// A matrix [out, in] as sums of codewords:
/// W[i, j·g + d] ≈ scales[i] · Σ_m codebooks[m, codes[i,j,m], d].
struct AqlmMatrix {
  AqlmScheme scheme;
  Index out = 0;
  Index in = 0;
  std::vector<std::uint16_t> codes;  ///< [out, in / in_group, codebooks]
  std::vector<f16> codebooks;        ///< [codebooks, codewords, in_group]
  std::vector<f16> scales;           ///< [out]
  double error = 0.0;                ///< tr(ΔHΔᵀ) / tr(WHWᵀ), Δ = Ŵ − W

  /// Row i of Ŵ in f32: the sum with m ascending, then the product with the scale.
  KRAIT_API void row(Index i, std::span<float> values) const;
};

/// Second moments of a matrix's inputs, H = XᵀX / n for n inputs X [n, in].
struct SecondMoments {
  Index in = 0;
  /// [in, in], symmetric; or [in], its diagonal alone, which says nothing of how inputs vary
  /// together; or empty: the identity.
  std::vector<float> values;
};

/// Encodes W [out, in] so that tr(ΔHΔᵀ) is small. The result depends on the arguments alone, not on
/// the executor and not on the instruction set.
///
/// `progress` counts rounds. Errors: bad_argument (groups that do not divide the inputs, moments of
/// another size, none that is positive, an effort out of range, weights beyond what f16 codebooks
/// and scales can stand for), not_finite (W or H), cancelled.
KRAIT_API Result<AqlmMatrix> encode_aqlm(MatrixView<const float> W, const SecondMoments& H,
                                         const AqlmScheme& scheme, const AqlmEffort& effort,
                                         std::uint64_t seed, Executor& executor,
                                         Progress progress = {});

/// Fewer tokens of a calibration text say nothing of which errors matter.
inline constexpr Index least_calibration_tokens = 256;

/// How `quantize_aqlm` works.
struct AqlmOptions {
  AqlmScheme scheme = {.codebooks = 4, .bits = 4, .in_group = 8};
  /// "fast": diagonal second moments and little search; "default"; "best": more search, and longer
  /// tuning, of norms too. Whatever else is not quantised is copied as it is.
  std::string preset = "default";
  /// Text whose activations tell which errors matter, and to which each matrix is fitted behind
  /// what was quantised before it; without any, all errors are the same. So much of it is read as
  /// makes 256 MiB of activations; it has at least least_calibration_tokens. 16 KiB are enough for
  /// matrices of some hundred inputs.
  std::optional<std::string> calibration = {};
  /// A file that `save_moments` made: its second moments tell which errors matter, in place of
  /// those of `calibration`, which then is for tuning and `weigh` alone and may be another text, or
  /// none. The matrices are fitted to what those before them lost only where the file is of a call
  /// with the same scheme, preset, seed, patterns and `weigh`, for the loss is that of its codes;
  /// such a call gives the same bytes.
  std::optional<std::string> moments = {};
  /// Where to write the second moments that this call gathers, behind the quantised matrices in
  /// front of each; with the preset "fast" their diagonals. A file of moments there is replaced.
  std::optional<std::string> save_moments = {};
  /// What stays as it is: patterns over modules and tensors ("*.layers.0.*"), `*` any run of
  /// characters. Of other matrices the input and output projections of mixers, the experts and what
  /// `quantize` names are quantised.
  std::vector<std::string> keep = {};
  /// What else is quantised, as patterns: any linear map of a block, and a head of its own. Not the
  /// embedding, routers, and blocks that layers share. `keep` comes first.
  std::vector<std::string> quantize = {};
  /// "inputs": errors count by the second moments of what a matrix reads; "fisher": also by how
  /// much each of its outputs moves the calibration text's cross-entropy (the diagonal of the
  /// empirical Fisher information, summed over each row; needs a text, and blocks with a backward
  /// pass).
  std::string weigh = "inputs";
  /// With a calibration text, codes, codebooks and scales of all matrices are moved together (for
  /// "best" with the norms that are not kept) to where the model predicts what the original does:
  /// in steps of 1,024 tokens, over so many in all, of the text and, where it is short, of text as
  /// the original writes it behind pieces of it. 0 is off. By default none for "fast", 2 Mi for
  /// "best" and 256 Ki for "default", fewer for models of more than 23 million parameters and none
  /// from 183 million on, nor for models that have a block without a backward pass
  /// (krait/training).
  std::optional<Index> tune_tokens = {};
  std::uint64_t seed = 0;
};

/// What came of a matrix.
struct AqlmMatrixReport {
  std::string name;  ///< "backbone.layers.3.mixer.in_proj"
  Index out = 0;
  Index in = 0;
  double error = 0.0;  ///< see AqlmMatrix::error; of a stack of experts the mean
};

/// How far the quantised model's next-token distributions are from the original's: mean
/// Kullback-Leibler divergence in nats on the end of the text that is tuned over (a quarter, at
/// most 64 Ki tokens), which is not learned from, before tuning and after.
struct AqlmTuning {
  double first = 0.0;
  double last = 0.0;
};

struct AqlmReport {
  std::vector<AqlmMatrixReport> matrices;
  std::optional<AqlmTuning> tuning = {};  ///< nothing where nothing was tuned
  double bits_per_weight = 0.0;           ///< of these matrices, codebooks and scales included
  Index calibration_tokens = 0;           ///< whose inputs were looked at, or are in `moments`
  Index bytes_before = 0;                 ///< of all tensors
  Index bytes_after = 0;                  ///< of all tensors, as stored: 4-bit codes take 8 bits
};

/// Writes the checkpoint at `source` to the new folder `destination` with matrices quantised, in
/// the layout of Hugging Face's AQLM integration. In the order of the model: each matrix sees the
/// activations that what is quantised before it makes of the calibration text, and is moved to
/// where it does on them what the original does on its own.
///
/// Finished matrices are kept in `destination`.partial, which is removed in the end: the same call
/// goes on after an interruption and gives the same bytes, which depend on the options and the
/// source alone.
///
/// `progress` counts, one after the other, weights times rounds of search, tokens that the model
/// writes, and steps of tuning. Errors: those of open_model and plan_model; bad_argument
/// (options, too short a text, moments of another model or without some matrix, a source that is
/// quantised, a destination that exists or lies in the source, unfinished work of another call),
/// not_finite (weights and moments, before any work, and what becomes of them), io_failed,
/// cancelled.
KRAIT_API Result<AqlmReport> quantize_aqlm(const std::string& source,
                                           const std::string& destination,
                                           const AqlmOptions& options, Executor& executor,
                                           Progress progress = {});

/// A checkpoint's weights with matrices quantised, and what came of them.
struct AqlmWeights {
  WeightStore weights;
  AqlmReport report;
};

/// The same in memory: weights with the values that the folder would have. Everything that is not
/// quantised is shared with the checkpoint. Nothing is written but `save_moments`, for which the
/// moments of all matrices are held, [in, in] floats each; a call that is interrupted begins anew.
///
///   AqlmWeights small = quantize_aqlm(plan, options, executor).value();
///   Model model = build_model(plan.config.spec, small.weights, plan.config.prefix).value();
///
/// Errors: as above, but for those of destinations.
KRAIT_API Result<AqlmWeights> quantize_aqlm(const CheckpointPlan& plan, const AqlmOptions& options,
                                            Executor& executor, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
