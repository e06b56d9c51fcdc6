// A model as a stack of named specs: with random weights, and with those of a checkpoint.
//
//   build_by_hand [MODEL]        MODEL: the shapes and names of krait-bytes-2m

#include <cstdio>

#include "krait/krait.hpp"

namespace {

krait::ModelBuilder byte_mamba(krait::Index d_model, krait::Index n_layer) {
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

krait::Result<void> run(const std::string& path) {
  using namespace krait;

  // The plan is known before anything is allocated.
  const ModelBuilder large = byte_mamba(1024, 48);
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan, large.plan());
  std::printf("a larger one would take:\n%s\n", plan.tree.c_str());

  // Random weights: a model yet to be trained.
  const ModelBuilder small = byte_mamba(192, 8);
  KRAIT_ASSIGN_OR_RETURN(const WeightStore random, random_weights(small.spec(), 1, "backbone"));
  KRAIT_ASSIGN_OR_RETURN(const Model untrained, small.build(random, "backbone"));
  std::printf("%s\n", untrained.describe().c_str());

  // The same stack bound to the checkpoint of krait-bytes-2m, which has these shapes and names.
  KRAIT_ASSIGN_OR_RETURN(const Checkpoint checkpoint, open_model(path));
  KRAIT_ASSIGN_OR_RETURN(const Model trained, small.build(checkpoint.weights, "backbone"));

  ThreadPool threads;
  for (const Model& model : {untrained, trained}) {
    Session session(model, threads);
    Sequence text(model, byte_tokenizer()->encode("Call me ").value());
    KRAIT_ASSIGN_OR_RETURN(const GenerationResult result,
                           generate(session, *byte_tokenizer(), text,
                                    {.max_tokens = 40, .sampler = {.greedy = true}}));
    std::printf("Call me %s\n", result.text.c_str());
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const krait::Result<void> result = run(argc > 1 ? argv[1] : "krait-bytes-2m");
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  return result ? 0 : 1;
}
