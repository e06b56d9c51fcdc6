#pragma once

/// \file
/// Tokenizers and chat templates.

#include "krait/text/chat_template.hpp"
#include "krait/text/stream_decoder.hpp"
#include "krait/text/token_table.hpp"
#include "krait/text/tokenizer.hpp"
