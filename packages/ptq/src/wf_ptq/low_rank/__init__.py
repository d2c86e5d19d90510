"""Low-rank corrections of quantized linears in closed form: residuals, their solution, a block."""
