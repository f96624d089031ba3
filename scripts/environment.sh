# environment.sh - makes the project's own virtual environment; sourced by the other scripts, run from anywhere.
#
#   layer8_environment run|test     .venv with layer8 built and installed (editable); `test` adds the test extra
#
# Afterwards $root is the repository and $python the environment's interpreter. Nothing is done, and no network is
# needed, when what was installed last is what stands here: a mark in .venv holds the hash of what the build reads.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python

say() { printf 'layer8: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

layer8_python_fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Python 3.11 or newer with venv, pip for it, and the headers that a C module needs.
layer8_python_complete() {
    "$1" -c 'import ensurepip, os, sysconfig, venv
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}

layer8_find_python() {
    local candidate
    for candidate in ${LAYER8_PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if layer8_python_fits "$candidate" && layer8_python_complete "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

layer8_compiler() { command -v "${CC:-cc}" || command -v gcc || command -v clang; }

# What the system has to give. Debian's packages are installed where that can be done without asking; else we say what
# is missing.
layer8_system() {
    local missing=()
    base_python=$(layer8_find_python) || missing+=(python3 python3-venv python3-dev)
    layer8_compiler >/dev/null || missing+=(gcc libc6-dev)
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing ${missing[*]}"
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
            >&2 || fail "apt-get could not install ${missing[*]}"
    fi
    base_python=$(layer8_find_python) || fail "Python 3.11 or newer is needed, with its venv module and its C headers" \
        "(Debian: python3 python3-venv python3-dev); python3 here is $(python3 --version 2>&1 || true)." \
        "LAYER8_PYTHON=/path/to/python chooses another one."
    layer8_compiler >/dev/null || fail "a C compiler is needed (Debian: gcc libc6-dev)."
}

# A browser for the tests of the page; Debian's, because it is kept up to date with the rest of the system.
layer8_chromium() {
    command -v chromium >/dev/null && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        say "installing chromium"
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >&2 || true
    fi
    command -v chromium >/dev/null ||
        fail "the tests of the page need Chromium: apt-get install chromium, or anything of that name in PATH."
}

layer8_hash() { # of all that decides what is installed; the Python files are used in place
    "$python" - "$root" <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256(f"{sys.version} {root}".encode())
build = root / "cffi_build"
for path in sorted([root / "pyproject.toml", root / "scripts" / "environment.sh", root / "layer8" / "version.py", *build.rglob("*.[ch]"), *build.glob("*.txt")]):
    digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
print(digest.hexdigest())
PYTHON
}

# cmake from PyPI when the system has none that is new enough; ninja only together with it.
layer8_build_tools() {
    local version
    version=$({ cmake --version 2>/dev/null || true; } | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    set -- ${version:-0 0}
    if [ "$1" -lt 3 ] || { [ "$1" -eq 3 ] && [ "$2" -lt 22 ]; }; then
        echo "cmake>=3.22"
        command -v ninja >/dev/null || echo ninja
    elif ! command -v ninja >/dev/null && ! command -v make >/dev/null; then
        echo ninja
    fi
}

layer8_pip() { "$python" -m pip --disable-pip-version-check --quiet --no-input "$@" >&2; }

layer8_environment() {
    local extra=$1 mark hash requirement
    if [ -e "$venv" ] && { ! layer8_python_fits "$python" || [ "$(cat "$venv/.layer8-root" 2>/dev/null)" != "$root" ]; }; then
        say "making .venv again: its Python is gone, too old, or the repository has moved"
        rm -rf -- "$venv" "$root"/build/cp* "$root"/build/c-*
    fi
    mkdir -p -- "$root/build"
    if command -v flock >/dev/null; then # two at once take turns
        exec 9>"$root/build/.environment.lock"
        flock 9
    fi
    if [ ! -e "$venv" ]; then
        layer8_system
        say "making .venv with $base_python ($("$base_python" --version 2>&1))"
        "$base_python" -m venv "$venv" || fail "python -m venv failed (Debian: apt install python3-venv)"
        printf '%s\n' "$root" >"$venv/.layer8-root"
    fi
    export PATH="$venv/bin:$PATH"
    hash=$(layer8_hash)
    mark=$venv/.layer8-$extra
    if [ "$(cat "$mark" 2>/dev/null)" != "$hash" ]; then
        layer8_compiler >/dev/null || layer8_system
        say "building and installing (a first time fetches from PyPI)"
        local tools=("scikit-build-core>=0.11" "cffi>=2.1")
        while read -r requirement; do tools+=("$requirement"); done < <(layer8_build_tools)
        layer8_pip install "${tools[@]}" || fail "the build tools could not be installed"
        # Not isolated: so a rebuild needs no network.
        layer8_pip install --no-build-isolation --editable "$root$([ "$extra" = test ] && echo '[test]')" ||
            fail "layer8 could not be built"
        printf '%s\n' "$hash" >"$mark"
        [ "$extra" = run ] || printf '%s\n' "$hash" >"$venv/.layer8-run"
    fi
    exec 9>&- || true
}

# The C core once more, in $1, with the options of cmake that follow.
layer8_core() {
    local directory=$1 generator=()
    shift
    export PATH="$venv/bin:$PATH"
    mkdir -p -- "$directory"
    if [ ! -e "$directory/CMakeCache.txt" ] && [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then
        generator=(-G Ninja)
    fi
    { cmake -S "$root/cffi_build" -B "$directory" "${generator[@]}" -DSKBUILD=ON "$@" \
        -DPython_EXECUTABLE="$python" && cmake --build "$directory" --target _core; } >"$directory.log" 2>&1 ||
        { cat "$directory.log" >&2; fail "the C core did not build with $*"; }
}

# One with the numbered points at which tests kill a process. A Python that has $1 in its search path uses this one in
# place of the installed one; nothing else is different.
layer8_kill_points() {
    local directory=$1
    layer8_core "$directory" -DLAYER8_KILL_POINTS=ON
    cat >"$directory/sitecustomize.py" <<'PYTHON'
import importlib.util
import pathlib
import sys


class KillPoints:
    """The C core of this directory, before any other."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "layer8.dataplane._core":
            return importlib.util.spec_from_file_location(name, pathlib.Path(__file__).with_name("_core.abi3.so"))
        return None


sys.meta_path.insert(0, KillPoints)
PYTHON
}
