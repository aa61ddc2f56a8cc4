"""What every device does: subclass `DeviceContract` and give it a fixture `case`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from loopwright.errors import ConfigError
from loopwright.kernel_call import Clock, Form, Loadable
from loopwright.layout import Array
from loopwright.runtime.device import Buffer, Device
from loopwright.runtime.devices import device_kinds


@dataclass(frozen=True, slots=True)
class DeviceCase:
    """A device, a kernel that it loads, data for each argument, and what its outputs hold then."""

    open: Callable[[], Device]
    kernel: Loadable
    before: tuple[bytes, ...]
    after: tuple[bytes, ...]


def read(device: Device, buffer: Buffer, nbytes: int) -> bytes:
    """What the memory of a device holds."""
    into: Array = np.zeros(nbytes, np.uint8)
    device.copy_out(buffer, into)
    return into.tobytes()


def written(device: Device, data: bytes) -> Buffer:
    """New memory that holds `data`."""
    buffer = device.alloc(len(data))
    device.copy_in(buffer, np.frombuffer(data, np.uint8))
    return buffer


class DeviceContract:
    @pytest.fixture
    def device(self, case: DeviceCase) -> Iterator[Device]:
        device = case.open()
        yield device
        device.close()

    def arguments(self, device: Device, case: DeviceCase) -> list[Buffer]:
        return [written(device, data) for data in case.before]

    def assert_works(self, device: Device, case: DeviceCase) -> None:
        buffers = self.arguments(device, case)
        device.load(case.kernel).run(buffers)
        found = [read(device, b, len(d)) for b, d in zip(buffers, case.after, strict=True)]
        assert found == list(case.after)

    def test_its_kind_is_in_the_table(self, device: Device) -> None:
        assert device.kind in device_kinds()

    def test_it_says_what_it_is(self, device: Device) -> None:
        facts = device.facts()
        assert facts.model
        assert facts.memory_bytes > 0
        assert facts.units >= 0

    @pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 4097, 1 << 20])
    def test_memory_holds_what_was_copied_in(self, device: Device, nbytes: int) -> None:
        data = np.random.default_rng(nbytes).bytes(nbytes)
        buffer = written(device, data)
        assert read(device, buffer, nbytes) == data
        device.free(buffer)

    def test_pieces_of_memory_do_not_overlap(self, device: Device) -> None:
        first = [written(device, bytes([n]) * 65) for n in range(4)]
        device.free(first[1])
        later = written(device, b"\xff" * 65)
        assert [read(device, first[n], 65) for n in (0, 2, 3)] == [
            bytes([n]) * 65 for n in (0, 2, 3)
        ]
        assert read(device, later, 65) == b"\xff" * 65

    def test_a_kernel_writes_its_outputs_and_leaves_its_inputs(
        self, device: Device, case: DeviceCase
    ) -> None:
        n_inputs = len(case.before) - case.kernel.n_outputs
        assert case.before[:n_inputs] == case.after[:n_inputs]
        self.assert_works(device, case)

    def test_a_kernel_runs_again_on_other_memory(self, device: Device, case: DeviceCase) -> None:
        kernel = device.load(case.kernel)
        for _ in range(2):
            buffers = self.arguments(device, case)
            kernel.run(buffers)
            assert read(device, buffers[-1], len(case.after[-1])) == case.after[-1]

    @pytest.mark.parametrize("count", [1, 7])
    def test_it_times_as_many_calls_as_it_is_asked_for(
        self, device: Device, case: DeviceCase, count: int
    ) -> None:
        buffers = self.arguments(device, case)
        timing = device.load(case.kernel).time(buffers, count)
        assert timing.count == count
        assert timing.total_ns > 0
        assert read(device, buffers[-1], len(case.after[-1])) == case.after[-1]

    def test_cycles_are_the_same_each_time(self, device: Device, case: DeviceCase) -> None:
        if device.clock is not Clock.CYCLES:
            return
        kernel, buffers = device.load(case.kernel), self.arguments(device, case)
        one = kernel.time(buffers, 1).ns
        assert kernel.time(buffers, 1).ns == one
        assert kernel.time(buffers, 5).ns == pytest.approx(one)

    @pytest.mark.parametrize("form", Form)
    def test_a_form_is_loaded_or_refused_in_one_line(
        self, device: Device, case: DeviceCase, form: Form
    ) -> None:
        other = replace(case.kernel, form=form)
        line = ""
        try:
            device.load(other)
        except ConfigError as error:
            line = str(error)
        expected = (
            f"kernel {other.entry} is {form.value} code; a device of kind {device.kind} loads "
        )
        assert line.startswith(expected) or not line
        assert form is not case.kernel.form or not line
        assert "\n" not in line
        self.assert_works(device, case)  # nothing is lost

    def test_closing_it_again_is_harmless(self, device: Device, case: DeviceCase) -> None:
        self.assert_works(device, case)
        device.close()
        device.close()
