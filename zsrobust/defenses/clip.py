"""CLIP itself, undefended (Radford et al., ICML 2021, arXiv 2103.00020)."""

from zsrobust.defenses import Defense, defenses

defenses.register("clip")(
    Defense(title="CLIP", paper="Radford et al., ICML 2021, arXiv 2103.00020")
)
