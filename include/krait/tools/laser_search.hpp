#pragma once

/// \file
/// Looks for cuts (laser.hpp) that make a model better, or smaller at little loss.
///
/// Paper   Sharma, Ash, Misra 2023 (arXiv:2312.13558), section 4: every matrix, layer and rank is
///         tried on a part of the data. Here what was found is scored again on data that did not
///         choose it, and again on the rest, because the best of many noisy scores looks better
///         than it is.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/tools/laser.hpp"

namespace krait {
inline namespace v0_1 {

/// What the data is, of which one JSON object a line but for text.
enum class LaserTask {
  text,       ///< any text: what its bytes cost, in windows of up to 512 tokens
  hellaswag,  ///< "ctx", "endings", "label"
  lambada,    ///< "text", whose last word is wanted
  jsonl,      ///< "prompt" and "answer", or "prompt", "choices" and "label"
};

struct LaserSearchOptions {
  LaserTask task = LaserTask::text;
  bool shrinks = false;  ///< fewest bytes within `loss`, instead of the best score
  double loss = 0.01;    ///< bits per byte that shrinking may cost, on data that did not choose
  double minutes = 0.0;  ///< stop trying then, and make the best of what is known; 0: no limit
  bool by_rule = false;  ///< try laserRMT's rank of each matrix alone, instead of seven
  LaserForm form = LaserForm::smaller;
  /// Patterns of what is tried, in which `*` is any run of characters: of names ("in_x", "head"),
  /// or of layers and names ("7:*"). Empty: everything but the embedding.
  std::vector<std::string> matrices = {};
  /// Try only ranks up to a quarter of the largest, by `decompose_randomly`. What is confirmed,
  /// scored on the test part or written is decomposed exactly all the same.
  bool quick = false;
  std::uint64_t seed = 0;  ///< of the division of the data
};

/// A change of the objective, bits per byte of what is scored, by pairs of samples.
struct LaserScore {
  double before = 0.0;
  double after = 0.0;
  double low = 0.0;  ///< of after − before, the ends of the 95 % interval (Student's t)
  double high = 0.0;
  Index samples = 0;
};

/// What was tried: one matrix, or all experts of a stack ("up[*]").
struct LaserTrial {
  LaserCut cut;
  double change = 0.0;  ///< bits per byte
  double error = 0.0;   ///< its standard error
  /// Samples that were scored: a cut that is clearly worse is not scored further.
  Index samples = 0;
};

struct LaserSearchReport {
  std::vector<LaserTrial> trials;
  bool is_complete = false;  ///< whether all was tried before the time was over
  /// What was chosen, each scored on the test part behind those before it.
  struct Found {
    LaserCut cut;
    LaserScore score;
  };
  std::vector<Found> cuts;
  LaserScore test;  ///< all of them together, on the test part
  /// Of tasks: part of the test samples whose answer is the most probable one.
  std::optional<double> accuracy_before = {};
  std::optional<double> accuracy_after = {};
  /// Where it was to shrink: the same fraction of every matrix's rank, in at least as many bytes.
  std::optional<LaserScore> uniform = {};
  Index uniform_bytes = 0;
  Index bytes_before = 0;
  Index bytes_after = 0;
};

/// Tries cuts of matrices and writes a checkpoint with those that are worth it to
/// `destination`, as `write_laser` does; none, if none is.
///
/// A fifth of the samples is for trying all, a fifth for the best 20 of them, and for composing,
/// three fifths for the test. A trial that is worse beyond one chance in a thousand (Student's t,
/// of at least three samples) ends there; where it is to shrink, for which what a cut costs counts,
/// one that is worse by six standard errors of at least six samples. A trial in layer l runs the
/// layers from l on, one of the head the head alone, one of the embedding, tied or not, the whole
/// model. So many samples are used as make 256 MiB of activations. The result depends on the
/// arguments alone, not on the executor, unless the time is limited.
///
/// Finished layers are kept in `destination`.partial, which is removed in the end: the same call
/// goes on there after an interruption.
///
/// `progress` counts trials times layers. Errors: those of write_laser and open_model; bad_argument
/// (options, data of which there is not enough), bad_format (lines of another kind), not_finite,
/// cancelled.
KRAIT_API Result<LaserSearchReport> laser_search(const CheckpointPlan& source,
                                                 const std::string& destination,
                                                 std::string_view data,
                                                 const LaserSearchOptions& options,
                                                 Executor& executor, Progress progress = {});

/// A heat map of the trials, layer × matrix × rank: an SVG file. Embedding and head have a row of
/// their own below the layers.
KRAIT_API std::string draw_trials(const LaserSearchReport& report);

}  // namespace v0_1
}  // namespace krait
