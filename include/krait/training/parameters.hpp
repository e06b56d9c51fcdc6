#pragma once

/// \file
/// Parameters: the tensors of a model or of a block as one array, for training.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/io/weight_store.hpp"
#include "krait/models/spec.hpp"

namespace krait {
inline namespace v0_1 {

namespace training {
struct Frozen;
}  // namespace training

/// One tensor of a model in training.
struct Parameter {
  std::string name;  ///< in the checkpoint
  std::string path;  ///< in the model: "layers.3.mixer.in_proj.weight"
  Shape shape;
  Index offset = 0;        ///< floats from the beginning of the array, a multiple of 16
  bool is_matrix = false;  ///< of a product or an embedding
  bool decays = false;     ///< whether weight decay applies: matrices and embeddings only
};

/// Where each tensor lies in an array of floats that holds all of them, in the order in which they
/// are bound. Values, gradients and the optimiser's moments are such arrays; what lies between two
/// tensors is 0.
class KRAIT_API Parameters {
 public:
  Parameters() = default;
  explicit Parameters(const std::vector<TensorUse>& uses);

  /// The tensors of a model. Names in the checkpoint begin with `prefix`. Errors: bad_config.
  static Result<Parameters> of(const ModelSpec& spec, const std::string& prefix = "");
  /// The tensors of one block; names and paths begin with the block's own ("in_proj.weight").
  static Result<Parameters> of(const BlockSpec& block, Index d_model);

  const std::vector<Parameter>& all() const noexcept { return all_; }
  /// Length of the array.
  Index floats() const noexcept { return floats_; }
  /// The tensor with that path, or null.
  const Parameter* find(std::string_view path) const;

  /// Copies the tensors of `weights` to `values` [floats()], in f32. Errors: missing_tensor,
  /// shape_mismatch, dtype_mismatch (a matrix that is not stored as floats).
  Result<void> read(const WeightStore& weights, std::span<float> values) const;

  /// The tensors as a checkpoint's, in place. `values` must outlive the store.
  WeightStore store(const float* values) const;

 private:
  std::vector<Parameter> all_;
  std::map<std::string, std::size_t, std::less<>> by_path_;
  Index floats_ = 0;
};

/// The values of the tensors below a path, and where their gradients are added. The objects that it
/// names must outlive it.
class KRAIT_API ParameterScope {
 public:
  /// `gradients` may be null: then only those of inputs are computed. `frozen` has what is not in
  /// training where only adapters are; null: everything is.
  ParameterScope(const Parameters& parameters, const float* values, float* gradients,
                 const training::Frozen* frozen = nullptr)
      : parameters_(&parameters), values_(values), gradients_(gradients), frozen_(frozen) {}

  ParameterScope scope(std::string_view name) const;
  ParameterScope scope(std::string_view name, Index index) const;

  /// The scope of a layer some of whose tensors are another one's: those that are not below its own
  /// path are below `owner` ("layers.1").
  ParameterScope shared(std::string_view owner) const;
  /// The scope of that name beside this one, without the other layer's.
  ParameterScope beside(std::string_view name) const;

  bool contains(std::string_view name) const;
  /// The tensor's values. A name that does not exist is a contract breach.
  const float* value(std::string_view name) const;
  /// Where the tensor's gradient is added; null if it is not wanted.
  float* gradient(std::string_view name) const;
  /// The same for a tensor whose values are at `value`.
  float* gradient_of(const float* value) const noexcept {
    return gradients_ == nullptr ? nullptr : gradients_ + (value - values_);
  }

  /// Null where everything is in training.
  const training::Frozen* frozen() const noexcept { return frozen_; }
  /// The scope's own path, "layers.3.mixer".
  std::string_view path() const noexcept {
    return std::string_view(path_).substr(0, path_.empty() ? 0 : path_.size() - 1);
  }
  /// The same below the layer whose tensors it shares; empty if there is none.
  std::string owner_path() const;

 private:
  const Parameter& at(std::string_view name) const;
  // The path of a tensor, where it is.
  std::string place(std::string_view name) const;
  bool is_at(const std::string& path) const;

  const Parameters* parameters_;
  const float* values_;
  float* gradients_;
  const training::Frozen* frozen_;
  std::string path_;   // "layers.3.mixer." or ""
  std::string owner_;  // of a shared scope: "layers.1.", in place of so many characters of the path
  std::size_t own_ = 0;
};

}  // namespace v0_1
}  // namespace krait
