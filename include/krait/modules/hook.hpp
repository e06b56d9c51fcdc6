#pragma once

/// \file
/// ActivationHook: a callback that reads and may change what blocks compute.

#include <span>
#include <string_view>

#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// The places in blocks where a hook is called. In brackets: the blocks that have the site, and the
/// width of its rows.
enum class Site {
  input,       ///< the block's input, after its norm [all: d_model]
  conv,        ///< x after the causal convolution and SiLU [Mamba: d_inner; Mamba-2: d_ssm]
  B,           ///< B, which writes the state, as a key does [Mamba: d_state;
               ///< Mamba-2: n_group · d_state]
  C,           ///< C, which reads the state, as a query does [as B]
  dt,          ///< the low-rank step size, before dt_proj [Mamba: dt_rank]; the step sizes, before
               ///< bias and softplus [Mamba-2: n_head]
  gate,        ///< z, before its SiLU [Mamba: d_inner; Mamba-2: d_ssm]
  scan_input,  ///< x, as the recurrence takes it [as conv, but x_proj has read it already]
  scan,        ///< what the recurrence or the attention gives, before the gate [Mamba: d_inner;
               ///< Mamba-2: d_ssm; Attention: n_head · d_head]
  mixed,       ///< the input of the output projection [Mamba, Mamba-2: d_inner;
               ///< Attention: n_head · d_head]
  routing,     ///< the experts' gates, 0 for experts that are not chosen [Moe: n_expert]
  expert,      ///< the input of one expert, for the tokens sent to it [Moe: d_model]
  unrotated,   ///< queries, before the rotary embedding [Attention: n_head · d_head]
  query,       ///< queries, after it [as unrotated]
  key,         ///< keys, after it and before they are cached [Attention: n_kv_head · d_head]
  value,       ///< values, before they are cached [as key]
  hidden,      ///< the input of the second matrix of a feed-forward network [Mlp, Moe: d_hidden]
  output,      ///< the block's output, before it is added to the residual stream [all: d_model]
  // Of these, a call has the vectors of one token, and only hooks that want them are called: the
  // recurrence or the attention then runs token by token, on one thread.
  state,       ///< h behind its update; what is changed stays [Mamba, Mamba-2: a vector d_state
               ///< of every channel]
  state_read,  ///< a copy of h, from which y is read [as state]
  cached_key,  ///< copies of the keys that a query meets [Attention: d_head; vector j · n_head + h
               ///< is token j's for query head h]
  cached_value,  ///< the same of the values [as cached_key]
};

/// Vectors wider than this are not shown at the sites `state` to `cached_value`.
inline constexpr Index widest_hooked_vector = 4096;

/// The name of a site, as spelled in the enumeration.
constexpr std::string_view to_string(Site site) noexcept {
  constexpr std::string_view names[] = {
      "input", "conv",   "B",       "C",      "dt",         "gate",       "scan_input",
      "scan",  "mixed",  "routing", "expert", "unrotated",  "query",      "key",
      "value", "hidden", "output",  "state",  "state_read", "cached_key", "cached_value"};
  return names[static_cast<std::size_t>(site)];
}

/// Where in the model the values of a call are from. Valid during the call.
struct ActivationPlace {
  Site site = Site::input;
  Index layer = 0;             ///< in the model, from 0
  std::string_view path = {};  ///< of the block: "layers.3.mixer"
  Index expert = -1;           ///< index in a mixture (n_expert: the shared one); -1 elsewhere
  Index sequence = 0;          ///< index of the run's item
  Index position = 0;          ///< of the first row's token in its sequence; the others follow
  Index vector = 0;            ///< of a token's vectors, the number of the first in the call
  /// True in `Session::keep`, which runs tokens again that were tentative. A hook that changes
  /// values must change them as it did then; one that counts has counted them already.
  bool again = false;
};

/// Called at every site of every block in a run that has a hook; without a hook a site costs one
/// comparison. A call has consecutive rows of one sequence, as many as the run has (at sites inside
/// an expert: one; at the sites `state` to `cached_value`: vectors of one token). For results that
/// do not depend on how a text is cut into runs, what a hook does must depend on the place and the
/// values alone.
class ActivationHook {
 public:
  /// `values` [rows, width] may be changed. Called on the thread that called the session, under
  /// krait's floating-point mode. It cannot fail: an override must be noexcept.
  virtual void at(const ActivationPlace& place, MatrixView<float> values) noexcept = 0;

  /// Whether `at` is to be called at a site from `state` on. It is at all others.
  virtual bool wants(Site /*site*/) const noexcept { return false; }

 protected:
  ~ActivationHook() = default;
};

}  // namespace v0_1
}  // namespace krait
