"""Stand-ins for the CUDA libraries that PyTorch links against: TEST ONLY, for a node that has no GPU.

PyPI's torch is the CUDA build. It loads gigabytes of libraries that a machine without a GPU never calls. For the CPU test
image this writes, in place of each absent library, an ELF file of a few kilobytes with the right SONAME, symbols and symbol
versions, so that the dynamic linker is content. Every function fails with a status that means "not initialised".
There is no stand-in for libcuda.so.1: its absence is how PyTorch knows that there is no driver. And where the node does have
a driver, the interpreter of such an image refuses to start: nobody is to train for hours on the wrong image.

``Dockerfile`` runs this file in the images' build (stage ``trainer-dependencies-cpu``), hence standard library only.
The format is that of the System V ABI, AMD64 supplement, and of the Linux Standard Base for symbol versions.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

DRIVER = "libcuda.so.1"
SYSTEM_FOLDERS = (Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64"))
MARKER = "TEST-ONLY-CUDA-STANDINS.txt"
REFUSAL = (
    'import os, sys; os.path.exists("/proc/driver/nvidia/version") and ('
    'sys.stderr.write("graft: this image is for tests without a GPU and this node has one; use the published image\\n"), '
    "os._exit(78))\n"
)

_SECTION_DYNAMIC, _SECTION_SYMBOLS, _SECTION_VERSIONS_NEEDED, _SECTION_SYMBOL_VERSIONS = 6, 11, 0x6FFFFFFE, 0x6FFFFFFF
_NEEDED, _HASH, _STRINGS, _SYMBOLS, _STRINGS_SIZE, _SYMBOL_SIZE, _SONAME = 1, 4, 5, 6, 10, 11, 14
_SYMBOL_VERSIONS, _VERSIONS, _VERSION_COUNT = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
_GLOBAL, _FUNCTION, _X86_64, _PAGE = 1, 2, 62, 0x1000
# CUDA libraries have C interfaces: mangled names without a version are libstdc++'s, the others the interpreter's.
_NOT_CUDA = ("_", "Py")
_MESSAGE = b"graft CPU test image: this CUDA library is a stand-in\0"
_FAIL = bytes.fromhex("b801000000c3")  # mov eax, 1; ret -- no CUDA library uses 1 for success
_SAY = bytes.fromhex("488d0501000000c3") + _MESSAGE  # lea rax, [rip + 1]; ret; the message


@dataclass(frozen=True)
class Symbol:
    """An undefined symbol; version and the library it is promised by are None where the linker recorded none."""

    name: str
    version: str | None = None
    library: str | None = None


@dataclass(frozen=True)
class Library:
    """What the dynamic linker would look at in a shared library."""

    path: Path
    needed: tuple[str, ...]
    undefined: tuple[Symbol, ...]
    defined: frozenset[str]


@dataclass(frozen=True)
class _Section:
    kind: int
    link: int
    content: bytes


def write_standins(folder: Path) -> list[str]:
    """Write a stand-in for each library that those in the folder need and that is not installed; returns their names.

    ``folder`` is ``site-packages/torch/lib``, which is the last entry of its libraries' RPATH.
    """
    libraries = [read(path) for path in sorted(folder.glob("*.so*"))]
    # What links the driver is loaded only where there is one.
    libraries = [library for library in libraries if DRIVER not in library.needed]
    wanted = absent_symbols(libraries, _installed(folder))
    for soname, symbols in wanted.items():
        (folder / soname).write_bytes(shared_object(soname, symbols))
    (folder / MARKER).write_text("Test only, never for a node with a GPU. Generated stand-ins:\n" + "".join(f"{name}\n" for name in wanted))
    # A line of a .pth file that begins with `import` runs whenever the interpreter starts (documentation of `site`).
    (folder.parent.parent / "graft_cpu_test_only.pth").write_text(REFUSAL)
    return list(wanted)


def absent_symbols(libraries: list[Library], installed: frozenset[str]) -> dict[str, list[Symbol]]:
    """Absent library -> the symbols it owes.

    A symbol without a version may come from any library that its user needs; it is owed by the one with the likest name.
    """
    defined = frozenset[str]().union(*(library.defined for library in libraries))
    owed: dict[str, set[Symbol]] = {name: set() for library in libraries for name in library.needed if name not in installed}
    for library in libraries:
        absent = [name for name in library.needed if name in owed]
        for symbol in library.undefined:
            if symbol.library in owed:
                owed[symbol.library].add(symbol)
            elif symbol.library is None and absent and symbol.name not in defined and not symbol.name.startswith(_NOT_CUDA):
                owed[max(absent, key=lambda name: _likeness(name, symbol.name))].add(symbol)
    return {name: sorted(symbols, key=lambda symbol: (symbol.name, symbol.version or "")) for name, symbols in sorted(owed.items())}


def read(path: Path) -> Library:
    """Read what the dynamic linker would see. ValueError if it is no 64-bit x86 shared library."""
    image = path.read_bytes()
    if image[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", image, 18)[0] != _X86_64:
        raise ValueError(f"{path}: stand-ins are made for x86-64 only; build with TRAINER_VARIANT=cuda")
    sections = list(_sections(image))
    by_kind = {section.kind: section for section in sections}
    dynamic = by_kind[_SECTION_DYNAMIC]
    names = sections[dynamic.link].content
    needed = tuple(_text(names, value) for tag, value in struct.iter_unpack("<QQ", dynamic.content) if tag == _NEEDED)
    undefined, defined = _symbols(by_kind, sections)
    return Library(path, needed, tuple(undefined), frozenset(defined))


def shared_object(soname: str, symbols: list[Symbol]) -> bytes:
    """An x86-64 shared library that defines the symbols as functions that report failure."""
    strings = _Strings()
    versions = sorted({symbol.version for symbol in symbols if symbol.version})
    table = [struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)]
    text = _PAGE
    for symbol in symbols:
        says = symbol.name.endswith(("String", "StatusName", "ErrorName"))
        address = text + (len(_FAIL) if says else 0)
        table.append(struct.pack("<IBBHQQ", strings.add(symbol.name), _GLOBAL << 4 | _FUNCTION, 0, 1, address, len(_FAIL)))
    indices = [0, *(versions.index(symbol.version) + 2 if symbol.version else 1 for symbol in symbols)]
    name_offset = strings.add(soname)
    definitions = _version_definitions([soname, *versions], strings)
    parts = {
        _HASH: _hash_table([symbol.name for symbol in symbols]),
        _SYMBOLS: b"".join(table),
        _STRINGS: bytes(strings.content),
        _SYMBOL_VERSIONS: struct.pack(f"<{len(indices)}H", *indices),
        _VERSIONS: definitions,
    }
    tags = {_SONAME: name_offset, _STRINGS_SIZE: len(strings.content), _SYMBOL_SIZE: 24, _VERSION_COUNT: len(versions) + 1}
    return _assemble(parts, tags)


def _assemble(parts: dict[int, bytes], tags: dict[int, int]) -> bytes:
    """Lay out three segments: code at page 1, then the tables read only, then the dynamic section, which the linker writes to."""
    tables, addresses = bytearray(), dict(tags)
    for tag, content in parts.items():
        tables += b"\0" * (-len(tables) % 8)
        addresses[tag] = 2 * _PAGE + len(tables)
        tables += content
    dynamic_at = 2 * _PAGE + _aligned(len(tables))
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in addresses.items()) + struct.pack("<QQ", 0, 0)
    code = _FAIL + _SAY
    executable, readable, writable = 5, 4, 6
    segments = (
        (1, executable, _PAGE, len(code)),
        (1, readable, 2 * _PAGE, len(tables)),
        (1, writable, dynamic_at, len(dynamic)),
        (2, writable, dynamic_at, len(dynamic)),
        (0x6474E551, writable, 0, 0),  # PT_GNU_STACK: without it the linker asks for an executable stack
    )
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = identity + struct.pack("<HHIQQQIHHHHHH", 3, _X86_64, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    for kind, flags, address, size in segments:
        header += struct.pack("<IIQQQQQQ", kind, flags, address, address, address, size, size, _PAGE if kind == 1 else 8)
    padded = header.ljust(_PAGE, b"\0") + code.ljust(_PAGE, b"\0") + bytes(tables).ljust(_aligned(len(tables)), b"\0")
    return padded + dynamic


def _version_definitions(names: list[str], strings: _Strings) -> bytes:
    """SHT_GNU_verdef: the first is the library itself, the base version of symbols without one."""
    entries = b""
    for index, name in enumerate(names, start=1):
        last = index == len(names)
        entries += struct.pack("<HHHHIII", 1, 1 if index == 1 else 0, index, 1, elf_hash(name), 20, 0 if last else 28)
        entries += struct.pack("<II", strings.add(name), 0)
    return entries


def _hash_table(names: list[str]) -> bytes:
    buckets, chains = [0] * max(1, len(names)), [0] * (len(names) + 1)
    for index, name in enumerate(names, start=1):
        bucket = elf_hash(name) % len(buckets)
        chains[index], buckets[bucket] = buckets[bucket], index
    return struct.pack(f"<II{len(buckets)}I{len(chains)}I", len(buckets), len(chains), *buckets, *chains)


def elf_hash(name: str) -> int:
    """The hash function of the System V ABI, figure 5-13."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value


class _Strings:
    """A string table; the same string is stored once."""

    def __init__(self) -> None:
        self.content = bytearray(1)
        self._offsets: dict[str, int] = {}

    def add(self, text: str) -> int:
        if text not in self._offsets:
            self._offsets[text] = len(self.content)
            self.content += text.encode() + b"\0"
        return self._offsets[text]


def _sections(image: bytes) -> Iterator[_Section]:
    (offset,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    wanted = (3, _SECTION_DYNAMIC, _SECTION_SYMBOLS, _SECTION_VERSIONS_NEEDED, _SECTION_SYMBOL_VERSIONS)
    for number in range(count):
        _, kind, _, _, start, length, link = struct.unpack_from("<IIQQQQI", image, offset + number * size)
        yield _Section(kind, link, image[start : start + length] if kind in wanted else b"")


def _symbols(by_kind: dict[int, _Section], sections: list[_Section]) -> tuple[list[Symbol], set[str]]:
    table = by_kind[_SECTION_SYMBOLS]
    names = sections[table.link].content
    promised = dict(_versions_needed(by_kind, sections))
    versions = [index & 0x7FFF for (index,) in struct.iter_unpack("<H", by_kind[_SECTION_SYMBOL_VERSIONS].content)]
    undefined: list[Symbol] = []
    defined: set[str] = set()
    for (name, info, _, section, _, _), version in zip(struct.iter_unpack("<IBBHQQ", table.content), versions, strict=True):
        if section:
            defined.add(_text(names, name))
        elif info >> 4 == _GLOBAL:
            library, promised_version = promised.get(version, (None, None))
            undefined.append(Symbol(_text(names, name), promised_version, library))
    return undefined, defined


def _versions_needed(by_kind: dict[int, _Section], sections: list[_Section]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Version index -> (library, version)."""
    section = by_kind.get(_SECTION_VERSIONS_NEEDED)
    if section is None:
        return
    names, at = sections[section.link].content, 0
    while True:
        _, count, library, first, following = struct.unpack_from("<HHIII", section.content, at)
        entry = at + first
        for _ in range(count):
            _, _, index, name, step = struct.unpack_from("<IHHII", section.content, entry)
            yield index & 0x7FFF, (_text(names, library), _text(names, name))
            entry += step
        if not following:
            return
        at += following


def _installed(folder: Path) -> frozenset[str]:
    """Libraries of the system, of torch itself, and of the NVIDIA packages beside it."""
    packaged = (path.name for path in folder.parent.parent.glob("nvidia/**/*.so*"))
    system = (path.name for place in SYSTEM_FOLDERS if place.exists() for path in place.glob("*.so*"))
    return frozenset((*packaged, *system, *(path.name for path in folder.glob("*.so*"))))


def _likeness(soname: str, symbol: str) -> int:
    """How far ``ncclSend`` and ``libnccl.so.2`` agree."""
    pairs = zip(soname.removeprefix("lib").lower(), symbol.lower(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _text(names: bytes, offset: int) -> str:
    return names[offset : names.index(b"\0", offset)].decode()


if __name__ == "__main__":
    print("stand-ins, test only: " + " ".join(write_standins(Path(sys.argv[1]))))
