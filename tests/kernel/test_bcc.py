"""BCC as a loader: what goes wrong is said in one line, and when it steps in for libbpf's."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest

from exporter.abi.check import check_facts, facts
from exporter.capture.fetcher import FlowFetcher
from exporter.capture.loader import OBJECT_PATH, SOURCE_PATH, KernelProgram, Loader
from exporter.ebpf.bcc import compiler
from exporter.ebpf.bcc.compiler import compile_source
from exporter.ebpf.bcc.program import load
from exporter.ebpf.bcc.source import Source
from exporter.ebpf.errors import BpfError, CompileError, FeatureMissing, VerifierError
from exporter.errors import AbiMismatchError, CaptureError
from tests.compile import compile_bpf
from tests.kernel.loader import compiled, config
from tests.packets.capture import DIRECTORY
from tests.packets.command import COMMAND

pytestmark = pytest.mark.usefixtures("_bcc")

ROOT = Path(__file__).parents[2]
#: The smallest source: a classifier that returns a setting or what a map has.
SMALL = (
    "#include <linux/bpf.h>\n"
    "#include <bpf/bpf_helpers.h>\n"
    f'#include "{ROOT}/bpf/kernel/loader.h"\n'
    "SETTING(__u8, answer, 2 + 1);\n"
    "struct {\n"
    "\t__uint(type, BPF_MAP_TYPE_ARRAY);\n"
    "\t__uint(max_entries, 4);\n"
    "\t__type(key, __u32);\n"
    "\t__type(value, __u64);\n"
    '} numbers SEC(".maps");\n'
    'SEC("tc")\n'
    "int say(struct __sk_buff *skb)\n"
    "{\n"
    "\t__u32 slot = 1;\n"
    "\t__u64 *number = bpf_map_lookup_elem(MAP(numbers), &slot);\n"
    "\treturn number && *number ? *number : setting(answer);\n"
    "}\n"
    'char LICENSE[] SEC("license") = "GPL";\n'
)
PACKET = bytes(64)


def write(directory: Path, text: str) -> Path:
    path = directory / "small.c"
    path.write_text(text)
    return path


def test_a_program_with_a_map_and_a_setting(tmp_path: Path) -> None:
    """It is compiled once and loaded with each setting; a map that is shared is shared."""
    small = compile_source(Source.read(write(tmp_path, SMALL)))
    with load(small) as first, load(small, settings={"answer": 7}) as second:
        assert first.programs["say"].test_run(PACKET).retval == 3
        assert second.programs["say"].test_run(PACKET).retval == 7
        first.maps["numbers"].update((1).to_bytes(4, "little"), (40).to_bytes(8, "little"))
        assert first.programs["say"].test_run(PACKET).retval == 40
        assert second.programs["say"].test_run(PACKET).retval == 7
        with load(small, share=first.maps) as third:
            assert third.maps == {}
            assert third.programs["say"].test_run(PACKET).retval == 40
    with load(small, max_entries={"numbers": 1}) as resized:
        assert resized.maps["numbers"].spec.max_entries == 1
        assert resized.programs["say"].info().name == "say"


def test_long_names_are_cut(tmp_path: Path) -> None:
    """Names longer than the kernel's 15 octets are cut there, and whole here."""
    text = SMALL.replace("numbers", "numbers_of_a_long_name").replace("say", "say_with_a_long_name")
    with load(compile_source(Source.read(write(tmp_path, text)))) as loaded:
        assert list(loaded.maps) == ["numbers_of_a_long_name"]
        assert loaded.programs["say_with_a_long_name"].info().name == "say_with_a_long"


def test_names_that_the_source_does_not_have(tmp_path: Path) -> None:
    """An unknown setting, map or program is named; so is a section that is not known."""
    small = compile_source(Source.read(write(tmp_path, SMALL)))
    with pytest.raises(BpfError, match=r"load small\.c: it has no setting named volume"):
        load(small, settings={"volume": 11})
    with pytest.raises(BpfError, match=r"answer: .*256"):
        load(small, settings={"answer": 256})
    with pytest.raises(BpfError, match="no map named volume"):
        load(small, max_entries={"volume": 11})
    with pytest.raises(BpfError, match="no program named volume"):
        load(small, programs=["volume"])
    odd = compile_source(Source.read(write(tmp_path, SMALL.replace('"tc"', '"fentry/x"'))))
    with pytest.raises(BpfError, match="load program say: BCC's loader knows no section fentry/x"):
        load(odd)
    with load(odd, programs=()) as nothing:
        assert nothing.programs == {}


def test_a_compile_error_shows_its_line(tmp_path: Path) -> None:
    """File, line and reason of the first error; all that the compiler said is data."""
    path = write(tmp_path, SMALL.replace("slot = 1", "slot = later"))
    with pytest.raises(CompileError) as failed:
        compile_source(Source.read(path))
    assert str(failed.value) == (
        "compile small.c with BCC: small.c:14:15: use of undeclared identifier 'later'"
    )
    assert "__u32 slot = later;" in failed.value.log


def test_what_the_verifier_says(tmp_path: Path) -> None:
    """As of the other loader: the useful line first, the whole log as data."""
    path = write(tmp_path, SMALL.replace("number && *number", "*number"))
    with pytest.raises(VerifierError, match="R0 invalid mem access 'map_value_or_null'") as refused:
        load(compile_source(Source.read(path)))
    assert str(refused.value).startswith("load program say: Permission denied (EACCES): ")
    assert len(refused.value.log.splitlines()) > 3


def test_layouts_are_compared() -> None:
    """The compiler is asked for every member's size and place; one that differs is named."""
    asked = compile_source(Source.read(SOURCE_PATH), facts()).facts
    check_facts(asked)
    assert len(asked) > 50
    with pytest.raises(AbiMismatchError) as mismatch:
        check_facts({**asked, "__builtin_offsetof(struct flow_key, netns)": 38})
    assert mismatch.value.differences == [
        "__builtin_offsetof(struct flow_key, netns): expected 40, found 38"
    ]


def opened(program: KernelProgram) -> list[str]:
    """Names of the programs that it loads."""
    with program.load(settings={}, max_entries={"flow_stats_a": 16, "flow_stats_b": 16}) as loaded:
        return sorted(loaded.programs)


ALL = ["tc_egress", "tc_egress_l3", "tc_ingress", "tc_ingress_l3"]


def test_auto_takes_the_packaged_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it loads BCC is not even looked for."""
    monkeypatch.setattr(compiler, "find_module", lambda: pytest.fail("BCC was looked for"))
    assert opened(KernelProgram("auto")) == ALL


@pytest.mark.parametrize("broken", ["missing", "no object", "refused", "other map"])
def test_auto_falls_back(broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    An object that is missing, damaged, refused by the verifier or lacks what is configured: BCC
    steps in, with one line in the log that says why.
    """
    path = tmp_path / "flow.bpf.o"
    if broken == "no object":
        path.write_bytes(b"nonsense")
    elif broken in ("refused", "other map"):
        _damaged(tmp_path, broken, path)
    with caplog.at_level(logging.WARNING):
        assert opened(KernelProgram("auto", path)) == ALL
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("compiled the kernel program with BCC, for the packaged one failed: ")
    assert "\n" not in said


def _damaged(directory: Path, how: str, target: Path) -> None:
    """An object with our types that the kernel, or the fetcher, has no use for."""
    source = directory / "bad.bpf.c"
    entry = "return *(int *)(long)skb->data;" if how == "refused" else "return 0;"
    headers = ("flow_record", "dns_packet", "flow_owner", "socket_event")
    kept = [f'#include "{ROOT}/bpf/abi/{name}.h"' for name in headers]
    kept.append(f'#include "{ROOT}/bpf/maps/counters.h"')
    if how == "refused":
        kept.append(f'#include "{ROOT}/bpf/maps/flow_active.h"')
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        + "\n".join(kept)
        + '\nconst struct counters *const abi_c __attribute__((unused)) = 0;\nSEC("tc") '
        + f'int bad(struct __sk_buff *skb) {{ {entry} }}\nchar L[] SEC("license") = "GPL";\n'
    )
    compile_bpf(source, target)


@pytest.mark.parametrize("loader", ["libbpf", "auto"])
def test_without_a_way_out(loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both reasons in one line where both were tried; the first alone where it was told to."""
    monkeypatch.setattr(compiler, "_PLACES", ())
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(CaptureError) as failed:
        KernelProgram(loader, tmp_path / "flow.bpf.o").load(settings={})
    text = f"the kernel program {tmp_path}/flow.bpf.o is missing: run 'make setup'"
    if loader == "auto":
        text += "; nor by BCC: load BCC: it is not installed: apt install python3-bpfcc"
    assert str(failed.value).startswith(text)
    assert "\n" not in str(failed.value)
    with pytest.raises(FeatureMissing, match=r"^load BCC: it is not installed: "):
        KernelProgram("bcc").load(settings={})


def test_what_is_not_the_objects_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without permission or memory no other program is tried: it would meet the same."""

    def refuse(*_: object, **__: object) -> None:
        raise BpfError("load flow.bpf.o", 1)

    monkeypatch.setattr("exporter.ebpf.object.Object.load", refuse)
    with pytest.raises(BpfError, match="EPERM"):
        KernelProgram("auto").load(settings={})


def test_headers_that_are_not_there() -> None:
    """One line, exit code 1."""
    done = subprocess.run(
        [COMMAND, "replay", "--loader", "bcc", DIRECTORY / "ethernet_tcp.pcap"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "BCC_KERNEL_SOURCE": "/nothing"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "flow-exporter: find kernel headers: BCC_KERNEL_SOURCE=/nothing is not a tree of them"
    ]


@pytest.mark.parametrize("there", [True, False])
def test_doctor_says_what_each_absence_costs(there: bool) -> None:
    """A row for the packaged program and one for BCC."""
    done = subprocess.run(
        [COMMAND, "doctor"], capture_output=True, text=True, check=False,
        env=os.environ if there else {**os.environ, "BCC_KERNEL_SOURCE": "/nothing"},
    )  # fmt: skip
    rows = {row["subject"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert (rows["libbpf"]["answer"], rows["libbpf"]["required"]) == ("yes", True)
    assert rows["kernel program"]["detail"] == str(OBJECT_PATH)
    # Either of them is enough.
    assert rows["kernel program"]["required"] is not there
    assert rows["BCC"]["required"] is False
    assert rows["BCC"]["answer"] == ("yes" if there else "no")
    assert rows["BCC"]["detail"].startswith("module in /usr" if there else "find kernel headers: ")
    assert ("no way out" in rows["BCC"]["advice"]) is not there


def test_the_agent_does_not_grow() -> None:
    """What compiles is another process: none of clang stays in this one."""
    with FlowFetcher(config(loader="bcc", max_flows=16)):
        mapped = Path("/proc/self/maps").read_text()
    assert compiled().programs.keys() == set(ALL)
    assert "libbcc" not in mapped
    assert "libLLVM" not in mapped
