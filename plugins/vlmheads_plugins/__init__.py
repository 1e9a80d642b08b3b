"""The built-in methods, one file each; they register as third-party plugins do."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmheads_plugins.act import ACT as ACT
    from vlmheads_plugins.adaiat import AdaIAT as AdaIAT
    from vlmheads_plugins.adhh import ADHH as ADHH
    from vlmheads_plugins.air import AIR as AIR
    from vlmheads_plugins.allpath import AllPath as AllPath
    from vlmheads_plugins.attnreal import AttnReal as AttnReal
    from vlmheads_plugins.cfg import CFG as CFG
    from vlmheads_plugins.cicd import CICD as CICD
    from vlmheads_plugins.cmac import CMAC as CMAC
    from vlmheads_plugins.daid import DaID as DaID
    from vlmheads_plugins.damro import DAMRO as DAMRO
    from vlmheads_plugins.deco import DeCo as DeCo
    from vlmheads_plugins.devils import Devils as Devils
    from vlmheads_plugins.dola import DoLa as DoLa
    from vlmheads_plugins.eah import EAH as EAH
    from vlmheads_plugins.flb import FLB as FLB
    from vlmheads_plugins.gains import Gains as Gains
    from vlmheads_plugins.gift import GIFT as GIFT
    from vlmheads_plugins.havae import HAVAE as HAVAE
    from vlmheads_plugins.hulluedit import HulluEdit as HulluEdit
    from vlmheads_plugins.iat import IAT as IAT
    from vlmheads_plugins.icd import ICD as ICD
    from vlmheads_plugins.ilvad import ILVAD as ILVAD
    from vlmheads_plugins.kvsmooth import KVSmooth as KVSmooth
    from vlmheads_plugins.locore import LocoRE as LocoRE
    from vlmheads_plugins.m3id import M3ID as M3ID
    from vlmheads_plugins.memvr import MemVR as MemVR
    from vlmheads_plugins.nullu import Nullu as Nullu
    from vlmheads_plugins.offsets import Offsets as Offsets
    from vlmheads_plugins.only import ONLY as ONLY
    from vlmheads_plugins.pai import PAI as PAI
    from vlmheads_plugins.paint import PAINT as PAINT
    from vlmheads_plugins.pti import PTI as PTI
    from vlmheads_plugins.resdec import ResDec as ResDec
    from vlmheads_plugins.revis import Revis as Revis
    from vlmheads_plugins.rudder import RUDDER as RUDDER
    from vlmheads_plugins.sid import SID as SID
    from vlmheads_plugins.spin import SPIN as SPIN
    from vlmheads_plugins.vaf import VAF as VAF
    from vlmheads_plugins.var import VAR as VAR
    from vlmheads_plugins.vcd import VCD as VCD
    from vlmheads_plugins.vga import VGA as VGA
    from vlmheads_plugins.vhr import VHR as VHR
    from vlmheads_plugins.vista import VISTA as VISTA
    from vlmheads_plugins.vti import VTI as VTI
    from vlmheads_plugins.vti import measure_directions as measure_directions
    from vlmheads_plugins.vti_visual import VTIVisual as VTIVisual
    from vlmheads_plugins.zerotuning import ZeroTuning as ZeroTuning

# Where each public name lives. Looked up on first use, so that importing them loads no torch.
_HOMES = {
    "ACT": "act",
    "AdaIAT": "adaiat",
    "ADHH": "adhh",
    "AIR": "air",
    "AllPath": "allpath",
    "AttnReal": "attnreal",
    "CFG": "cfg",
    "CICD": "cicd",
    "CMAC": "cmac",
    "DaID": "daid",
    "DAMRO": "damro",
    "DeCo": "deco",
    "Devils": "devils",
    "DoLa": "dola",
    "EAH": "eah",
    "FLB": "flb",
    "Gains": "gains",
    "GIFT": "gift",
    "HAVAE": "havae",
    "HulluEdit": "hulluedit",
    "IAT": "iat",
    "ICD": "icd",
    "ILVAD": "ilvad",
    "KVSmooth": "kvsmooth",
    "LocoRE": "locore",
    "M3ID": "m3id",
    "MemVR": "memvr",
    "Nullu": "nullu",
    "Offsets": "offsets",
    "ONLY": "only",
    "PAI": "pai",
    "PAINT": "paint",
    "PTI": "pti",
    "ResDec": "resdec",
    "Revis": "revis",
    "RUDDER": "rudder",
    "SID": "sid",
    "SPIN": "spin",
    "VAF": "vaf",
    "VAR": "var",
    "VCD": "vcd",
    "VGA": "vga",
    "VHR": "vhr",
    "VISTA": "vista",
    "VTI": "vti",
    "VTIVisual": "vti_visual",
    "measure_directions": "vti",
    "ZeroTuning": "zerotuning",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmheads_plugins' has no attribute {name!r}")
    value = getattr(import_module(f"vlmheads_plugins.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
