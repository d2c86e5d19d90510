"""The native engine: tokenizer, scheduler and asyncio side around the C++ decoder of `ternary_kernels`."""
