# check_masks.sh refuses a mask of 16 lanes in 8 bits, and nothing else:
#   cmake -DCOMPILER=<C++> -DOBJDUMP=… -DSCRIPT=<check_masks.sh> -DTREE=<scratch folder> -P …
cmake_minimum_required(VERSION 3.24)

file(MAKE_DIRECTORY ${TREE})

# expect(what succeeds|fails instruction …)
function(expect what outcome)
  list(JOIN ARGN "\n  " code)
  file(WRITE ${TREE}/code.s ".text\n.globl f\nf:\n  ${code}\n  ret\n.globl g\ng:\n  ret\n")
  execute_process(COMMAND ${COMPILER} -c ${TREE}/code.s -o ${TREE}/code.o
    COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND sh ${SCRIPT} ${OBJDUMP} ${TREE}/code.o
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(outcome STREQUAL "succeeds" AND NOT result EQUAL 0)
    message(FATAL_ERROR "${what} is refused:\n${output}")
  elseif(outcome STREQUAL "fails" AND (result EQUAL 0 OR NOT output MATCHES "<f>.*holds 8 lanes"))
    message(FATAL_ERROR "${what} passes:\n${output}")
  endif()
endfunction()

expect("a byte that masks 16 floats" fails "kmovb %edx,%k4" "vmovups (%rdi),%zmm0{%k4}{z}")
expect("a byte of memory that masks 16 products" fails
  "kmovb (%rdi),%k1" "vdpbf16ps %zmm1,%zmm2,%zmm3{%k1}")
expect("a byte that masks 16 stores" fails "kmovb %edx,%k2" "vmovdqu32 %zmm0,(%rdi){%k2}")
expect("bytes that are joined" fails "kandb %k1,%k2,%k3" "vpdpbusd %zmm1,%zmm2,%zmm3{%k3}")
expect("a byte that masks 16 halves" fails "kmovb %edx,%k1" "vmovdqu16 (%rdi),%ymm0{%k1}{z}")
expect("16 bits for 16 floats" succeeds "kmovw %edx,%k4" "vmovups (%rdi),%zmm0{%k4}{z}")
expect("a byte for 8 doubles" succeeds "kmovb %edx,%k4" "vmovupd (%rdi),%zmm0{%k4}{z}")
expect("a byte for 8 floats" succeeds "kmovb %edx,%k4" "vmovups (%rdi),%ymm0{%k4}{z}")
expect("another register" succeeds
  "kmovb %edx,%k4" "kmovw %edx,%k5" "vmovups (%rdi),%zmm0{%k5}{z}")
expect("a mask that is read" succeeds "kmovb %k4,%eax" "vmovups (%rdi),%zmm0{%k4}{z}")
