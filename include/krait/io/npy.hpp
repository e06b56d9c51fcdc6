#pragma once

/// \file
/// Matrices of floats as .npy files.

#include <cstdint>
#include <span>
#include <string>

#include "krait/io/atomic_file.hpp"

namespace krait {
inline namespace v0_1 {

/// Writes a .npy file (format 1.0, little-endian f32, [rows, cols]) row by row. The file appears
/// under its name when it is complete.
class KRAIT_API NpyWriter {
 public:
  static Result<NpyWriter> create(const std::string& path, Index cols);

  /// Appends a row of `cols` floats.
  Result<void> write(std::span<const float> row);

  /// Writes the number of rows into the header and puts the file in its place.
  Result<void> commit();

 private:
  NpyWriter(AtomicFile file, Index cols) : file_(std::move(file)), cols_(cols) {}
  std::string header() const;

  AtomicFile file_;
  Index cols_ = 0;
  Index rows_ = 0;
};

}  // namespace v0_1
}  // namespace krait
