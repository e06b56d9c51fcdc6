#!/bin/sh
# No mask of more than 8 lanes has been narrowed to 8 bits on its way to AVX-512 code: a fault that
# GCC 12 makes of masks that pass through memory or general registers, and that only machines with
# AVX-512 show in their results. Disassembles a library or objects and looks at every function:
#
#   check_masks.sh OBJDUMP FILE …
#
# Fails where a mask register is written by an instruction for 8 lanes (kmovb, kandb, …) and masks
# an instruction of more than 8 lanes in the same function. It cannot see masks that were narrowed
# in a general register before a kmovw, or in memory, or by a comparison of 8 lanes only; and a
# function that uses one register for masks of either kind would be refused without a fault.
set -eu
objdump=$1
shift
"$objdump" -d --no-show-raw-insn "$@" | awk '
  function report(  k) {
    for (k in narrow) {
      if (k in wide) {
        printf "%s: %%%s holds 8 lanes (%s) and masks more (%s)\n", name, k, narrow[k], wide[k]
        faults++
      }
    }
    split("", narrow)
    split("", wide)
  }
  # 0000000000000000 <function>:
  /^[0-9a-f]+ <.*>:$/ { report(); name = substr($2, 1, length($2) - 1); functions++; next }
  /%k[0-7]/ {
    mnemonic = $2
    text = $0
    sub(/^[^\t]*\t/, "", text)
    gsub(/[ \t]+/, " ", text)
    # The last operand is where the result goes.
    if (mnemonic ~ /^k(mov|and|andn|or|xor|xnor|not|add|shiftl|shiftr)b$/ && text ~ /%k[0-7] *$/) {
      match(text, /k[0-7] *$/)
      narrow[substr(text, RSTART, 2)] = text
    }
    if (match(text, /{%k[1-7]}/)) {
      k = substr(text, RSTART + 2, 2)
      masked++
      of_64_bits = mnemonic ~ /pd$|pd2|2pd|64|broadcastsd$/ || (mnemonic ~ /q/ && mnemonic !~ /dq[au](8|16|32)$/)
      of_8_bits = mnemonic ~ /b$|u8$/
      of_16_bits = mnemonic ~ /w$|u16$|ph$|bf16$/
      if ((text ~ /%zmm/ && !of_64_bits) || (text ~ /%ymm/ && (of_8_bits || of_16_bits)) ||
          of_8_bits) {
        wide[k] = text
      }
    }
  }
  END {
    report()
    if (!functions) { print "nothing was disassembled"; exit 1 }
    printf "%d functions, %d masked instructions, %d faults\n", functions, masked, faults
    exit faults > 0
  }'
