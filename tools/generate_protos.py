"""Regenerate `protocol/proto/generated` from the .proto files beside it; `make proto` runs this.

It writes three things: `descriptors.binpb`, from which `protocol.proto.messages` builds the upb
classes; the type stubs of those classes; and betterproto's dataclasses and service bases. It needs
the `codegen` extra. With `--check` it writes nothing and fails when what is committed is stale.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent.parent / "protocol" / "proto"
GENERATED = PROTO / "generated"
PACKAGE = "protocol.proto.generated"
PLUGIN = "protoc-gen-python_betterproto"

# protoc writes its imports for a flat sys.path; ours stand in a package.
_FLAT_IMPORT = re.compile(r"^import (\w+_pb2) as ", re.MULTILINE)


def sources() -> list[str]:
    return sorted(path.name for path in PROTO.glob("*.proto"))


def generate(target: Path) -> None:
    """Write every generated file into the existing directory `target`.

    Raises ImportError without grpcio-tools, RuntimeError when protoc or its plugin fails.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]  # it has no stubs

    plugin = shutil.which(PLUGIN, path=str(Path(sys.executable).parent)) or shutil.which(PLUGIN)
    if plugin is None:
        raise RuntimeError(f"{PLUGIN} is not installed; install the `codegen` extra")
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"--descriptor_set_out={target / 'descriptors.binpb'}",
        f"--pyi_out={target}",
        f"--plugin={PLUGIN}={plugin}",
        f"--python_betterproto_out={target}",
        *sources(),
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed")
    for stub in target.glob("*_pb2.pyi"):
        text = stub.read_text("utf-8")
        stub.write_text(_FLAT_IMPORT.sub(rf"from {PACKAGE} import \1 as ", text), "utf-8")


def stale(fresh: Path, committed: Path = GENERATED) -> list[str]:
    """The names of files that differ between two generated directories.

    Python is compared as syntax trees, so that a new release of a formatter is no difference.
    """
    names = {
        str(path.relative_to(root))
        for root in (fresh, committed)
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(name for name in names if not _same(fresh / name, committed / name))


def _same(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    if one.suffix not in {".py", ".pyi"}:
        return one.read_bytes() == other.read_bytes()
    trees = [ast.dump(ast.parse(path.read_text("utf-8"))) for path in (one, other)]
    return trees[0] == trees[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only report what is stale")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        if options.check:
            names = stale(fresh)
            for name in names:
                sys.stderr.write(f"{GENERATED / name} is stale: run `make proto`\n")
            return 1 if names else 0
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(fresh, GENERATED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
