#pragma once

/// \file
/// Tokenizers.

#include "krait/text/stream_decoder.hpp"
#include "krait/text/token_table.hpp"
#include "krait/text/tokenizer.hpp"
