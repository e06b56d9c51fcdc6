#pragma once

/// \file
/// States in files.

#include <memory>
#include <string>

#include "krait/decoding/sequence.hpp"
#include "krait/io/mapped_file.hpp"

namespace krait {
inline namespace v0_1 {

/// Writes a safetensors file: every tensor of the state by its path, `tokens`, and in the metadata
/// the format version, the model's fingerprint, the position, how many tokens are pending and how
/// many bytes unshown, which of the pending tokens were sampled, of noised passes their number and
/// the state in front of them (`Sequence::clean`), and a checksum of all this. The file appears
/// whole or not at all. Errors: io_failed, bad_argument (the state of no model; numbers that
/// contradict each other).
KRAIT_API Result<void> save_state(const Sequence& sequence, const std::string& path);

/// The same for a state without its text.
KRAIT_API Result<void> save_state(const State& state, const std::string& path);

/// Reads such a file. Everything is checked before a state is made. Errors: not_found, io_failed,
/// bad_format (also a file that was changed since), unsupported (another format version),
/// incompatible_state (a state of another model: the message names the difference).
KRAIT_API Result<Sequence> load_state(const Model& model, const std::string& path);

/// The same from bytes in memory; they are copied.
KRAIT_API Result<Sequence> load_state(const Model& model, std::shared_ptr<const FileBytes> file);

}  // namespace v0_1
}  // namespace krait
