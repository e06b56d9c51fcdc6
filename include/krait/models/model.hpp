#pragma once

/// \file
/// Model: weights bound to a spec. Immutable; share it between threads freely.

#include <memory>
#include <string>
#include <vector>

#include "krait/models/model_plan.hpp"
#include "krait/models/spec.hpp"
#include "krait/models/state.hpp"
#include "krait/modules/residual.hpp"

namespace krait {
inline namespace v0_1 {

/// A handle to an immutable model: cheap to copy. Made by `ModelBuilder::build` or `load_model`.
class KRAIT_API Model {
 public:
  /// What a Session runs: the bound model. Internal to the library.
  struct Parts {
    ModelSpec spec;
    ModelPlan plan;
    Embedding embedding;
    std::vector<Residual> residuals;  // all layers, in order
    ScratchSlot embedding_rows;       // of the tokens of a run, where a block reads them
    Norm final_norm;
    Linear head;
    ScratchLayout scratch;
    ScratchLayout trail;
    Index workspace_floats = 0;  // per token, for one matrix product
    std::vector<Bookings::TaskMemory> task_memories;
    std::shared_ptr<const StateLayout> state_layout;
    std::vector<std::shared_ptr<const void>> owners;  // keep every byte above alive
  };

  explicit Model(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  const ModelSpec& spec() const noexcept { return parts_->spec; }
  const ModelPlan& plan() const noexcept { return parts_->plan; }

  /// Token ids are below `vocab`. Logits have `vocab_padded` columns; those from `vocab` on are
  /// padding.
  Index vocab() const noexcept { return spec().embedding.vocab; }
  Index vocab_padded() const noexcept { return spec().embedding.rows(); }
  Index d_model() const noexcept { return spec().d_model(); }

  /// The state of an empty sequence.
  State initial_state() const { return State(parts_->state_layout); }

  /// Identifies spec, weights and the type of cached keys and values, in hexadecimal. States have
  /// it, so that none meets another model.
  const std::string& fingerprint() const noexcept { return parts_->state_layout->fingerprint; }

  /// The model as an indented tree with shapes, forms and bytes, and what memory it needs.
  std::string describe() const;

  const Parts& parts() const noexcept { return *parts_; }

 private:
  std::shared_ptr<const Parts> parts_;
};

}  // namespace v0_1
}  // namespace krait
