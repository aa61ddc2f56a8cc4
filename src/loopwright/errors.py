"""The exception tree. Every message says what, where, the values, and what to do.

LoopwrightError
    UserError                 the caller can fix it: exit code 2, no traceback on the command line
        ScheduleError         an illegal schedule step
        ShapeError            shapes or dtypes that do not fit together
        UnsupportedError      an operator, dtype or feature that is not supported
        ConfigError           a knob, a configuration, a target or an option that is wrong
        TemplateError         a template that raised or broke its contract
        RecordsError          a records file that cannot be read or does not belong here
        ModelError            a model file that cannot be read
    InternalError             a bug of ours: exit code 70
        LoweringError         a pass met something its Requires line excludes
        CodegenError          the code generator met something it cannot express
    EnvironmentFailure        compiler, device, process or file system: exit code 69
        FleetError            a tracker, agent or session: refused, gone, or sending garbage
            NoDeviceError     no device could ever match: exit code 3
            UnknownNameError  nothing has the name that was given: exit code 2
            QueueTimeoutError none was free in time: exit code 4
            DeviceLostError   the device or its lease went away: exit code 5
            AuthError         wrong identity, or not allowed: exit code 6
"""

from __future__ import annotations


class LoopwrightError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code = 1


class UserError(LoopwrightError):
    """The caller can fix it."""

    exit_code = 2


class ScheduleError(UserError):
    """An illegal schedule step; the message holds the step and the reason."""


class ShapeError(UserError):
    """Shapes or dtypes that do not fit together."""


class UnsupportedError(UserError):
    """An operator, dtype or feature that is not supported."""


class ConfigError(UserError):
    """A knob, configuration, target or option that is wrong."""


class TemplateError(UserError):
    """A template that raised, or that broke its contract."""


class RecordsError(UserError):
    """A records file that cannot be read, or does not belong to this version."""


class ModelError(UserError):
    """A model file that cannot be read, or describes something without fixed shapes."""


class InternalError(LoopwrightError):
    """A bug in Loopwright."""

    exit_code = 70


class LoweringError(InternalError):
    """A lowering pass met something that its Requires line excludes."""


class CodegenError(InternalError):
    """The code generator met something that it cannot express."""


class EnvironmentFailure(LoopwrightError):  # noqa: N818  # the field says failure, not error
    """Compiler, device, process or file system failed; `retryable`: trying again may help."""

    exit_code = 69

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class FleetError(EnvironmentFailure):
    """A tracker, agent or session refused, went away, or sent garbage."""


class NoDeviceError(FleetError):
    """No device of the fleet, free or not, could ever match what was asked for."""

    exit_code = 3


class UnknownNameError(FleetError):
    """No lease, token, agent or command has the name that was given."""

    exit_code = 2


class QueueTimeoutError(FleetError):
    """No device was free within the time that the caller gave."""

    exit_code = 4


class DeviceLostError(FleetError):
    """The device, or the lease on it, went away."""

    exit_code = 5


class AuthError(FleetError):
    """The other side is not who it must be, or may not do what it asks."""

    exit_code = 6
