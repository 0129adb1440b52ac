"""Weights between files and modules: our exported encoder, foreign checkpoints, image networks.

Everything is strict: a key that is unused or missing is an error that lists it. Nothing is unpickled but tensors.
"""

from videomae.models.weights.export import EncoderExport, load_encoder, save_encoder
from videomae.models.weights.files import WeightsError, load_strictly, read_state

__all__ = ["EncoderExport", "WeightsError", "load_encoder", "load_strictly", "read_state", "save_encoder"]
