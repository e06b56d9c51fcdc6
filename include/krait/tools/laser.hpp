#pragma once

/// \file
/// LASER: single matrices of a model cut to a lower rank.
///
/// Paper   Sharma, Ash, Misra, "The Truth is in There: Improving Reasoning in Language Models with
///         Layer-Selective Rank Reduction", 2023 (arXiv:2312.13558). There a cut is (type, layer,
///         fraction of the rank that is kept).

#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/loading/registry.hpp"
#include "krait/tools/low_rank.hpp"

namespace krait {
inline namespace v0_1 {

/// A matrix [rows, cols] of a model that can be cut: a weight matrix, or those of its rows that
/// make something of their own.
struct LaserMatrix {
  Index layer = -1;  ///< -1: the embedding or the head
  /// As users write it: "in", "in_x" (its rows that make x), "x_B", "out", "up[3]" (of expert 3),
  /// "router", "emb". Where a layer has two of a name, its block's is in front: "mixer.out".
  std::string name = {};
  std::string tensor = {};  ///< "backbone.layers.3.mixer.in_proj", in the checkpoint
  Index items = 1;          ///< matrices in that tensor: more than one for a stack of experts
  bool is_stack = false;
  Index item = 0;       ///< which of them
  Index item_rows = 0;  ///< rows of each of them
  Index first_row = 0;
  Index rows = 0;
  Index cols = 0;
  /// Whether it must stay a matrix, whose cuts are written as their product: a router's.
  bool is_dense = false;

  bool is_whole() const noexcept { return rows == item_rows; }
  Index largest_rank() const noexcept { return rows < cols ? rows : cols; }
};

/// A matrix and the rank that it is cut to.
struct LaserCut {
  Index layer = -1;
  std::string matrix;
  Index rank = 0;

  friend bool operator==(const LaserCut&, const LaserCut&) = default;
};

/// The matrices of a checkpoint that can be cut, by layer. Those of an application's blocks are not
/// known, and factored ones are not cut again.
KRAIT_API std::vector<LaserMatrix> laser_matrices(const CheckpointPlan& plan);

/// Reads LAYER:MATRIX:RANK, or MATRIX:RANK for "emb" and "head", where the rank is a whole number
/// or, with a point, a fraction of the largest: "3:in_x:0.25". Errors: bad_argument, which lists
/// the known matrices where the name is not one of them.
KRAIT_API Result<LaserCut> parse_laser_cut(std::string_view text,
                                           const std::vector<LaserMatrix>& matrices);
KRAIT_API std::string to_string(const LaserCut& cut);

/// What laserRMT's rule (`marchenko_pastur_rank`) cuts of the layers' whole matrices, but for
/// routers, which become no smaller.
KRAIT_API Result<std::vector<LaserCut>> laser_rule(const CheckpointPlan& plan, Executor& executor);

/// How cut matrices are stored.
enum class LaserForm {
  smaller,  ///< as factors where they have fewer weights than the matrix, which takes few
            ///< multiplications too
  dense,    ///< as the matrix that their product is
};

/// The checkpoint's weights with these cuts, without a head that repeats the embedding it is tied
/// to; everything else is shared with it. A matrix becomes
/// two factors, or their product, in the type that it had; rows of a matrix and single experts of a
/// stack, and routers, are written back as their product. Experts of a stack that are all cut to
/// one rank become factors.
///
/// Errors: bad_argument (a cut that is not possible, rows that are cut twice), not_finite.
KRAIT_API Result<WeightStore> cut_weights(const CheckpointPlan& plan,
                                          const std::vector<LaserCut>& cuts, LaserForm form,
                                          Executor& executor);

/// The model with these cuts.
KRAIT_API Result<Model> cut_model(const CheckpointPlan& plan, const std::vector<LaserCut>& cuts,
                                  Executor& executor, const WeightOptions& options = {});

/// What became of a checkpoint.
struct LaserSummary {
  std::vector<LaserCut> cuts;
  Index factored = 0;  ///< tensors that became factors
  Index bytes_before = 0;
  Index bytes_after = 0;
};

/// Writes the checkpoint at `source` to the new folder `destination` with these cuts, which its
/// metadata lists as `krait.laser`. All other tensors and files are as they were, but for a head
/// that repeats the embedding it is tied to: that is left out. The folder appears whole or not at
/// all.
///
/// Errors: those of open_model and plan_model; bad_argument (no cut, a source that is quantised, a
/// destination that exists or lies in the source, and as above), not_finite, io_failed.
KRAIT_API Result<LaserSummary> write_laser(const CheckpointPlan& source,
                                           const std::string& destination,
                                           const std::vector<LaserCut>& cuts, LaserForm form,
                                           Executor& executor);

/// A drawing of the singular values of each of the layers' matrices, s_i / s_1 over i / n, one
/// panel for each kind of matrix, one line for each layer: an SVG file.
KRAIT_API Result<std::string> draw_spectrum(const CheckpointPlan& plan, Executor& executor,
                                            Progress progress = {});

}  // namespace v0_1
}  // namespace krait
