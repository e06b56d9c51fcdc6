#pragma once

/// \file
/// Token embedding, and the head that may share its matrix.

#include <span>

#include "krait/weights/linear.hpp"

namespace krait {
inline namespace v0_1 {

/// Sizes of the token embedding.
struct EmbeddingSpec {
  Index vocab = 0;         ///< token ids are below this
  Index d_model = 0;       ///< width of the residual stream
  Index vocab_padded = 0;  ///< rows of the matrix; 0: as many as `vocab`

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
    return embedding;
  }

  /// x[t] = matrix[tokens[t]] as floats. Tokens must be below the number of rows.
  void lookup(std::span<const Token> tokens, MatrixView<float> x) const noexcept {
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      matrix_.row(tokens[t], x.row(static_cast<Index>(t)));
    }
  }

  /// The head that shares the matrix: logits = x · matrixᵀ.
  const Linear& tied_head() const noexcept { return matrix_; }

 private:
  Linear matrix_;
};

}  // namespace v0_1
}  // namespace krait
