#pragma once

/// \file
/// Blocks and their parts.

#include "krait/modules/attention.hpp"
#include "krait/modules/block.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/modules/causal_conv1d.hpp"
#include "krait/modules/embedding.hpp"
#include "krait/modules/feed_forward.hpp"
#include "krait/modules/hook.hpp"
#include "krait/modules/mamba.hpp"
#include "krait/modules/mamba2.hpp"
#include "krait/modules/mlp.hpp"
#include "krait/modules/moe.hpp"
#include "krait/modules/norms.hpp"
#include "krait/modules/residual.hpp"
#include "krait/modules/shared_transformer.hpp"
