"""Files that cannot be classified are named."""

import random
import re
from pathlib import Path

import pytest
import torch

from finetune.export import TrainedClassifier
from finetune.models import build
from finetune.models.examples import ExampleConfig
from finetune.predict import Classifier
from finetune.stored_clips import StoredClips
from tests.unit.conftest import small_video
from videomae.data.video import VideoError


@pytest.mark.parametrize("longest", [60.0, 0.5])
def test_a_damaged_file_is_named_as_clip_and_as_recording(tmp_path: Path, longest: float) -> None:
    content = bytearray(small_video(1, frames=40))
    begin, end = content.index(b"mdat") + 4, len(content)
    begin, end = begin + (end - begin) // 4, end - (end - begin) // 4
    content[begin:end] = random.Random(0).randbytes(end - begin)
    (tmp_path / "clip.mp4").write_bytes(content)
    config = ExampleConfig(frames=4, size=16)
    stored = StoredClips(fps=30.0, seconds=min(1.0, longest), longest=longest, short_side=240)
    trained = TrainedClassifier(build(config, 2).eval(), config, ("Calm", "Fight"), stored)
    with pytest.raises(VideoError, match=f"^{re.escape(str(tmp_path / 'clip.mp4'))}: (?!{re.escape(str(tmp_path))})"):
        Classifier(trained, device=torch.device("cpu"))(tmp_path / "clip.mp4")
