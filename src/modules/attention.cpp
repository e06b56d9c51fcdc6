#include "krait/modules/attention.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "krait/kernels/ref/attention.hpp"
#include "krait/weights/convert.hpp"
#include "weights/adapted.hpp"

namespace krait {
inline namespace v0_1 {

static_assert(cache_page_tokens == kernels::attention_page_tokens);

namespace {

// Numeric contract, section 10.
void scale_as_yarn(const RotarySpec& rotary, std::vector<double>& frequencies) {
  constexpr double two_pi = 0x1.921fb54442d18p+2;
  const auto dim = static_cast<double>(rotary.dim);
  // The pair, if there were one between others, that turns so often.
  const auto pair_of = [&](double turns) {
    const double ratio = static_cast<double>(rotary.original_context) / (turns * two_pi);
    return dim * kernels::rotary_log(ratio) / (2.0 * kernels::rotary_log(rotary.theta));
  };
  double low = pair_of(rotary.high_turns);
  double high = pair_of(rotary.low_turns);
  if (rotary.whole_pairs) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double divided = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& f = frequencies[i];
    f = f / rotary.factor * divided + f * (1.0 - divided);
  }
}

}  // namespace

std::vector<double> RotarySpec::frequencies() const {
  if (original_context == 0) {
    std::vector<double> result = kernels::rotary_frequencies(theta, dim, factor);
    for (std::size_t i = 0; i < divisors.size(); ++i) result[i] /= divisors[i];
    return result;
  }
  std::vector<double> result = kernels::rotary_frequencies(theta, dim);
  if (yarn) {
    scale_as_yarn(*this, result);
    return result;
  }
  for (double& f : result) {
    constexpr double two_pi = 0x1.921fb54442d18p+2;
    const double turns = static_cast<double>(original_context) * f / two_pi;
    if (turns > high_turns) continue;
    const double divided = f / factor;
    const double kept = turns < low_turns ? 0.0 : (turns - low_turns) / (high_turns - low_turns);
    f = (1.0 - kept) * divided + kept * f;
  }
  return result;
}

AttentionSpec AttentionSpec::resolved(Index d_model) const {
  AttentionSpec spec = *this;
  if (spec.n_kv_head == 0) spec.n_kv_head = n_head;
  if (spec.d_head == 0 && n_head > 0) spec.d_head = d_model / n_head;
  if (spec.scale == 0.0F && spec.d_head > 0) {
    spec.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.d_head)));
  }
  if (spec.rotary && spec.rotary->dim == 0) spec.rotary->dim = spec.d_head;
  return spec;
}

Result<void> AttentionSpec::validate(Index d_model) const {
  KRAIT_RETURN_IF_ERROR(check_extent("n_head", n_head));
  if (d_head == 0 && d_model % n_head != 0) {
    return bad_spec("n_head", fmt::format("a divisor of d_model ({})", d_model),
                    fmt::to_string(n_head));
  }
  const AttentionSpec spec = resolved(d_model);
  KRAIT_RETURN_IF_ERROR(check_extent("n_kv_head", spec.n_kv_head));
  KRAIT_RETURN_IF_ERROR(check_extent("d_head", spec.d_head));
  if (n_head % spec.n_kv_head != 0) {
    return bad_spec("n_kv_head", fmt::format("a divisor of the {} heads", n_head),
                    fmt::to_string(spec.n_kv_head));
  }
  KRAIT_RETURN_IF_ERROR(check_extent("n_head · d_head", n_head * spec.d_head));
  KRAIT_RETURN_IF_ERROR(check_extent("2 · n_kv_head · d_head", 2 * spec.n_kv_head * spec.d_head));
  if (!std::isfinite(spec.scale)) {
    return bad_spec("scale", "a finite number", fmt::to_string(spec.scale));
  }
  if (window < 0 || window > largest_extent) {
    return bad_spec("window", fmt::format("0 to {}", largest_extent), fmt::to_string(window));
  }
  if (d_conv != 0) {
    KRAIT_RETURN_IF_ERROR(check_extent("d_conv", d_conv));
    KRAIT_RETURN_IF_ERROR(
        check_extent("d_conv · channels", d_conv * (n_head + 2 * spec.n_kv_head) * spec.d_head));
  }
  if (adapter_rank != 0) {
    KRAIT_RETURN_IF_ERROR(check_extent("adapter_rank", adapter_rank));
    if (!names.qkv.empty())
      return bad_spec("adapter_rank", "0, beside a fused matrix", "an adapter");
  }
  return rotary ? spec.rotary->validate(spec.d_head) : Result<void>();
}

Result<void> RotarySpec::validate(Index d_head) const {
  if (dim < 2 || dim > d_head || dim % 2 != 0) {
    return bad_spec("rotary dim", fmt::format("an even number from 2 to {}", d_head),
                    fmt::to_string(dim));
  }
  if (!(theta > 0.0 && std::isfinite(theta))) {
    return bad_spec("rotary theta", "a finite number above 0", fmt::to_string(theta));
  }
  if (!(factor > 0.0 && std::isfinite(factor))) {
    return bad_spec("rotary factor", "a finite number above 0", fmt::to_string(factor));
  }
  if (original_context < 0 || original_context > largest_extent) {
    return bad_spec("rotary original context", fmt::format("0 to {}", largest_extent),
                    fmt::to_string(original_context));
  }
  if (!(low_turns >= 0.0 && low_turns < high_turns && std::isfinite(high_turns))) {
    return bad_spec("rotary turns", "0 <= low < high",
                    fmt::format("{} and {}", low_turns, high_turns));
  }
  if (yarn && (original_context == 0 || !(theta > 1.0) || !(low_turns > 0.0))) {
    return bad_spec("rotary yarn", "an original context, theta > 1 and turns > 0",
                    fmt::format("{}, {} and {}", original_context, theta, low_turns));
  }
  const bool fits = divisors.empty() || (std::ssize(divisors) == dim / 2 && original_context == 0);
  if (!fits || !std::ranges::all_of(divisors, [](double d) { return d > 0.0 && d < 1e30; })) {
    return bad_spec("rotary divisors", "positive numbers, one for each pair",
                    fmt::format("{} of {} pairs", divisors.size(), dim / 2));
  }
  return {};
}

std::string AttentionSpec::to_string(Index d_model) const {
  const AttentionSpec spec = resolved(d_model);
  std::string text = fmt::format("Attention n_head {} n_kv_head {} d_head {} scale {}", spec.n_head,
                                 spec.n_kv_head, spec.d_head, spec_number(spec.scale));
  if (spec.rotary) {
    text += fmt::format(
        " rotary {} theta {}{}{}", spec.rotary->dim, spec.rotary->theta,
        spec.rotary->factor == 1.0 ? std::string() : fmt::format(" factor {}", spec.rotary->factor),
        spec.rotary->interleaved ? " interleaved" : "");
    if (spec.rotary->original_context > 0) {
      text += fmt::format(" context {} turns {} to {}{}", spec.rotary->original_context,
                          spec.rotary->low_turns, spec.rotary->high_turns,
                          !spec.rotary->yarn         ? ""
                          : spec.rotary->whole_pairs ? " yarn"
                                                     : " yarn between pairs");
    }
  }
  if (spec.rotary && !spec.rotary->divisors.empty()) {
    text += fmt::format(" divisors {}", fmt::join(spec.rotary->divisors, " "));
  }
  if (window > 0) text += fmt::format(" window {}", window);
  if (d_conv > 0) text += fmt::format(" d_conv {}{}", d_conv, conv_bias ? "" : " no-conv-bias");
  if (adapter_rank > 0) text += fmt::format(" adapters {}", adapter_rank);
  return text + (bias ? " bias" : "") + (out_bias ? " out-bias" : "");
}

Result<std::unique_ptr<const Block>> Attention::bind(const AttentionSpec& unresolved,
                                                     const WeightScope& weights,
                                                     Bookings& bookings) {
  const Index d_model = bookings.d_model();
  auto block = std::make_unique<Attention>();
  const AttentionSpec& spec = block->spec_ = unresolved.resolved(d_model);
  const Index d_q = spec.n_head * spec.d_head;
  const Index d_kv = spec.n_kv_head * spec.d_head;
  block->is_fused_ = !spec.names.qkv.empty();
  const auto bind = [&](const std::string& name, const std::string& adapter,
                        Index rows) -> Result<Linear> {
    KRAIT_ASSIGN_OR_RETURN(Linear linear, Linear::bind(weights.scope(name), bookings, rows,
                                                       bookings.d_input(), spec.bias));
    if (spec.adapter_rank == 0) return linear;
    return bind_own_adapter(weights.scope(adapter), bookings, linear, spec.adapter_rank);
  };
  if (block->is_fused_) {
    KRAIT_ASSIGN_OR_RETURN(block->qkv_proj_, bind(spec.names.qkv, {}, d_q + 2 * d_kv));
  } else {
    KRAIT_ASSIGN_OR_RETURN(block->q_proj_, bind(spec.names.q, spec.names.q_adapter, d_q));
    KRAIT_ASSIGN_OR_RETURN(block->k_proj_, bind(spec.names.k, spec.names.k_adapter, d_kv));
    KRAIT_ASSIGN_OR_RETURN(block->v_proj_, bind(spec.names.v, spec.names.v_adapter, d_kv));
  }
  KRAIT_ASSIGN_OR_RETURN(block->out_proj_, Linear::bind(weights.scope(spec.names.out), bookings,
                                                        d_model, d_q, spec.out_bias));
  if (spec.rotary) block->frequencies_ = spec.rotary->frequencies();
  const DType kv_dtype = weights.options().kv_dtype;
  block->keys_ = bookings.cache(weights.path("keys"), d_kv, kv_dtype);
  block->values_ = bookings.cache(weights.path("values"), d_kv, kv_dtype);
  block->qkv_ = bookings.scratch(d_q + 2 * d_kv);
  block->trail_ = bookings.trail(2 * d_kv);
  if (spec.d_conv > 0) {
    const Index channels = d_q + 2 * d_kv;
    const StateSlot state = bookings.state(weights.path("conv_state"), {spec.d_conv - 1, channels});
    KRAIT_ASSIGN_OR_RETURN(const CausalConv1d conv,
                           CausalConv1d::bind(weights.scope(spec.names.conv), state, channels,
                                              spec.d_conv, spec.conv_bias));
    block->conv1d_ = conv.without_silu();
    block->raw_trail_ = bookings.trail(channels);
  }
  const Index most = kernels::attention_block_tokens(spec.n_head, spec.n_kv_head);
  bookings.task_memory([spec, most](Index tokens, Index context) {
    const Index seen = spec.window + cache_page_tokens + std::min(tokens, most);
    if (spec.window > 0) context = std::min(context, seen);
    return kernels::attention_scratch(std::min(tokens, most), context, spec.n_head, spec.n_kv_head,
                                      spec.d_head);
  });
  return std::unique_ptr<const Block>(std::move(block));
}

void Attention::attend_with_hooks(const BlockContext& ctx, MatrixView<const float> kv,
                                  MatrixView<float> q) const noexcept {
  const auto wants_cache = [&](const SequenceRows& rows) {
    return rows.hook != nullptr && spec_.d_head <= widest_hooked_vector &&
           (rows.hook->wants(Site::cached_key) || rows.hook->wants(Site::cached_value));
  };
  for (std::size_t i = 0; i < ctx.sequences.size(); ++i) {
    const SequenceRows& all = ctx.sequences[i];
    if (!all.is_beside && !wants_cache(all)) {
      attend(ctx, all, q);
      continue;
    }
    for (Index t = 0; t < all.count; ++t) {
      const SequenceRows rows = all.part(t);
      const auto copy_to_cache = [&](Index row) {
        if (all.is_beside) store(kv.row(row), rows, 0);
      };
      copy_to_cache(rows.first);
      wants_cache(rows) ? attend_changed(ctx, rows, q.row(rows.first)) : attend(ctx, rows, q);
      copy_to_cache(rows.first - all.count);  // that of the sequence itself
    }
  }
}

// The bits of kernels::attention where the hook leaves everything as it is.
void Attention::attend_changed(const BlockContext& ctx, const SequenceRows& rows,
                               std::span<float> q) const noexcept {
  const Index d_head = spec_.d_head;
  const Index group = spec_.n_head / spec_.n_kv_head;
  const Index count = rows.position + 1;
  const Index first = spec_.window > 0 ? std::max<Index>(0, count - spec_.window) : 0;
  const Index base = first_page(rows.position) * cache_page_tokens;  // p[0] is that position's
  const std::span<float> p = ctx.task_memory(0).first(static_cast<std::size_t>(count - base));
  const std::span<float> seen = p.subspan(static_cast<std::size_t>(first - base));
  std::fill_n(p.data(), first - base, 0.0F);
  float vector[widest_hooked_vector];
  float sum[widest_hooked_vector];
  for (Index h = 0; h < spec_.n_head; ++h) {
    // A copy of what token j has cached for the head, as the hook leaves it.
    const auto read = [&](Site site, CacheSlot slot, Index j) {
      const auto* row = reinterpret_cast<const std::byte*>(cache_row(rows.pages, slot, j));
      const Index skipped = h / group * d_head * bytes_of(slot.dtype);
      convert_floats({row + skipped, slot.dtype, {d_head}}, DType::f32, vector);
      if (!rows.hook->wants(site)) return;
      ctx.visit(site, rows, 0, {vector, 1, d_head}, j * spec_.n_head + h);
    };
    float* const own = q.data() + h * d_head;
    for (Index j = first; j < count; ++j) {
      read(Site::cached_key, keys_, j);
      p[static_cast<std::size_t>(j - base)] = ref::dot(vector, own, d_head) * spec_.scale;
    }
    const float largest = ref::max_of(seen);
    for (float& score : seen) score = ref::exp_nonpositive_of(ref::ScalarOps(), score - largest);
    const float divisor = ref::sum(p.data(), count - base);
    std::fill_n(sum, d_head, 0.0F);
    for (Index j = first; j < count; ++j) {
      read(Site::cached_value, values_, j);
      for (Index i = 0; i < d_head; ++i) {
        sum[i] = std::fma(p[static_cast<std::size_t>(j - base)], vector[i], sum[i]);
      }
    }
    for (Index i = 0; i < d_head; ++i) {
      const float y = sum[i] / divisor;
      own[i] = y == y ? y : std::numeric_limits<float>::quiet_NaN();
    }
  }
}

std::vector<Block::NoiseSite> Attention::noise_sites() const {
  std::vector<NoiseSite> sites = {{Site::input, (is_fused_ ? qkv_proj_ : q_proj_).in()},
                                  {Site::unrotated, spec_.d_head},
                                  {Site::scan, spec_.d_head},
                                  {Site::mixed, out_proj_.in()}};
  if (spec_.d_head <= widest_hooked_vector) {
    sites.insert(sites.end(),
                 {{Site::cached_key, spec_.d_head}, {Site::cached_value, spec_.d_head}});
  }
  return sites;
}

Result<std::unique_ptr<const Block>> AttentionSpec::bind(const WeightScope& weights,
                                                         Bookings& bookings) const {
  return Attention::bind(*this, weights, bookings);
}

std::vector<BlockMatrix> AttentionSpec::matrices(Index d_model) const {
  BlockMatrix out{.name = names.out, .input = Site::mixed};
  if (names.qkv.empty()) {
    return {{.name = names.q}, {.name = names.k}, {.name = names.v}, std::move(out)};
  }
  const AttentionSpec spec = resolved(d_model);
  const Index d_q = spec.n_head * spec.d_head;
  const Index d_kv = spec.n_kv_head * spec.d_head;
  return {{.name = names.qkv, .rows = {{"q", 0, d_q}, {"k", d_q, d_kv}, {"v", d_q + d_kv, d_kv}}},
          std::move(out)};
}

}  // namespace v0_1
}  // namespace krait
