"""The peak of a device: given, from the table, measured, or honestly unknown."""

import pytest
import torch

from videomae.run.metrics.peak import lookup, peak_of


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "tflops"),
    [
        ("NVIDIA H200", "bf16", False, 989.5),
        ("NVIDIA H100 80GB HBM3", "bf16", False, 989.5),
        ("NVIDIA H100 PCIe", "bf16", False, 756.5),
        ("NVIDIA A100-SXM4-80GB", "bf16", False, 312.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", True, 156.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", False, 19.5),
        ("Tesla V100-SXM2-32GB", "fp32", True, 15.7),
        ("NVIDIA L40S", "fp16", False, 362.0),
        ("NVIDIA L4", "bf16", False, 121.0),
        ("NVIDIA A10G", "bf16", False, 70.0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", False, None),
        ("NVIDIA RTX A4000", "bf16", False, None),
        ("NVIDIA A1000", "bf16", False, None),
    ],
)
def test_names_as_cuda_gives_them(name: str, precision: str, tf32: bool, tflops: float | None) -> None:
    assert lookup(name, precision=precision, tf32=tf32).tflops == tflops


def test_what_the_config_gives_outranks_all() -> None:
    peak = peak_of(torch.device("cpu"), precision="fp32", given=3.5)
    assert (peak.tflops, peak.source) == (3.5, "metrics.peak_tflops")


def test_a_cpu_is_timed_and_random_numbers_stay_as_they_were() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    peak = peak_of(torch.device("cpu"), precision="fp32")
    assert peak.tflops is not None
    assert 1e-4 < peak.tflops < 100
    assert "timed on this machine" in peak.source
    assert torch.equal(torch.get_rng_state(), before)
