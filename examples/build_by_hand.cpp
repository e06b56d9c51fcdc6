// A model as a stack of named specs: with random weights, and with those of a checkpoint. First
// Mamba alone; then with a mixture of experts behind every mixer, small networks of which a router
// picks one for each token.
//
//   build_by_hand [MAMBA [MOE_MAMBA]]     checkpoints with the shapes and names of krait-bytes-2m
//                                         and krait-bytes-moe, which are the defaults

#include <cstdio>

#include "krait/krait.hpp"

namespace {

// The names are those of the tensors in the checkpoint: "layers.0.mixer.in_proj.weight".
krait::ModelBuilder mamba(krait::Index d_model, krait::Index n_layer) {
  using namespace krait;
  return ModelBuilder{}
      .embedding("embeddings", {.vocab = 256, .d_model = d_model})
      .repeat(n_layer,
              [](LayerBuilder& layer) {
                layer.residual("norm", RmsNormSpec{.eps = 1e-5F}, "mixer",
                               MambaSpec{.d_state = 16, .d_conv = 4, .expand = 2});
              })
      .final_norm("norm_f", RmsNormSpec{})
      .tied_head();
}

krait::ModelBuilder moe_mamba(krait::Index d_model, krait::Index n_layer,
                              const krait::MoeSpec& moe) {
  using namespace krait;
  return ModelBuilder{}
      .embedding("embedding", {.vocab = 256, .d_model = d_model})
      .repeat(n_layer,
              [&](LayerBuilder& layer) {
                layer
                    .residual("norm", RmsNormSpec{.eps = 1e-5F}, "mixer",
                              MambaSpec{.d_state = 16, .d_conv = 4, .expand = 2})
                    .residual("norm2", RmsNormSpec{.eps = 1e-5F}, "moe", moe);
              })
      .final_norm("norm_f", RmsNormSpec{.eps = 1e-5F})
      .tied_head();
}

krait::Result<void> write_with(const krait::Model& model) {
  using namespace krait;
  ThreadPool threads;
  Session session(model, threads);
  Sequence text(model, byte_tokenizer()->encode("Call me ").value());
  KRAIT_ASSIGN_OR_RETURN(
      const GenerationResult result,
      generate(session, *byte_tokenizer(), text, {.max_tokens = 40, .sampler = {.greedy = true}}));
  std::printf("Call me %s\n", result.text.c_str());
  return {};
}

// A new model, which is yet to be trained, and the same stack bound to a checkpoint.
krait::Result<void> build(const krait::ModelBuilder& stack, const std::string& path) {
  using namespace krait;
  KRAIT_ASSIGN_OR_RETURN(const WeightStore random, random_weights(stack.spec(), 1, "backbone"));
  KRAIT_ASSIGN_OR_RETURN(const Model untrained, stack.build(random, "backbone"));
  std::printf("%s\n", untrained.describe().c_str());

  KRAIT_ASSIGN_OR_RETURN(const Checkpoint checkpoint, open_model(path));
  KRAIT_ASSIGN_OR_RETURN(const Model trained, stack.build(checkpoint.weights, "backbone"));
  KRAIT_RETURN_IF_ERROR(write_with(untrained));
  return write_with(trained);
}

krait::Result<void> run(const std::string& plain, const std::string& with_experts) {
  using namespace krait;
  // The plan is known before anything is allocated.
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan, mamba(1024, 48).plan());
  std::printf("a larger one would take:\n%s\n", plan.tree.c_str());

  KRAIT_RETURN_IF_ERROR(build(mamba(192, 8), plain));
  return build(moe_mamba(160, 6, {.n_expert = 8, .top_k = 1, .d_expert = 176}), with_experts);
}

}  // namespace

int main(int argc, char** argv) {
  const krait::Result<void> result =
      run(argc > 1 ? argv[1] : "krait-bytes-2m", argc > 2 ? argv[2] : "krait-bytes-moe");
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  return result ? 0 : 1;
}
