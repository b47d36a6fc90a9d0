"""
One classifier as a filter on a clsact qdisc, which every kernel since 4.5 has.

Filters have a priority and, within it, a handle: several programs coexist at one priority. What
others put there stays: a handle that is taken is not taken over, and the qdisc is deleted only if
it was made here and nobody uses it any more. A filter outlives its process.
"""

from __future__ import annotations

import contextlib
import errno as errnos
from dataclasses import dataclass
from typing import Any, Self

from exporter.ebpf import _libbpf
from exporter.ebpf.errors import AttachRefused, BpfError
from exporter.ebpf.kinds import Direction
from exporter.ebpf.netns import entered
from exporter.ebpf.programs import Program
from exporter.ebpf.qdisc import PARENT, Filter, Qdisc, filters, netlink, tc_hook

#: Handles from here on are ours to choose: far above those that the kernel counts up from 1.
FIRST_HANDLE = 0x1600
_LAST_HANDLE = 0x7FFFFFFE  # MAX_HANDLE, net/sched/cls_bpf.c
#: Somebody else may take a handle between the look and the attempt.
_ATTEMPTS = 16

_GONE = (errnos.ENODEV, errnos.ENOENT, errnos.EINVAL)
#: For a filter that is not direct-action: the class of packets that its program lets through.
_CLASS = 0x10001
_ETH_P_ALL = 3


@dataclass(frozen=True)
class FilterOptions:
    """
    How a filter is attached.

    Args:
        priority: 1 runs first; 0 chooses one: before all others on ingress, after them on egress.
        handle: Within the priority; 0 is the first free one from :data:`FIRST_HANDLE` on.
        direct_action: The program's return value is the verdict. Otherwise it is a class number and
            no packet is dropped or redirected by it.
        name: Of the filter; empty is the program's.
        clobber: Replace a qdisc that holds clsact's place, with all that is on it.
    """

    priority: int = 0
    handle: int = 0
    direct_action: bool = True
    name: str = ""
    clobber: bool = False


class ClsactFilter:
    """
    A program as a filter. ``close`` it, or use it in a ``with`` block.

    Make one with :meth:`attach`.

    Args:
        qdisc: What it sits on, of which interface.
        direction: Which hook.
        options: As attached: with its priority and handle.
        program_id: The program's.
        netns: Path of the interface's namespace; ``None`` for the calling thread's.
    """

    def __init__(
        self,
        qdisc: Qdisc,
        direction: Direction,
        options: FilterOptions,
        program_id: int,
        netns: str | None = None,
    ) -> None:
        self.qdisc = qdisc
        self.ifindex = qdisc.ifindex
        self.direction = direction
        self.options = options
        self.program_id = program_id
        self._netns = netns
        self._attached = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def attach(
        cls,
        program: Program,
        ifindex: int,
        direction: Direction,
        options: FilterOptions | None = None,
        netns: str | None = None,
    ) -> ClsactFilter:
        """
        Put a program on a hook, beside those that are there. After a failure nothing is left, and
        another attempt is like the first.

        Args:
            program: Of type sched_cls. Stays the caller's.
            ifindex: The interface, in that namespace.
            direction: Which hook.
            options: How.
            netns: Path of a network namespace; ``None`` for the calling thread's.

        Raises:
            AttachRefused: If a qdisc of another kind holds the place of clsact, or a filter that
                the options name is taken.
            BpfError: ENODEV if the interface is gone; EINVAL if the program is no classifier.
            OSError: If the namespace is gone.
        """
        wanted = options or FilterOptions()
        with entered(netns):
            qdisc = Qdisc.ensure(ifindex, clobber=wanted.clobber)
            try:
                settled = _settle(program, ifindex, direction, wanted)
                return cls(qdisc, direction, settled, program.info().id, netns)
            except OSError as err:
                qdisc.close()
                raise _failure("attach to", ifindex, direction, err) from err
            except BpfError:
                qdisc.close()
                raise

    def detach(self) -> None:
        """
        Take the filter off.

        Raises:
            BpfError: If it is not there: ENOENT or EINVAL if somebody removed it or the qdisc,
                ENODEV if the interface is gone.
            AttachRefused: If another program has taken its place, which is left alone.
            OSError: If the namespace is gone.
        """
        with entered(self._netns):
            self._detach()

    def close(self) -> None:
        """
        As :meth:`detach`, but a filter, an interface or a namespace that is gone is fine, and so is
        another time.
        """
        if not self._attached:
            return
        # A namespace that is gone took its filters along.
        with contextlib.suppress(FileNotFoundError), entered(self._netns):
            try:
                self._detach()
            except BpfError as err:
                if err.errno not in _GONE:
                    raise

    def _detach(self) -> None:
        phase = f"detach from {self.direction} of interface {self.ifindex}"
        if not self._attached:
            raise BpfError(phase, errnos.ENOENT, "it is detached already")
        self._attached = False
        where = tc_hook(self.ifindex, self.direction)
        try:
            found = _options(self.options)
            _libbpf.library().bpf_tc_query(where, _libbpf.ref(found))
            if found.prog_id != self.program_id:
                detail = f"program {found.prog_id} has taken its place and is left alone"
                raise AttachRefused(phase, errnos.EEXIST, detail)
            _libbpf.library().bpf_tc_detach(where, _libbpf.ref(_options(self.options)))
        except OSError as err:
            raise BpfError(phase, err.errno or 0) from err
        finally:
            self.qdisc.close()


def free_priority(ifindex: int, direction: Direction) -> int:
    """
    Where a filter goes if nothing else is said: first on ingress, last on egress.

    Args:
        ifindex: An interface of the calling thread's network namespace.
        direction: Which hook.
    """
    return _priority(filters(ifindex, direction), direction)


def _failure(verb: str, ifindex: int, direction: Direction, err: OSError) -> BpfError:
    return BpfError(f"{verb} {direction} of interface {ifindex}", err.errno or 0)


def _settle(
    program: Program, ifindex: int, direction: Direction, wanted: FilterOptions
) -> FilterOptions:
    """Attach. Returns where it came to be. Raises OSError, AttachRefused."""
    for _ in range(_ATTEMPTS):
        there = filters(ifindex, direction)
        priority = wanted.priority or _priority(there, direction)
        handle = wanted.handle or _free_handle(there, priority)
        settled = FilterOptions(priority, handle, wanted.direct_action, wanted.name, wanted.clobber)
        try:
            _add(program, ifindex, direction, settled)
        except OSError as err:
            if err.errno != errnos.EEXIST:
                raise
            if wanted.handle:
                break
        else:
            return settled
    raise AttachRefused(
        f"attach to {direction} of interface {ifindex}",
        errnos.EEXIST,
        f"handle {handle:#x} of priority {priority} is taken and is left alone",
    )


def _add(program: Program, ifindex: int, direction: Direction, settled: FilterOptions) -> None:
    """Raises OSError."""
    if settled.direct_action and not settled.name:
        options = _options(settled)
        options.prog_fd = program.fd
        _libbpf.library().bpf_tc_attach(tc_hook(ifindex, direction), _libbpf.ref(options))
        return
    # libbpf knows neither a name nor a filter that is not direct-action.
    from pyroute2.netlink.exceptions import NetlinkError

    with netlink() as route:
        try:
            route.tc(
                "add-filter", "bpf", ifindex, settled.handle, parent=PARENT[direction],
                prio=settled.priority, fd=program.fd, name=settled.name or program.info().name,
                direct_action=settled.direct_action, classid=_CLASS,
            )  # fmt: skip
        except NetlinkError as err:
            raise OSError(err.code, str(err)) from err


def _options(filter_: FilterOptions) -> Any:
    options = _libbpf.sized(_libbpf.TcOptions)
    options.handle = filter_.handle
    options.priority = filter_.priority
    return options


def _priority(there: list[Filter], direction: Direction) -> int:
    """As with TCX: first on ingress, last on egress."""
    if not there:
        return 0xC000  # What the kernel chooses if it is asked to: room on both sides.
    taken = {one.priority for one in there}
    # One priority holds filters of one kind and protocol.
    closed = {one.priority for one in there if (one.kind, one.protocol) != ("bpf", _ETH_P_ALL)}
    if direction == "ingress":
        first = max(min(taken) - 1, 1)
        return next(p for p in range(first, 0x10000) if p not in closed)
    last = min(max(taken) + 1, 0xFFFF)
    return next(p for p in range(last, 0, -1) if p not in closed)


def _free_handle(there: list[Filter], priority: int) -> int:
    taken = {one.handle for one in there if one.priority == priority}
    return next(h for h in range(FIRST_HANDLE, _LAST_HANDLE) if h not in taken)
