// NEON with the dot product (Armv8.2 and later).
#define TK_TABLE kNeon
#include "float_kernels.inl"
#include "int_neon.inl"
#include "training/group_any.inl"
#include "table.inl"
