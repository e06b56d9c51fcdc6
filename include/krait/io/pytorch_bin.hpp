#pragma once

/// \file
/// pytorch_model.bin: the archives that torch.save writes.

#include <memory>
#include <string>

#include "krait/core/error.hpp"
#include "krait/core/flow.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// Adds every tensor of a torch.save archive (a ZIP of stored entries with a pickle of protocol 2)
/// whose top level is a dictionary of tensors, or holds one as "state_dict", "model", "module" or
/// the like. Nothing in the file is executed: of the pickle machine only the operations exist that
/// torch.load(weights_only=True) has, of Python's names only those that it allows, and
/// argparse.Namespace; whatever is no tensor is left out. Contiguous tensors whose elements are
/// aligned point into `file`; others are copied, as long as the copies do not outgrow the file.
/// Tensors of types that krait lacks are noted as unreadable. On a failure nothing is added.
///
/// Errors: bad_format; unsupported for archives of other kinds (compressed, before PyTorch 1.6,
/// with other Python objects in them).
KRAIT_API Result<void> read_pytorch_bin(std::shared_ptr<const FileBytes> file, WeightStore& store);

/// Opens the archives of `directory` that a `pytorch_model.bin.index.json` names and adds their
/// tensors, as `read_safetensors_index` does.
KRAIT_API Result<void> read_pytorch_bin_index(const std::string& index_json,
                                              const std::string& directory, WeightsMode mode,
                                              WeightStore& store, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
