"""Block diffusion: blocks of mask tokens that passes fill in (docs/diffusion.md, "Decoding")."""
