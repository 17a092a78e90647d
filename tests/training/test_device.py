"""Which device, which arithmetic: chosen by measurement, and refused in words that help."""

import weakref

import pytest
import torch

from firsthand.errors import DeviceError
from firsthand.training import device
from firsthand.training.device import Arithmetic


def way(dtype, speed, error=4e-7, route="none"):
    return Arithmetic("cpu", dtype, route, speed, error)


def test_the_fastest_exact_way_is_taken():
    ways = [way("float32", 223), way("float32", 490, 9e-7, "bf16"), way("bfloat16", 400, 3e-3)]
    assert device.best(ways).route == "bf16" and device.best(ways).dtype == "float32"


def test_a_float32_that_is_not_exact_is_refused():
    ways = [way("float32", 320), way("float32", 1300, 2.5e-3, "bf16")]
    assert device.best(ways) == ways[0]


def test_a_shorter_type_must_be_worth_its_rounding():
    assert device.best([way("float32", 100), way("bfloat16", 110, 3e-3)]).dtype == "float32"
    chosen = device.best([way("float32", 100), way("bfloat16", 800, 3e-3)])
    assert chosen.dtype == "bfloat16"
    assert str(chosen) == (
        "bfloat16 products, float32 weights on cpu: 800 GFLOP/s, error 3.0e-03 (float32: 100 GFLOP/s, error 4.0e-07)"
    )


def test_measuring_finds_the_error_of_each_type():
    exact = device.measure(Arithmetic("cpu", "float32"), rows=64, width=32)
    rounded = device.measure(Arithmetic("cpu", "bfloat16"), rows=64, width=32)
    assert 0 < exact.error < device.EXACT
    assert 2**-10 < rounded.error < 2**-6  # bfloat16 keeps eight bits
    assert exact.gigaflops > 0


def test_measuring_keeps_nothing(monkeypatch):
    made, linear = [], device.F.linear

    def watched(x, weight):
        y = linear(x, weight)
        made.append(weakref.ref(y))
        return y

    monkeypatch.setattr(device.F, "linear", watched)
    device.measure(Arithmetic("cpu", "float32"), rows=64, width=32)
    assert made
    assert not any(y() is not None for y in made)


def test_a_named_type_is_kept():
    assert device.choose("cpu", "float32", 64, 32).dtype == "float32"
    assert device.choose("cpu", "bfloat16", 64, 32).dtype == "bfloat16"
    assert device.choose("cpu", "float16", 64, 32).dtype == "float16"


def test_the_route_is_set_inside_and_put_back():
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    with Arithmetic("cpu", "float32", "bf16").products():
        assert switch.fp32_precision == "bf16"
    assert switch.fp32_precision == before


def test_inside_autocast_products_have_the_type():
    x = torch.ones(2, 3)
    with Arithmetic("cpu", "bfloat16").autocast():
        assert (x @ x.T).dtype == torch.bfloat16
        with Arithmetic("cpu", "bfloat16").autocast(enabled=False):
            assert (x @ x.T).dtype == torch.float32
    with Arithmetic("cpu", "float32").autocast():
        assert (x @ x.T).dtype == torch.float32


def test_an_unknown_device_is_refused():
    with pytest.raises(DeviceError, match="device 'gpu' is not known; use auto, cpu, cuda, cuda:1 or mps"):
        device.pick("gpu")
    with pytest.raises(DeviceError, match="'cuda:x' is not known"):
        device.pick("cuda:x")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match=r"device=cuda asked, but this torch build .*train.device=cpu.* \[FH008\]"):
        device.pick("cuda")


def test_a_gpu_with_too_high_a_number_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=r"this machine has 2 GPUs \(cuda:0, cuda:1\). Choose one .* \[FH009\]"):
        device.pick("cuda:3")
    assert str(device.pick("cuda:1")) == "cuda:1" and str(device.pick("auto")) == "cuda:0"


def test_a_gpu_that_emulates_bfloat16_gets_float16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert device.choose("cuda", "auto").dtype == "float16"
    asked = device.choose("cuda", "bfloat16")
    assert asked.dtype == "float16" and "only emulates it" in str(asked)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert device.choose("cuda", "auto").dtype == "bfloat16"


def test_memory_that_runs_out_is_known_on_any_device():
    assert device.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert device.out_of_memory(MemoryError())
    assert device.out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not device.out_of_memory(RuntimeError("shapes"))
