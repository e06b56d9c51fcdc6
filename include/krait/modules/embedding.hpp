#pragma once

/// \file
/// Token embedding, and the head that may share its matrix.

#include <span>

#include "krait/modules/linear.hpp"

namespace krait::inline v0_1 {

/// Sizes of the token embedding.
struct EmbeddingSpec {
  Index vocab = 0;         ///< token ids are below this
  Index d_model = 0;       ///< width of the residual stream
  Index vocab_padded = 0;  ///< rows of the matrix; 0: as many as `vocab`

  Index rows() const noexcept { return vocab_padded > 0 ? vocab_padded : vocab; }
  friend bool operator==(const EmbeddingSpec&, const EmbeddingSpec&) = default;
};

/// Rows of a matrix [rows, d_model], one per token.
class Embedding {
 public:
  static Result<Embedding> bind(const EmbeddingSpec& spec, const WeightScope& weights) {
    Embedding embedding;
    KRAIT_ASSIGN_OR_RETURN(embedding.matrix_, weights.matrix("weight", spec.rows(), spec.d_model));
    return embedding;
  }

  /// x[t] = matrix[tokens[t]], widened exactly. Tokens must be below the number of rows.
  void lookup(std::span<const Token> tokens, MatrixView<float> x) const noexcept {
    const Index d = matrix_.shape[1];
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const auto* base = static_cast<const std::byte*>(matrix_.data);
      const TensorView row{base + tokens[t] * d * bytes_of(matrix_.dtype), matrix_.dtype, {d}};
      convert_floats(row, DType::f32, x.row_data(static_cast<Index>(t)));
    }
  }

  /// The head that shares the matrix: logits = x · matrixᵀ.
  Linear tied_head() const {
    return Linear(
        DenseLinear{{matrix_.data, matrix_.dtype, matrix_.shape[0], matrix_.shape[1]}, nullptr});
  }

  const TensorView& matrix() const noexcept { return matrix_; }

 private:
  TensorView matrix_;
};

}  // namespace krait::inline v0_1
