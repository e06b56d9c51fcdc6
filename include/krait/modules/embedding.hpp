#pragma once

/// \file
/// Token embedding, and the head that may share its matrix.

#include <span>

#include "krait/kernels/elementwise.hpp"
#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// Sizes of the token embedding.
struct EmbeddingSpec {
  Index vocab = 0;         ///< token ids are below this
  Index d_model = 0;       ///< width of the residual stream
  Index vocab_padded = 0;  ///< rows of the matrix; 0: as many as `vocab`
  float scale = 1.0F;      ///< multiplies the rows that are looked up, not those of a tied head

  Index rows() const noexcept { return vocab_padded > 0 ? vocab_padded : vocab; }
  friend bool operator==(const EmbeddingSpec&, const EmbeddingSpec&) = default;
};

/// A matrix [rows, d_model] with one row per token.
class Embedding {
 public:
  static Result<Embedding> bind(const EmbeddingSpec& spec, const WeightScope& weights,
                                Bookings& bookings) {
    Embedding embedding;
    KRAIT_ASSIGN_OR_RETURN(embedding.matrix_,
                           Linear::bind(weights, bookings, spec.rows(), spec.d_model, false));
    embedding.scale_ = spec.scale;
    return embedding;
  }

  /// x[t] = matrix[tokens[t]] · scale as floats. Tokens must be below the number of rows.
  void lookup(std::span<const Token> tokens, MatrixView<float> x) const noexcept {
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const std::span<float> row = x.row(static_cast<Index>(t));
      matrix_.row(tokens[t], row);
      if (scale_ != 1.0F) kernels::scale(scale_, row, row);
    }
  }

  /// The head that shares the matrix: logits = x · matrixᵀ.
  const Linear& tied_head() const noexcept { return matrix_; }

 private:
  Linear matrix_;
  float scale_ = 1.0F;
};

}  // namespace v0_1
}  // namespace krait
