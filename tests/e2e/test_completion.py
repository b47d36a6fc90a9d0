"""What real shells offer at Tab, and that they carry out nothing that a name says."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.cli_completion import SHELLS
from tests import patience
from tests.conftest import missing
from tests.e2e.net import Network

COMMANDS = {"run", "replay", "ledger", "unpin", "observe", "top", "consume", "kube-cache", "doctor",
            "check", "dump-config", "completion"}  # fmt: skip
#: Names of interfaces that some shell would carry out: no slash, no space, fifteen octets.
HOSTILE = ("$(>taken)", "`>taken`", ";>taken", "{>taken}", "(>taken)")
#: Bash calls the function; what it offers is in COMPREPLY.
BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
complete -p flow-exporter >/dev/null || exit 1
$(complete -p flow-exporter | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""
#: Zsh has no way to ask but to press Tab.
ZSH = """\
autoload -Uz compinit; compinit -u -d ./dump
fpath=(. $fpath); autoload -Uz _flow-exporter; compdef _flow-exporter flow-exporter
PS1='ready> '; LISTMAX=1000; unsetopt menu_complete list_beep; setopt no_list_types
zstyle ':completion:*' list-prompt ''
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the script of each shell."""
    directory = tmp_path_factory.mktemp("scripts")
    for shell, name in zip(SHELLS, ("bash", "_flow-exporter", "fish"), strict=True):
        with (directory / name).open("w") as file, redirect_stdout(file):
            assert main(["completion", shell]) == 0
    return directory


def environment(scripts: Path) -> dict[str, str]:
    """Of a shell that has read no file of anybody's."""
    return {"PATH": os.environ["PATH"], "HOME": str(scripts), "ZDOTDIR": str(scripts),
            "TERM": "dumb", "LANG": "C.UTF-8"}  # fmt: skip


def bash(scripts: Path, *words: str, within: Sequence[str] = ()) -> set[str]:
    """What is offered for the last word."""
    done = subprocess.run(
        [*within, "bash", "--norc", "-c", BASH, "bash", "./bash", "flow-exporter", *words],
        capture_output=True, text=True, check=False, cwd=scripts, env=environment(scripts),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return {line.strip() for line in done.stdout.splitlines() if line}


def fish(scripts: Path, *words: str, within: Sequence[str] = ()) -> set[str]:
    """The same; what is offered has a description behind it."""
    if shutil.which("fish") is None:
        missing("fish is not installed: 'make test-setup' installs it")
    line = " ".join(["flow-exporter", *words])
    done = subprocess.run(
        [*within, "fish", "--no-config", "-c", "source ./fish; complete -C $argv[1]", line],
        capture_output=True, text=True, check=False, cwd=scripts, env=environment(scripts),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


def zsh(scripts: Path, *words: str, within: Sequence[str] = ()) -> set[str]:
    """The same; all words that are on the screen after Tab."""
    if shutil.which("zsh") is None:
        missing("zsh is not installed: 'make test-setup' installs it")
    (scripts / ".zshrc").write_text(ZSH)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*within, "zsh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=scripts,
        env={**environment(scripts), "COLUMNS": "200", "LINES": "100"}, start_new_session=True,
    ) as shell:  # fmt: skip
        os.close(theirs)
        read_until(ours, "ready> ")
        # The prompt that comes after the listing ends it; Ctrl-U and an echo end the prompt.
        os.write(ours, " ".join(["flow-exporter", *words]).encode() + b"\t\t")
        os.write(ours, b'\x15echo fin""ished\n')
        shown = read_until(ours, "finished")
        shell.kill()
    os.close(ours)
    return set(shown.replace("\r", "\n").split())


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows, up to a text."""
    shown, end = "", time.monotonic() + patience.LONGEST
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert ready, f"waited in vain for {text!r}: {shown!r}"
        shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


def batched(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Two by two."""
    return zip(names[::2], names[1::2], strict=True)


OFFERS = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_offered(scripts: Path, shell: str) -> None:
    """Every command, the flags of one, the values of a flag, and files."""
    (scripts / "capture.pcap").touch()
    offers = OFFERS[shell]
    assert offers(scripts, "") >= COMMANDS
    assert offers(scripts, "top", "--s") >= {"--sort", "--service"}
    assert "--sink" not in offers(scripts, "top", "--s")
    assert offers(scripts, "top", "--sort", "") >= {"bytes", "packets", "flows", "total"}
    assert offers(scripts, "completion", "") >= set(SHELLS)
    # A value that is anything: nothing of ours is offered, and no shell complains.
    anything = offers(scripts, "run", "--metrics-address", "")
    assert not anything & ({"--sink", *COMMANDS} - {"run"})
    assert not [word for word in anything if "_arguments:" in word]
    assert any("capture.pcap" in word for word in offers(scripts, "replay", "cap"))


@pytest.mark.parametrize("shell", SHELLS)
def test_names_of_interfaces(network: Network, scripts: Path, shell: str) -> None:
    """Those of this namespace, after a comma too; a name that is a command is none."""
    namespace = network.namespace("a")
    for one, other in batched(("port-one", "port-two", "x", *HOSTILE)):
        namespace.ip("link", "add", one, "type", "veth", "peer", "name", other)
    offers, within = OFFERS[shell], namespace.command()
    assert offers(scripts, "run", "--interfaces", "port-", within=within) >= {
        "port-one", "port-two",
    }  # fmt: skip
    some = offers(scripts, "run", "--interfaces", "", within=within)
    assert some >= {"lo", "port-one"}
    assert not some & set(HOSTILE)
    after = offers(scripts, "run", "--interfaces", "port-one,port-t", within=within)
    assert any("port-two" in word for word in after)
    assert not (scripts / "taken").exists()


def test_no_shell_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, with the names that there are."""
    with pytest.raises(SystemExit) as end:
        main(["completion", "tcsh"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert all(shell in said for shell in SHELLS)
    assert len(said.splitlines()) == 1
