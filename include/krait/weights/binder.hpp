#pragma once

/// \file
/// WeightBinder: connects a model with the tensors of a checkpoint, and owns converted copies.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/io/weight_store.hpp"
#include "krait/weights/options.hpp"

namespace krait {
inline namespace v0_1 {

class WeightMatrix;

/// How a model holds one of its tensors.
enum class Placement {
  in_place,   ///< used where the file has it
  converted,  ///< a copy in another form
  derived,    ///< computed from the file's tensor
};

/// What a tensor is to the model.
enum class TensorRole {
  matrix,     ///< a matrix of a product or an embedding: held in the form the user asked for
  parameter,  ///< anything else: held in f32
};

/// One tensor of a bound model.
struct TensorUse {
  std::string name;  ///< in the checkpoint
  std::string path;  ///< in the model: the name without the checkpoint's prefix
  Shape shape;
  std::string form;  ///< name of the form it is held in: "f32", "bf16", "q8", …
  Index bytes = 0;   ///< as held in memory
  Placement placement = Placement::in_place;
  TensorRole role = TensorRole::parameter;
  double active = 1.0;  ///< share that one token reads on average: below 1 for experts
  /// The tensor as held, or the parts of a coded matrix; for a derived tensor, the file's. Data is
  /// null in a plan.
  std::vector<TensorView> parts;
};

/// One of the tensors that hold a coded matrix.
struct WeightPart {
  std::string name;  ///< what follows the matrix's name: "codes"
  DType dtype;
  Shape shape;
};

/// Gives modules the tensors of a WeightStore, and owns the copies that are made of them.
///
/// It works in three ways: with a store, to build a model; with a store and `materialize` off, to
/// plan one (no weight is read); without a store, to list the tensors that a model needs.
class KRAIT_API WeightBinder {
 public:
  struct Options {
    WeightOptions weights = {};
    bool materialize = true;
  };

  /// `store` may be null: then every tensor exists, in f32, without data.
  WeightBinder(const WeightStore* store, Options options)
      : store_(store), options_(std::move(options)) {}

  const WeightStore* store() const noexcept { return store_; }
  const WeightOptions& options() const noexcept { return options_.weights; }
  bool materialize() const noexcept { return store_ != nullptr && options_.materialize; }

  /// Everything bound so far, in order.
  const std::vector<TensorUse>& uses() const noexcept { return uses_; }
  /// The copies that were made, which must live as long as the model.
  std::vector<std::shared_ptr<const void>> take_blocks() { return std::move(blocks_); }

  /// Counts a tensor of the store as used, although no module asked for it.
  void ignore(std::string name) { used_names_.push_back(std::move(name)); }

  /// Tensors of the store that nothing asked for.
  std::vector<std::string> unused() const;

 private:
  friend class WeightScope;

  Result<TensorView> find(const std::string& name, const Shape& shape);
  Result<TensorView> narrow(const std::string& name, const TensorView& stored, DType dtype);
  Result<TensorView> find_part(const std::string& name, DType dtype, const Shape& shape);
  void record(TensorUse use);
  void* allocate(Index bytes);
  Result<TensorView> hold(std::string name, std::string path, const Shape& shape,
                          std::optional<DType> dtype, TensorRole role, double active);

  const WeightStore* store_;
  Options options_;
  std::vector<TensorUse> uses_;
  std::vector<std::string> used_names_;  // in order of use, some of them twice
  std::vector<std::shared_ptr<const void>> blocks_;
  // What shared scopes have bound, by its name.
  std::map<std::string, std::shared_ptr<const WeightMatrix>, std::less<>> shared_matrices_;
  std::map<std::string, TensorView, std::less<>> shared_tensors_;
  std::shared_ptr<const void> narrowed_;  // the f64 tensor found last, in f32
};

}  // namespace v0_1
}  // namespace krait
