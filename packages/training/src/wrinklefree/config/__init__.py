"""Option schemas by subject, a dataclass each: what can be set, its unit, its default. No PyTorch.

A key that is not here (or beside the stage, objective or teacher that it belongs to) is refused by
name, and each default stands here once. Enums stand where a Literal would (OmegaConf refuses Literal),
and no schema is frozen (that breaks overrides). How files and overrides become these: wrinklefree.compose.
"""
