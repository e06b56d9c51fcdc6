#pragma once

/// \file
/// Tokenizers.

#include "krait/text/stream_decoder.hpp"
#include "krait/text/tokenizer.hpp"
