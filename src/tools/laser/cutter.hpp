#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "krait/core/function_ref.hpp"

#include "krait/tools/laser.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {

Error bad(std::string_view what, std::string_view expected, std::string_view found);

/// The weights of a matrix in f32, [rows, cols].
std::vector<float> values_of(const CheckpointPlan& plan, const LaserMatrix& matrix);

/// "3:in_x", "emb".
std::string label(const LaserMatrix& matrix);

/// "emb, in, in_x, …": each name once, the first few of them.
std::string all_names(const std::vector<LaserMatrix>& matrices);

/// Whether factors of that rank can stand for the matrix and have fewer weights.
inline bool pays(const LaserMatrix& matrix, Index rank) noexcept {
  return !matrix.is_dense && rank * (matrix.rows + matrix.cols) < matrix.rows * matrix.cols;
}

/// A cut, by the place of its matrix in the list.
struct Cut {
  std::size_t matrix = 0;
  Index rank = 0;
  friend bool operator==(const Cut&, const Cut&) = default;
};

/// Cuts matrices of one checkpoint, each decomposed once.
class Cutter {
 public:
  /// Of a checkpoint whose matrices are floats. Errors: bad_argument (others).
  static Result<Cutter> create(const CheckpointPlan& plan);

  const CheckpointPlan& plan() const noexcept { return plan_; }
  const std::vector<LaserMatrix>& matrices() const noexcept { return matrices_; }

  /// The matrices that these cuts name. Errors: bad_argument (an unknown one, an impossible rank,
  /// rows that are cut twice).
  Result<std::vector<Cut>> resolve(const std::vector<LaserCut>& cuts) const;
  LaserCut named(const Cut& cut) const;

  /// Decomposes those of these matrices that are not yet, exactly. Errors: not_finite.
  Result<void> decompose(const std::vector<std::size_t>& matrices, Executor& executor);
  /// Decomposes those that are not yet up to the rank beside them, nearly (`decompose_randomly`),
  /// with random numbers of the matrix's own: the bits depend on seed, matrix and rank alone.
  /// Errors: not_finite.
  Result<void> decompose_nearly(const std::map<std::size_t, Index>& ranks, std::uint64_t seed,
                                Executor& executor);
  const SingularValues& values(std::size_t matrix) const { return values_.at(matrix); }
  void forget() { values_.clear(); }

  /// The weights with these cuts, all of whose matrices are decomposed. Several threads may call
  /// it.
  WeightStore apply(const std::vector<Cut>& cuts, LaserForm form) const;

 private:
  explicit Cutter(const CheckpointPlan& plan);
  Result<void> decompose_with(
      const std::vector<std::size_t>& matrices, Executor& executor,
      FunctionRef<Result<SingularValues>(std::size_t, MatrixView<const float>)> decompose);
  void factor(WeightStore& store, const std::vector<Cut>& cuts) const;
  void write_back(WeightStore& store, const std::vector<Cut>& cuts) const;

  const CheckpointPlan& plan_;
  WeightStore weights_;  // the checkpoint's, but for a head that repeats the embedding
  std::vector<LaserMatrix> matrices_;
  std::map<std::size_t, SingularValues> values_;
};

/// Whether two cuts share weights.
bool overlaps(const LaserMatrix& a, const LaserMatrix& b) noexcept;

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
