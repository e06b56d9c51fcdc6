#pragma once

/// \file
/// ModelGradient: loss and gradient of one row of tokens.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "krait/models/builder.hpp"
#include "krait/models/model_plan.hpp"
#include "krait/training/block_gradient.hpp"
#include "krait/training/lora.hpp"
#include "krait/training/parameters.hpp"
#include "krait/training/workspace.hpp"

namespace krait {
inline namespace v0_1 {

/// Learning from a teacher (Hinton et al. 2015, arXiv:1503.02531): the loss of a target is
/// (1 − α)·cross-entropy + α·T²·KL(teacher ‖ model), both with logits divided by T in the second.
struct Distillation {
  double alpha = 0.0;  ///< 0 to 1
  double temperature = 1.0;
};

/// Errors: bad_argument, naming the first bad value.
KRAIT_API Result<void> validate(const Distillation& options);

/// One row of a batch: a leaf of the sums that training makes (numeric contract, section 12).
struct Leaf {
  std::span<const Token> inputs;   ///< at least one, below vocab
  std::span<const Token> targets;  ///< [inputs] what should follow each; see `laws`
  /// [inputs, vocab] The probability with which each token should follow. Without targets the loss
  /// is the Kullback-Leibler divergence from these to the model's; with targets, `distillation`
  /// says how both count.
  MatrixView<const float> laws = {};
  /// [inputs] what each target counts; may be negative. Empty: 1 each.
  std::span<const float> weights = {};
  Distillation distillation = {};
  /// Out: with laws and targets, the sum of the divergences, each times its weight; may be null.
  double* divergence = nullptr;
  double balance = 0.0;  ///< coefficient α of the experts' balancing loss, per token
  double z_loss = 0.0;   ///< coefficient of the routers' z-loss, per token
  /// Of an even share of the row's tokens, how many an expert takes in `backward`, the first ones;
  /// behind it the others' output is 0. 0: all. `log_probabilities` has no limit, as inference.
  double capacity = 0.0;
  /// The sequence's state before the row, which is advanced; null: an empty sequence. Not for
  /// models with attention.
  State* state = nullptr;
  /// In: the gradient with respect to the state after the row. Out: to the one before. Of the
  /// layout of State::block; empty: zeros, and not wanted.
  std::span<float> dstate = {};
};

/// Bytes that the passes over a row need, known before anything is allocated.
struct RowMemory {
  Index kept = 0;        ///< the residual stream in front of every block and behind the last
  Index recomputed = 0;  ///< what the head or one block computes again, and its products
  Index forward = 0;     ///< working memory and states of the pass of inference
  Index derived = 0;     ///< what the model derives from its weights
  Index mapped = 0;      ///< weights under an adapter that are used where they are
};

/// The forward pass of inference and an exact backward pass, for one row after another. Working
/// memory grows to what the longest row needs: the residual stream in front of every block, and
/// what the largest block's backward pass takes.
///
/// The loss of a row, without a teacher, is Σ_t weight[t] · −ln p(targets[t]), and for each mixture
/// of experts T·α·n_expert·Σ_e f_e P_e (f_e: part of the tokens that went to the expert, P_e: mean
/// probability; Fedus et al. 2021, arXiv:2101.03961, eq. 4) and c·Σ_t ln²Σ_e exp(logit) (Zoph et
/// al. 2022, arXiv:2202.08906, eq. 5).
class KRAIT_API ModelGradient {
 public:
  /// The executor must outlive the object. With `lora` the parameters are the factors of that
  /// adapter alone, and all else stays as it is in its checkpoint; null: everything is in training.
  /// Errors: bad_config; unsupported, for a model with a block that has no backward pass.
  static Result<ModelGradient> create(const ModelSpec& spec, const std::string& prefix,
                                      Executor& executor,
                                      std::shared_ptr<const Lora> lora = nullptr);

  /// What is in training.
  const Parameters& parameters() const noexcept { return parameters_; }

  /// Uses these values [parameters().floats()] from now on, which must outlive their use. To be
  /// called again whenever they have changed. An adapter is used in place: the same address again
  /// costs nothing.
  Result<void> bind(const float* values);
  /// The model over the bound values.
  const Model& model() const noexcept { return *model_; }

  /// Whether it has experts, whose routers have losses of their own.
  bool has_experts() const noexcept;

  /// Adds the row's gradient to `gradients` [parameters().floats()]; the sum of the
  /// cross-entropies, each times its weight. Errors: bad_argument (tokens, sizes), unsupported.
  Result<double> backward(const Leaf& leaf, float* gradients);

  /// The log-probability of each target, to the bit as in inference; no gradient.
  Result<void> log_probabilities(const Leaf& leaf, std::span<float> result);

  /// What the passes work with, for what is done between them.
  Work work() { return {*executor_, *memory_}; }
  /// Bytes of working memory that are held.
  std::size_t bytes() const noexcept;
  /// Most floats of it that passes took at a time, without those of the pass of inference.
  Index most_floats() const noexcept { return memory_->most(); }

  /// What `backward` needs for a row of `tokens` tokens; values need not be bound. Of experts, as
  /// if one got all tokens; under an adapter, as if all matrices had one.
  RowMemory memory(Index tokens, bool has_teacher = false) const;

 private:
  struct Part {  // one residual block
    std::unique_ptr<const BlockGradient> block;
    NormSpec norm;
    std::string layer;  // "layers.3"
    std::string owner;  // the one whose tensors it uses; empty: its own
    std::string norm_name;
    std::string block_name;
    Index state = 0;     // floats of the state before its own
    float scale = 1.0F;  // multiplies its output
    Index input = 0;     // index of the part whose input it reads
    Index top_k = 0;     // of experts
    bool ends = true;    // whether its layer's gradients are complete behind it, going backwards
    bool parallel = false;
    bool aside = false;        // its output goes to the part after it alone
    bool reads_aside = false;  // it, or the one that it is beside, is that part
    bool is_wide = false;      // it reads the embedding beside its input
  };

  explicit ModelGradient(Executor& executor);

  Result<void> check(const Leaf& leaf) const;
  Result<void> make_room(Index tokens, bool is_backward, bool has_teacher);
  Index stream_floats(Index tokens) const;
  Index stack_floats(Index tokens, bool is_backward, bool has_teacher) const;
  ParameterScope weights(float* gradients) const {
    return {parameters_, values_, gradients, frozen_.get()};
  }
  void embedding_backward(const Leaf& leaf, MatrixView<const float> dh, float* gradients) const;
  // What a pass forwards keeps, [T, d_model] each.
  struct Stream {
    std::vector<MatrixView<float>> inputs;  // of each part
    MatrixView<float> end;                  // the residual stream behind the last
  };
  Result<Stream> forward(const Leaf& leaf, State& state, bool is_backward);
  // What a row's targets and laws come to, each times its weight.
  struct Sums {
    double loss = 0.0;
    double divergence = 0.0;
  };
  Sums head(const Leaf& leaf, MatrixView<const float> normed, MatrixView<float> dnormed,
            const ParameterScope& weights, std::span<float> log_p);
  // From the gradient of the residual stream behind the last part to that in front of the first.
  void parts_backward(const Leaf& leaf, const State& before, const Stream& stream,
                      const ParameterScope& weights, MatrixView<float> dh);
  bool has_factors() const noexcept;
  bool has_wide() const noexcept;

  Executor* executor_;
  ModelSpec spec_;
  std::string prefix_;
  Parameters parameters_;
  std::vector<Part> parts_;
  std::shared_ptr<const Bookings> bookings_;  // of the blocks
  std::shared_ptr<const ModelPlan> plan_;
  std::string head_path_;
  std::shared_ptr<const Lora> lora_;
  std::shared_ptr<const training::Frozen> frozen_;  // with an adapter
  const float* values_ = nullptr;
  std::optional<Model> model_;
  BackwardSize size_;  // without tokens
  std::unique_ptr<Workspace> memory_ = std::make_unique<Workspace>();
  Scratch scratch_;
  AlignedBuffer<float> workspace_;  // of inference's products
  AlignedBuffer<float> tasks_;
  Index task_floats_ = 0;
  Index room_ = 0;  // tokens
};

}  // namespace v0_1
}  // namespace krait
