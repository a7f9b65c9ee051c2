"""An Android device for the real `adb` client: a daemon on a loopback port, doing as it is told.

It speaks adbd's protocol (CNXN, AUTH, OPEN, OKAY, WRTE, CLSE; services `shell:`, `shell,v2:` and
`sync:`) and runs the commands in a shell on this machine. `/data/local/tmp` is a scratch folder,
and `getprop` and `dumpsys` are scripts that print what the test has set up. What can go wrong with
a device is set up as well: see `StandIn`.
"""

from __future__ import annotations

import os
import shlex
import socket
import stat
import struct
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

DEVICE_TMP = "/data/local/tmp"
_VERSION, _MAXIMUM = 0x01000001, 256 * 1024
_HEADER = struct.Struct("<4s5I")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)

PHONE = {
    "ro.product.manufacturer": "Stand-in",
    "ro.product.model": "Phone 1",
    "ro.product.cpu.abi": "x86_64",
    "ro.product.cpu.abilist": "x86_64,x86",
    "ro.soc.manufacturer": "Maker",
    "ro.soc.model": "SoC 7",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
}
EMULATOR = {**PHONE, "ro.product.model": "sdk_gphone64", "ro.kernel.qemu": "1"}


@dataclass
class StandIn:
    """One device. Start it with `with`; `serial` is what to `adb connect` to.

    Attributes:
        scratch: the folder that is `/data/local/tmp`, and beside it the device's commands.
        properties: what `getprop` prints.
        thermal_status: what `dumpsys thermalservice` says, one line for each time it is asked; the
            last one stays.
        authorised: False: it asks for a key and never accepts one.
        responding: False: it accepts the connection and says nothing.
        shell_v2: whether it hands on exit codes, as devices since Android 7 do.
        space: bytes that pushed files may take in all.
        environment: variables of what runs on it.
        lost_at: the connection breaks when a command holds this text.
        commands: what it has been told to run, in order.
    """

    scratch: Path
    properties: dict[str, str] = field(default_factory=lambda: dict(PHONE))
    thermal_status: list[int] = field(default_factory=lambda: [0])
    authorised: bool = True
    responding: bool = True
    shell_v2: bool = True
    space: int = 1 << 30
    environment: dict[str, str] = field(default_factory=dict)
    lost_at: str = ""
    commands: list[str] = field(default_factory=list)

    def __enter__(self) -> StandIn:
        self.tmp = self.scratch / "tmp"
        self.tmp.mkdir(parents=True)
        self._write_commands()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._listener.close()
        self.lose()

    def lose(self) -> None:
        """Break every connection, as a pulled cable does; there is no reconnecting."""
        self._closed = True
        with suppress(OSError):
            self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def left_behind(self) -> list[str]:
        """The names in `/data/local/tmp`."""
        return sorted(path.name for path in self.tmp.iterdir())

    def _write_commands(self) -> None:
        folder = self.scratch / "bin"
        folder.mkdir()
        properties = "".join(f"[{key}]: [{value}]\n" for key, value in self.properties.items())
        (self.scratch / "properties").write_text(properties)
        statuses = self.scratch / "thermal"
        statuses.write_text("".join(f"{status}\n" for status in self.thermal_status))
        quoted = shlex.quote(str(statuses))
        scripts = {
            "getprop": f"cat {shlex.quote(str(self.scratch / 'properties'))}",
            # Says the first line, and drops it where another one follows.
            "dumpsys": f'echo "Thermal Status: $(head -n 1 {quoted})"\n'
            f'[ "$(wc -l < {quoted})" -lt 2 ] || sed -i 1d {quoted}',
        }
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        self._path = f"{folder}:{os.environ['PATH']}"

    def _here(self, text: str) -> str:
        return text.replace(DEVICE_TMP, str(self.tmp))

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, EOFError):
            _Connection(self, connection).serve()
        connection.close()


class _Connection:
    """The messages of one connection, sorted by the stream that they belong to."""

    def __init__(self, device: StandIn, connection: socket.socket) -> None:
        self.device, self._socket = device, connection
        self._streams: dict[int, _Stream] = {}
        self._sending = threading.Lock()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        header = _HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, magic)
        with self._sending:
            self._socket.sendall(header + data)

    def serve(self) -> None:
        while True:
            command, first, second, length, _, _ = _HEADER.unpack(self._exactly(_HEADER.size))
            data = self._exactly(length)
            if not self.device.responding:
                continue
            if command in (b"CNXN", b"AUTH"):
                self._greet()
            elif command == b"OPEN":
                stream = _Stream(self, remote=first, local=len(self._streams) + 1)
                self._streams[stream.local] = stream
                service = data.rstrip(b"\0").decode()
                threading.Thread(target=stream.run, args=(service,), daemon=True).start()
            elif stream := self._streams.get(second):
                if command == b"WRTE":
                    stream.received(data)
                    self.send(b"OKAY", stream.local, stream.remote)
                elif command == b"OKAY":
                    stream.ready.release()
                elif command == b"CLSE":
                    stream.closed()

    def _greet(self) -> None:
        if not self.device.authorised:
            self.send(b"AUTH", 1, 0, bytes(range(20)))
            return
        features = ",".join(["cmd", *["shell_v2"] * self.device.shell_v2])
        model = self.device.properties["ro.product.model"].replace(" ", "_")
        banner = f"device::ro.product.name=stand_in;ro.product.model={model};features={features}"
        self.send(b"CNXN", _VERSION, _MAXIMUM, banner.encode())

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            part = self._socket.recv(count - len(found))
            if not part:
                raise EOFError
            found += part
        return bytes(found)


class _Stream:
    """One service that the client has opened."""

    def __init__(self, connection: _Connection, *, remote: int, local: int) -> None:
        self._connection, self.remote, self.local = connection, remote, local
        self.ready = threading.Semaphore(0)
        self._arrived = threading.Condition()
        self._buffer = bytearray()
        self._gone = False

    def received(self, data: bytes) -> None:
        with self._arrived:
            self._buffer += data
            self._arrived.notify()

    def closed(self) -> None:
        with self._arrived:
            self._gone = True
            self._arrived.notify()
        self.ready.release()

    def run(self, service: str) -> None:
        with suppress(OSError, EOFError, ValueError):
            self._connection.send(b"OKAY", self.local, self.remote)
            kind, _, argument = service.partition(":")
            if kind == "sync":
                self._sync()
            elif kind.startswith("shell"):
                self._shell(argument, packets="v2" in kind)
            self._connection.send(b"CLSE", self.local, self.remote)

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), _MAXIMUM):
            self._connection.send(b"WRTE", self.local, self.remote, data[start : start + _MAXIMUM])
            self.ready.acquire()
            if self._gone:
                raise EOFError

    def _read(self, count: int) -> bytes:
        with self._arrived:
            while len(self._buffer) < count:
                if self._gone:
                    raise EOFError
                self._arrived.wait()
            data = bytes(self._buffer[:count])
            del self._buffer[:count]
            return data

    def _shell(self, command: str, *, packets: bool) -> None:
        device = self._connection.device
        device.commands.append(command)
        if device.lost_at and device.lost_at in command:
            device.lose()
            raise EOFError
        process = subprocess.Popen(
            ["/bin/sh", "-c", device._here(command)],
            cwd=device.scratch,
            env={**os.environ, **device.environment, "PATH": device._path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            while data := os.read(process.stdout.fileno(), 4096):
                self._write(_packet(_STDOUT, data) if packets else data)
        finally:
            process.stdout.close()
            code = process.wait()
        if packets:
            self._write(_packet(_EXIT, bytes([code & 0xFF])))

    def _sync(self) -> None:
        while True:
            request, length = struct.unpack("<4sI", self._read(8))
            if request == b"QUIT":
                return
            path = self._read(length).decode()
            if request == b"STAT":
                self._write(b"STAT" + self._stat(path))
            elif request == b"SEND":
                self._save(*path.rsplit(",", 1))
            elif request == b"RECV":
                self._fetch(path)
            else:
                raise ValueError(request)

    def _stat(self, path: str) -> bytes:
        try:
            found = os.stat(self._connection.device._here(path))
        except OSError:
            return struct.pack("<3I", 0, 0, 0)
        return struct.pack("<3I", found.st_mode, found.st_size, int(found.st_mtime))

    def _save(self, path: str, mode: str) -> None:
        device = self._connection.device
        content = bytearray()
        while True:
            kind, length = struct.unpack("<4sI", self._read(8))
            if kind == b"DONE":
                break
            content += self._read(length)
        used = sum(file.stat().st_size for file in device.tmp.rglob("*") if file.is_file())
        target = Path(device._here(path))
        try:
            if used + len(content) > device.space:
                target.write_bytes(content[: max(device.space - used, 0)])
                raise OSError(28, "No space left on device")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(stat.S_IMODE(int(mode)))
        except OSError as error:
            text = f"write failed: {error.strerror}".encode()
            self._write(struct.pack("<4sI", b"FAIL", len(text)) + text)
        else:
            self._write(struct.pack("<4sI", b"OKAY", 0))

    def _fetch(self, path: str) -> None:
        try:
            content = Path(self._connection.device._here(path)).read_bytes()
        except OSError as error:
            text = f"open failed: {error.strerror}".encode()
            self._write(struct.pack("<4sI", b"FAIL", len(text)) + text)
            return
        for start in range(0, len(content), 65536):
            part = content[start : start + 65536]
            self._write(struct.pack("<4sI", b"DATA", len(part)) + part)
        self._write(struct.pack("<4sI", b"DONE", 0))


def _packet(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data
