#pragma once

/// \file
/// pytorch_model.bin: the archives that torch.save writes.

#include <memory>

#include "krait/io/mapped_file.hpp"
#include "krait/io/weight_store.hpp"

namespace krait::inline v0_1 {

/// Adds every tensor of a torch.save archive (a ZIP of stored entries with a pickle of protocol 2)
/// whose top level is a dictionary of tensors. Nothing in the file is executed: of the pickle
/// machine only the operations that build such a dictionary exist, of Python's names only those of
/// tensors and their storages. Contiguous tensors whose elements are aligned point into `file`;
/// others are copied, as long as the copies do not outgrow the file. On a failure nothing is added.
///
/// Errors: bad_format; unsupported for archives of other kinds (compressed, before PyTorch 1.6,
/// with other Python objects in them).
KRAIT_API Result<void> read_pytorch_bin(std::shared_ptr<const FileBytes> file, WeightStore& store);

}  // namespace krait::inline v0_1
