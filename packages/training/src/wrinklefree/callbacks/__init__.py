"""Lightning callbacks: one concern each."""

from wrinklefree.callbacks.bars import progress_bars
from wrinklefree.callbacks.checkpointing import Checkpointing, GracefulStop
from wrinklefree.callbacks.ema import Ema
from wrinklefree.callbacks.lambda_warmup import LambdaWarmup
from wrinklefree.callbacks.mixture import Mixture
from wrinklefree.callbacks.objective_states import ObjectiveStates
from wrinklefree.callbacks.objective_weights import ObjectiveWeights
from wrinklefree.callbacks.pacing import Pacing
from wrinklefree.callbacks.pass_count import PassCount
from wrinklefree.callbacks.progress import Progress
from wrinklefree.callbacks.qk_clip import QkClip
from wrinklefree.callbacks.random_state import RandomState
from wrinklefree.callbacks.source_losses import SourceLosses
from wrinklefree.callbacks.step_log import StepLog
from wrinklefree.callbacks.weight_decay import WeightDecay
from wrinklefree.callbacks.zclip import ZClip

__all__ = [
    "Checkpointing",
    "Ema",
    "GracefulStop",
    "LambdaWarmup",
    "Mixture",
    "ObjectiveStates",
    "ObjectiveWeights",
    "Pacing",
    "PassCount",
    "Progress",
    "QkClip",
    "RandomState",
    "SourceLosses",
    "StepLog",
    "WeightDecay",
    "ZClip",
    "progress_bars",
]
