#pragma once

/// \file
/// Writes a checkpoint with its weight matrices in another form.

#include <map>
#include <string>
#include <string_view>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/weights/form.hpp"

namespace krait {
inline namespace v0_1 {

/// What became of a checkpoint. A matrix of codes counts as one tensor with its scales.
struct QuantizeSummary {
  Index tensors = 0;                   ///< of the new checkpoint
  Index converted = 0;                 ///< of them, those that were stored in another form before
  Index bytes_before = 0;              ///< of all tensors
  Index bytes_after = 0;               ///< of all tensors
  std::map<std::string, Index> forms;  ///< number of tensors by form: "q8", "bf16", "f32", …
};

/// Writes the checkpoint at `source` (see open_model) to the new folder `destination`, with the
/// tensors that `plan_model` calls matrices in `form`. The result is one model.safetensors, in
/// which the parts of the form (codes and scales) replace a matrix's `weight`, and copies of the
/// files of the configuration, the tokenizer and the chat templates. All other tensors are as
/// they were, but for a head that repeats the embedding it is tied to: that is left out.
///
/// Loaded as it is, the result gives the bits and has the fingerprint of `source` loaded in `form`.
/// It is the same for every executor. Working memory is some 10 MB, whatever the model's size.
///
/// `progress` counts bytes of `source`'s tensors. The folder appears whole or not at all.
/// Errors: those of open_model and plan_model; bad_argument (a source that is quantised, a
/// destination that exists or lies in the source, another form), not_found (no folder to hold the
/// destination), bad_format (a weight that the form cannot represent, with its place), io_failed,
/// cancelled.
Result<QuantizeSummary> quantize_checkpoint(const std::string& source,
                                            const std::string& destination, const RowForm& form,
                                            Executor& executor, Progress progress = {});

/// In krait's form of that name: bf16, f16, q8 or q4.
Result<QuantizeSummary> quantize_checkpoint(const std::string& source,
                                            const std::string& destination, std::string_view form,
                                            Executor& executor, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
