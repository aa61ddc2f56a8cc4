"""The table of devices, and each of them against the contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tally_device
from device_contract import DeviceCase, DeviceContract

from loopwright.codegen.artifact import Artifact
from loopwright.errors import ConfigError, EnvironmentFailure
from loopwright.kernel_call import Form
from loopwright.layout import Layout
from loopwright.runtime.cpu.kernel import CpuDevice
from loopwright.runtime.devices import device_kinds, open_device, opener
from loopwright.runtime.null import NullDevice

PLAIN = Layout.plain(2)
X = np.arange(24, dtype=np.float32)
JUNK = bytes([0xFF]) * 96
Make = Callable[[Layout, Layout], Artifact]


class TestCpuDevice(DeviceContract):
    @pytest.fixture
    def case(self, scale: Make, cache_dir: Path) -> DeviceCase:
        before, after = (X.tobytes(), JUNK), (X.tobytes(), (2 * X).tobytes())
        kernel = scale(PLAIN, PLAIN).loadable()
        return DeviceCase(partial(CpuDevice, 1, cache_dir), kernel, before, after)


class TestNullDevice(DeviceContract):
    @pytest.fixture
    def case(self, scale: Make) -> DeviceCase:
        arguments = (X.tobytes(), JUNK)
        return DeviceCase(NullDevice, scale(PLAIN, PLAIN).loadable(), arguments, arguments)


class TestDeviceOfAnotherPackage(DeviceContract):
    @pytest.fixture
    def case(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceCase:
        tally_device.install(tmp_path, monkeypatch)
        x = np.arange(tally_device.N, dtype=np.float32)
        before, after = (x.tobytes(), bytes(x.nbytes)), (x.tobytes(), (3 * x).tobytes())
        kernel = tally_device.artifact("scale 3").loadable()
        return DeviceCase(partial(open_device, tally_device.KIND), kernel, before, after)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally_device.install(tmp_path, monkeypatch)


def test_a_kind_without_a_device_is_one_line_that_names_the_others() -> None:
    with pytest.raises(
        ConfigError, match=r"^there is no device of kind 'abacus'; there are cpu, "
    ) as e:
        opener("abacus")
    assert "null" in str(e.value)
    assert "loopwright.devices" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.usefixtures("installed")
def test_devices_of_other_packages_are_among_the_kinds() -> None:
    assert set(device_kinds()) == {"broken", "cpu", "null", "tally"}


@pytest.mark.usefixtures("installed")
def test_a_device_that_cannot_be_imported_is_one_line() -> None:
    with pytest.raises(EnvironmentFailure, match=r"tally_device:Nothing.*cannot be loaded"):
        opener("broken")


def test_a_cpu_refuses_what_is_no_object(scale: Make, cache_dir: Path) -> None:
    kernel = tally_device.artifact("scale 3").loadable()
    assert kernel.form is Form.STREAM
    with CpuDevice(1, cache_dir) as device:
        with pytest.raises(ConfigError, match=r"kernel tally is stream code; .* cpu loads object"):
            device.load(kernel)
        module = device.module(scale(PLAIN, PLAIN))
        np.testing.assert_array_equal(module(X.reshape(2, 12)), 2 * X.reshape(2, 12))
