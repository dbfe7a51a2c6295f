"""Other servers and clients to measure and check Troupe against, installed on demand.

    python bench/peers.py install triton perf_analyzer clients mlserver kserve litserve wrk h2load

Each peer gets a folder of its own under `.peers/` in the repository root, built from PyPI and
Debian packages by their ordinary clients; nothing is installed into the environment that runs
this script. A peer that is complete is left as it is: `--again` rebuilds it. docs/peers.md says
what each one is, why these versions, and which traps the recipes avoid.

Owns the recipes and the paths; `peer_servers.py` starts the servers and `perf_client.py` the
load generator.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".peers"

PYTRITON = "nvidia-pytriton==0.7.0"
# numpy 2 makes Triton's stub answer with empty tensors: docs/peers.md, "Triton".
STUB_NUMPY = "numpy<2"
STUB_PYTHONS = ((3, 9), (3, 12))
PERF_ANALYZERS = ("2.48.0", "2.51.0")
CLIENTS = ("2.41.0", "2.48.0", "2.73.0")
# The oldest clients know neither numpy 2 nor today's protobuf runtime.
CLIENT_EXTRAS = {
    "2.41.0": ("numpy<2", "protobuf<5"),
    "2.48.0": ("numpy<2", "protobuf<6"),
    "2.73.0": (),
}
MLSERVER = ("mlserver==1.7.1", "uvloop<0.22")
KSERVE = ("kserve==0.21.0",)
LITSERVE = ("litserve==0.2.19",)
COMPLETE = "complete"


class CannotInstall(Exception):
    """A recipe cannot work on this machine; the text says what is missing."""


def run(*command: str | Path, directory: Path | None = None) -> None:
    """Runs a command to its end; its output is shown, a failure raises CalledProcessError."""
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=directory)


def base_interpreter() -> Path:
    """The interpreter that this environment was made from: environments of peers start there."""
    return Path(getattr(sys, "_base_executable", sys.executable))


def make_environment(folder: Path, *requirements: str) -> Path:
    """A virtual environment in `folder` with `requirements`; returns its python."""
    run(base_interpreter(), "-m", "venv", folder)
    python = folder / "bin" / "python"
    if requirements:
        run(python, "-m", "pip", "install", "--quiet", *requirements)
    return python


def download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of exactly this requirement, without what it depends on."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
    run(*pip, "--only-binary", ":all:", "--dest", folder, requirement)
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack_wheel(requirement: str, folder: Path, *prefixes: str) -> None:
    """The files of a wheel whose names start with one of `prefixes`, below `folder`."""
    with tempfile.TemporaryDirectory() as downloads:
        wheel = download_wheel(requirement, Path(downloads))
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(prefixes)]
            archive.extractall(folder, names)


def install_triton(folder: Path) -> None:
    """The real Triton server of the PyTriton wheel: Python backend, ensembles, local cache."""
    version = sys.version_info[:2]
    if not STUB_PYTHONS[0] <= version <= STUB_PYTHONS[1]:
        raise CannotInstall("Triton's stub with numpy < 2 needs Python 3.9 to 3.12")
    unpack_wheel(PYTRITON, folder, "pytriton/tritonserver/", "nvidia_pytriton.libs/")
    (folder / "pytriton" / "tritonserver").rename(folder / "tritonserver")
    (folder / "pytriton").rmdir()
    (folder / "nvidia_pytriton.libs").rename(folder / "libs")
    server = folder / "tritonserver"
    # The wheel keeps one stub per Python version apart from the backend; Triton wants the
    # stub, the backend and its utilities side by side.
    stubs = server / "python_backend_stubs"
    stub = stubs / f"{version[0]}.{version[1]}" / "triton_python_backend_stub"
    shutil.copy2(stub, server / "backends" / "python")
    shutil.rmtree(stubs)
    for program in (
        server / "bin" / "tritonserver",
        server / "backends" / "python" / "triton_python_backend_stub",
    ):
        program.chmod(0o755)
    make_environment(folder / "venv", STUB_NUMPY)


def triton_library_path() -> str:
    """LD_LIBRARY_PATH for tritonserver: its own libraries, and this interpreter's libpython.

    Without the second the stub would take whatever libpython the system has.
    """
    return f"{PEERS / 'triton' / 'libs'}:{sysconfig.get_config_var('LIBDIR')}"


def install_perf_analyzer(folder: Path) -> None:
    """The C++ perf_analyzer out of two tritonclient wheels, with the two libraries it lacks."""
    install("triton")
    for version in PERF_ANALYZERS:
        data = f"tritonclient-{version}.data"
        unpack_wheel(f"tritonclient=={version}", folder / version, f"{data}/data/bin/perf_a")
        program = folder / version / data / "data" / "bin" / "perf_analyzer"
        program.chmod(0o755)
        (folder / version / "perf_analyzer").symlink_to(program.relative_to(folder / version))
    (folder / "lib").mkdir()
    for name, pattern in (("libb64.so.0d", "libb64-*"), ("libcudart.so.12", "libcudart-*")):
        (library,) = (PEERS / "triton" / "libs").glob(pattern)
        (folder / "lib" / name).symlink_to(library)


def install_clients(folder: Path) -> None:
    """One environment per tritonclient release that the conformance drivers run in."""
    for version in CLIENTS:
        extras = CLIENT_EXTRAS[version]
        make_environment(folder / version, f"tritonclient[http,grpc]=={version}", *extras)


def install_mlserver(folder: Path) -> None:
    make_environment(folder / "venv", *MLSERVER)


def install_kserve(folder: Path) -> None:
    make_environment(folder / "venv", *KSERVE)


def install_litserve(folder: Path) -> None:
    make_environment(folder / "venv", *LITSERVE)


def unpack_debian(folder: Path, *packages: str) -> None:
    """Debian's packages, unpacked rather than installed: that needs no root and stays here."""
    folder.mkdir(parents=True)
    run("apt-get", "download", *packages, directory=folder)
    for package in folder.glob("*.deb"):
        run("dpkg-deb", "--extract", package, folder / "root")


def install_wrk(folder: Path) -> None:
    unpack_debian(folder, "wrk", "libluajit-5.1-2")


def install_h2load(folder: Path) -> None:
    unpack_debian(folder, "nghttp2-client", "libnghttp2-14", "libev4", "libjemalloc2")


RECIPES: dict[str, Callable[[Path], None]] = {
    "triton": install_triton,
    "perf_analyzer": install_perf_analyzer,
    "clients": install_clients,
    "mlserver": install_mlserver,
    "kserve": install_kserve,
    "litserve": install_litserve,
    "wrk": install_wrk,
    "h2load": install_h2load,
}


def installed(name: str) -> bool:
    return (PEERS / name / COMPLETE).exists()


def install(name: str, *, again: bool = False) -> Path:
    """Builds the peer unless it is complete; returns its folder.

    Raises CannotInstall, or CalledProcessError of the step that failed; an unfinished folder
    is built anew by the next call.
    """
    folder = PEERS / name
    if again or not installed(name):
        PEERS.mkdir(exist_ok=True)
        # The folder ignores itself, so that no tool that asks git walks through it.
        (PEERS / ".gitignore").write_text("*\n")
        shutil.rmtree(folder, ignore_errors=True)
        RECIPES[name](folder)
        (folder / COMPLETE).touch()
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="install the peers of the benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    installer = commands.add_parser("install", help="build peers under .peers/")
    installer.add_argument("names", nargs="+", choices=list(RECIPES), metavar="PEER")
    installer.add_argument("--again", action="store_true", help="rebuild what is complete")
    commands.add_parser("list", help="say which peers are complete")
    options = parser.parse_args()
    if options.command == "list":
        for name in RECIPES:
            print(f"{name:14} {'complete' if installed(name) else 'not installed'}")
        return 0
    for name in options.names:
        try:
            print(f"{name}: {install(name, again=options.again)}")
        except (CannotInstall, subprocess.CalledProcessError) as problem:
            print(f"{name}: {problem}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
