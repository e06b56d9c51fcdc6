// A mixture of experts by hand: after every Mamba mixer a layer of small networks, of which a
// router picks one for each token. First a new model with random weights, then the very stack that
// a bundled model was trained with, bound to its checkpoint.
//
//   build_moe_mamba [MODEL]        MODEL: the shapes and names of krait-bytes-moe

#include <cstdio>

#include "krait/krait.hpp"

namespace {

struct Sizes {
  krait::Index d_model;
  krait::Index n_layer;
  krait::Index n_expert;
  krait::Index d_expert;  // width of one expert
};

// The names are those of the tensors in the checkpoint: "layers.0.moe.router.weight".
krait::ModelBuilder moe_mamba(const Sizes& sizes) {
  using namespace krait;
  return ModelBuilder{}
      .embedding("embedding", {.vocab = 256, .d_model = sizes.d_model})
      .repeat(
          sizes.n_layer,
          [&](LayerBuilder& layer) {
            layer
                .residual("norm", RmsNormSpec{.eps = 1e-5F}, "mixer",
                          MambaSpec{.d_state = 16, .d_conv = 4, .expand = 2})
                .residual(
                    "norm2", RmsNormSpec{.eps = 1e-5F}, "moe",
                    MoeSpec{.n_expert = sizes.n_expert, .top_k = 1, .d_expert = sizes.d_expert});
          })
      .final_norm("norm_f", RmsNormSpec{.eps = 1e-5F})
      .tied_head();
}

krait::Result<void> run(const std::string& path) {
  using namespace krait;

  const ModelBuilder small =
      moe_mamba({.d_model = 64, .n_layer = 2, .n_expert = 4, .d_expert = 96});
  KRAIT_ASSIGN_OR_RETURN(const WeightStore random, random_weights(small.spec(), 1, "backbone"));
  KRAIT_ASSIGN_OR_RETURN(const Model untrained, small.build(random, "backbone"));
  std::printf("%s\n", untrained.describe().c_str());

  const ModelBuilder bundled =
      moe_mamba({.d_model = 160, .n_layer = 6, .n_expert = 8, .d_expert = 256});
  KRAIT_ASSIGN_OR_RETURN(const Checkpoint checkpoint, open_model(path));
  KRAIT_ASSIGN_OR_RETURN(const Model trained, bundled.build(checkpoint.weights, "backbone"));
  std::printf("%s\n", trained.describe().c_str());

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
  const krait::Result<void> result = run(argc > 1 ? argv[1] : "krait-bytes-moe");
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  return result ? 0 : 1;
}
