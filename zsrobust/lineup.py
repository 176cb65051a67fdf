"""The built-in attacks, datasets and defenses, loaded through an entry point as plugins are."""

import zsrobust.attacks.adaptive
import zsrobust.attacks.apgd
import zsrobust.attacks.autoattack
import zsrobust.attacks.cw
import zsrobust.attacks.ensemble
import zsrobust.attacks.fab
import zsrobust.attacks.feature_l2
import zsrobust.attacks.mim
import zsrobust.attacks.patch
import zsrobust.attacks.pgd
import zsrobust.attacks.square
import zsrobust.attacks.targeted
import zsrobust.attacks.torchattacks
import zsrobust.attacks.transfer
import zsrobust.datasets.catalogue
import zsrobust.defenses.agft
import zsrobust.defenses.apt
import zsrobust.defenses.clip
import zsrobust.defenses.comp_tga
import zsrobust.defenses.fare
import zsrobust.defenses.ft_standard
import zsrobust.defenses.interpolation
import zsrobust.defenses.lore
import zsrobust.defenses.pmg_aft
import zsrobust.defenses.saft
import zsrobust.defenses.sim_clip
import zsrobust.defenses.tecoa
import zsrobust.defenses.tga_zsr
import zsrobust.defenses.ttc
import zsrobust.defenses.tte
import zsrobust.defenses.ucat
import zsrobust.defenses.weights
import zsrobust.mini.datasets  # noqa: F401 (imported for what they register)
