// What this processor can do, and the system lets it.
#pragma once

namespace avflow::cpu {

bool has_avx2();         // with FMA and F16C
bool has_avx512();       // F, BW, VL, DQ, with FMA
bool has_avx512_bf16();  // that, and products of bfloat16 pairs
bool has_amx_bf16();     // that, and matrix tiles; the first call asks the system for them, for the whole process
bool has_neon_bf16();    // of ARM: BFDOT and BFMMLA

// Are products of bfloat16 pairs faster than those of floats?
bool multiplies_bf16_fast();

}  // namespace avflow::cpu
