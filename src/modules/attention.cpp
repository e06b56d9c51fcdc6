#include "krait/modules/attention.hpp"

#include <cmath>

namespace krait {
inline namespace v0_1 {

Result<void> AttentionSpec::validate(Index d_model) const {
  KRAIT_RETURN_IF_ERROR(check_extent("n_head", n_head));
  if (d_head == 0 && d_model % n_head != 0) {
    return bad_spec("n_head", "a divisor of d_model (" + std::to_string(d_model) + ")",
                    std::to_string(n_head));
  }
  const AttentionSpec spec = resolved(d_model);
  KRAIT_RETURN_IF_ERROR(check_extent("d_head", spec.d_head));
  KRAIT_RETURN_IF_ERROR(check_extent("n_kv_head", spec.n_kv_head));
  if (n_head % spec.n_kv_head != 0) {
    return bad_spec("n_kv_head", "a divisor of n_head (" + std::to_string(n_head) + ")",
                    std::to_string(spec.n_kv_head));
  }
  KRAIT_RETURN_IF_ERROR(check_extent("n_head · d_head", n_head * spec.d_head));
  if (!(spec.scale > 0.0F && std::isfinite(spec.scale))) {
    return bad_spec("scale", "a positive number", spec_number(spec.scale));
  }
  if (!spec.rope) return {};
  if (spec.rope->dim < 2 || spec.rope->dim % 2 != 0 || spec.rope->dim > spec.d_head) {
    return bad_spec("rope dim",
                    "an even number of 2 to d_head (" + std::to_string(spec.d_head) + ")",
                    std::to_string(spec.rope->dim));
  }
  for (const double value : {spec.rope->theta, spec.rope->factor}) {
    if (!(value >= 1e-6 && value <= 1e30)) {
      return bad_spec("rope theta and factor", "1e-6 to 1e30",
                      spec_number(static_cast<float>(value)));
    }
  }
  return {};
}

std::string AttentionSpec::to_string(Index d_model) const {
  const AttentionSpec spec = resolved(d_model);
  std::string text = "Attention n_head " + std::to_string(n_head) + " n_kv_head " +
                     std::to_string(spec.n_kv_head) + " d_head " + std::to_string(spec.d_head) +
                     " scale " + spec_number(spec.scale);
  if (spec.rope) {
    text += " rope " + std::to_string(spec.rope->dim) + " theta " +
            std::to_string(spec.rope->theta) + (spec.rope->interleaved ? " interleaved" : "");
    if (spec.rope->factor != 1.0) text += " factor " + std::to_string(spec.rope->factor);
  }
  return text + (bias ? " bias" : "") + (out_bias ? " out-bias" : "");
}

Result<std::unique_ptr<const Attention>> Attention::bind(const AttentionSpec& unresolved,
                                                         const WeightScope& weights, Plan& plan) {
  const Index d_model = plan.d_model();
  auto block = std::make_unique<Attention>();
  const AttentionSpec& spec = block->spec_ = unresolved.resolved(d_model);
  const Index d_q = spec.n_head * spec.d_head;
  const Index d_kv = spec.n_kv_head * spec.d_head;
  KRAIT_ASSIGN_OR_RETURN(block->q_proj_,
                         Linear::bind(weights.scope("q_proj"), plan, d_q, d_model, spec.bias));
  KRAIT_ASSIGN_OR_RETURN(block->k_proj_,
                         Linear::bind(weights.scope("k_proj"), plan, d_kv, d_model, spec.bias));
  KRAIT_ASSIGN_OR_RETURN(block->v_proj_,
                         Linear::bind(weights.scope("v_proj"), plan, d_kv, d_model, spec.bias));
  KRAIT_ASSIGN_OR_RETURN(block->o_proj_,
                         Linear::bind(weights.scope("o_proj"), plan, d_model, d_q, spec.out_bias));
  if (spec.rope) {
    block->frequencies_ =
        kernels::rotary_frequencies(spec.rope->theta, spec.rope->dim, spec.rope->factor);
  }
  block->q_ = plan.scratch(d_q);
  block->k_ = plan.scratch(d_kv);
  block->v_ = plan.scratch(d_kv);
  return std::unique_ptr<const Attention>(std::move(block));
}

// Items are heads of keys of blocks of a sequence's rows. Neighbouring heads of one block go into
// one call, which reads their rows of the cache together.
void Attention::attend(const BlockContext& ctx, std::span<const CacheRows> caches,
                       std::span<float> memory, Index per_task,
                       MatrixView<float> q) const noexcept {
  const Index block = kernels::attention_block_tokens(spec_.n_head, spec_.n_kv_head);
  const auto blocks_of = [&](const SequenceRows& rows) { return (rows.count + block - 1) / block; };
  Index blocks = 0;
  Index keys = 0;
  for (const SequenceRows& rows : ctx.sequences) {
    blocks += blocks_of(rows);
    keys = std::max(keys, rows.position + rows.count);
  }
  const Index group = spec_.n_head / spec_.n_kv_head;
  const auto body = [&](Range items, int task) {
    while (items.begin < items.end) {
      Index i = items.begin / spec_.n_kv_head;  // which block of which sequence
      std::size_t s = 0;
      for (; i >= blocks_of(ctx.sequences[s]); ++s) i -= blocks_of(ctx.sequences[s]);
      const SequenceRows& sequence = ctx.sequences[s];
      const Index head = items.begin % spec_.n_kv_head;
      const Index heads = std::min(items.size(), spec_.n_kv_head - head);
      const auto rows =
          q.rows_from(sequence.first + i * block, std::min(block, sequence.count - i * block));
      kernels::attention({.q = rows,
                          .pages = caches[s].pages,
                          .row_stride = caches[s].row_stride,
                          .position = sequence.position + i * block,
                          .n_head = spec_.n_head,
                          .n_kv_head = spec_.n_kv_head,
                          .d_head = spec_.d_head,
                          .scale = spec_.scale,
                          .y = rows,
                          .scratch = memory.subspan(static_cast<std::size_t>(task * per_task),
                                                    static_cast<std::size_t>(per_task)),
                          .heads = {head * group, (head + heads) * group}});
      items.begin += heads;
    }
  };
  const Index items = blocks * spec_.n_kv_head;
  if (blocks > std::ssize(ctx.sequences)) {  // later blocks of a prompt have more keys
    parallel_for_blocks(ctx.executor, items, 1, body);
  } else {
    const Index products = 4 * keys * group * spec_.d_head;
    parallel_for(ctx.executor, items, 1, ItemCost::of(8 * keys * spec_.d_head, products), body);
  }
}

}  // namespace v0_1
}  // namespace krait
