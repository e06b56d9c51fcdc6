#pragma once

/// \file
/// ActivationHook: sees what blocks compute, and may change it.

#include <span>
#include <string_view>

#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {

/// The places in blocks where a hook is called. In brackets the blocks that have it, and the width
/// of its rows.
enum class Site {
  input,    ///< the block's input, behind its norm [all: d_model]
  conv,     ///< behind the causal convolution and SiLU: x [Mamba: d_inner; Mamba-2: d_ssm]
  B,        ///< what writes the state, the key of the recurrence [Mamba: d_state;
            ///< Mamba-2: n_group · d_state]
  C,        ///< what reads the state, its query [as B]
  dt,       ///< the low-rank step size, in front of dt_proj [Mamba: dt_rank]
  gate,     ///< z, in front of its SiLU [Mamba: d_inner; Mamba-2: d_ssm]
  scan,     ///< the recurrence's output, in front of the gate [Mamba-2: d_ssm]
  mixed,    ///< what goes into the output projection [Mamba, Mamba-2: d_inner;
            ///< Attention: n_head · d_head]
  routing,  ///< the experts' gates, 0 for those that have no part [Moe: n_expert]
  expert,   ///< what one expert reads, of the tokens that were sent to it [Moe: d_model]
  query,    ///< queries, behind the rotary embedding [Attention: n_head · d_head]
  key,      ///< keys, the same, before they are cached [Attention: n_kv_head · d_head]
  value,    ///< values, before they are cached [as key]
  hidden,   ///< between the two matrices of a feed-forward network [Mlp, Moe: d_hidden]
  output,   ///< what is added to the residual stream [all: d_model]
};

/// The name of a site, as spelled in the enumeration.
constexpr std::string_view to_string(Site site) noexcept {
  constexpr std::string_view names[] = {"input", "conv", "B",     "C",       "dt",
                                        "gate",  "scan", "mixed", "routing", "expert",
                                        "query", "key",  "value", "hidden",  "output"};
  return names[static_cast<std::size_t>(site)];
}

/// Where the values that a hook sees stand. Valid during the call.
struct ActivationPlace {
  Site site = Site::input;
  Index layer = 0;             ///< in the model, from 0
  std::string_view path = {};  ///< of the block: "layers.3.mixer"
  Index expert = -1;           ///< which of a mixture (the shared one: n_expert); -1 elsewhere
  Index sequence = 0;          ///< item of the run
  Index position = 0;          ///< of the first row's token in its text; the others follow
  /// These tokens ran before, in a tentative run of which a part is kept. A hook that changes
  /// values must change them as it did then; one that counts has counted them.
  bool again = false;
};

/// Called at the sites of every block in a run that has a hook; in other runs a site costs one
/// comparison. What a hook does must depend on the place and the values alone, if results are to be
/// the same for any cut of the text into runs: a call sees consecutive rows of one sequence, as
/// many as the run has, and of experts' inputs and hidden rows one.
class ActivationHook {
 public:
  /// `values` [rows, width] of one sequence at the place, which the hook may change. Called on the
  /// run's thread, which waits for it, under krait's own floating-point mode. It cannot fail: an
  /// override that may throw does not compile.
  virtual void at(const ActivationPlace& place, MatrixView<float> values) noexcept = 0;

 protected:
  ~ActivationHook() = default;
};

}  // namespace v0_1
}  // namespace krait
