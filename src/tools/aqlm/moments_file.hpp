#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "krait/io/weight_store.hpp"
#include "tools/aqlm/calibration.hpp"
#include "tools/aqlm/jobs.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// \file
/// What the calibration text says of matrices, in a file for other calls. A safetensors file with,
/// for a matrix P (a stack's i-th is P.i):
///
///   P.moments     f32 [in, in], the second moments of its inputs; or [in], their diagonal
///   P.rows        i64 [1], the number of inputs
///   P.difference  f64 [m, in], MatrixStatistics::difference; not of experts, nor beside a diagonal
///
/// and in its metadata `format` and `version`, `model`, `tokens`, `text` and `behind`.

/// The run that moments are of.
struct MomentsNote {
  std::string model;   ///< its fingerprint
  Index tokens = 0;    ///< of the text that were looked at
  std::string text;    ///< checksum of the whole text
  std::string behind;  ///< what decides how the matrices in front of each are quantised
};

/// That a file of moments may be written there: it is new or holds moments, in a folder that is
/// there, and not in `destination`, if there is one, nor its unfinished work. Errors: bad_argument,
/// not_found.
Result<void> check_moments_place(const std::string& path,
                                 const std::optional<std::string>& destination = {});

/// A matrix's statistics among the unfinished work, under its name.
bool has_moments(const PartialWork& work, const std::string& name);
Result<void> keep_moments(const PartialWork& work, const std::string& name,
                          const MatrixStatistics& seen);

/// Puts the statistics of all matrices of `jobs`, which are in `work`, together in one file, one
/// after the other. Errors: io_failed.
Result<void> write_moments(const std::string& path, std::span<const Job> jobs,
                           const PartialWork& work, const MomentsNote& note);

/// An opened file. It stays mapped: what is read is one matrix's.
class MomentsFile {
 public:
  /// Opens a file and checks what it has of all matrices of `jobs`. `wanted` has the model and the
  /// options of this call; with `diagonal`, diagonals are enough. Errors: those of reading;
  /// bad_argument (another kind of file, another model, matrices that are missing, of another
  /// shape, with second moments that are not symmetric or have a negative diagonal), not_finite.
  static Result<MomentsFile> open(const std::string& path, std::span<const Job> jobs,
                                  const MomentsNote& wanted, Index d_model, bool diagonal);

  const MomentsNote& note() const noexcept { return note_; }
  /// Of all that is in the file.
  std::string checksum() const;
  /// Of the job's i-th matrix; without `difference` unless the moments lie behind what this call
  /// quantises: the loss that it makes up for is that of other codes.
  MatrixStatistics of(const Job& job, Index i) const;

 private:
  Result<void> check(const Job& job, Index i, Index d_model) const;
  Error refused(const std::string& what, const std::string& expected,
                const std::string& found) const;

  std::string path_;
  WeightStore store_;
  MomentsNote note_;
  bool is_diagonal_ = false;
  bool is_same_run_ = false;
};

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
