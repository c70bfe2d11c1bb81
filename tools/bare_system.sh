#!/usr/bin/env bash
# Install on a bare Debian 13 without a compiler, by each way that needs none, and time it up to the end of `labkit tour`.
# Needs root, debootstrap, bubblewrap and uv:  tools/bare_system.sh FOLDER [MIRROR]; the mirror is by default debootstrap's own.
# FOLDER gets the Debian root (about 300 MB) unless it has one; the installations are removed again.
set -euo pipefail
root=${1:?usage: tools/bare_system.sh FOLDER [MIRROR]}
here=$(cd "$(dirname "$0")/.." && pwd)

if [ ! -e "$root/usr/bin/python3" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$root" ${2:+"$2"}
fi
cp -L --remove-destination /etc/resolv.conf "$root/etc/"
cp -L --remove-destination /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" # a company's own certificates
rm -rf "$root/lab" && mkdir "$root/lab"
(cd / && uv build --quiet --wheel --out-dir "$root/lab" "$here")
cp "$here/prebuilt.txt" "$here/constraints.txt" "$root/lab/"

inside() { # runs a line of shell in the bare system
    bwrap --bind "$root" / --proc /proc --dev /dev --cap-add ALL --die-with-parent /usr/bin/env HOME=/lab/home XDG_CACHE_HOME=/lab/cache PATH=/lab/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -euc "$1"
}

for program in cc c++ gcc g++ clang cmake make; do
    if inside "command -v $program" >/dev/null; then echo "$program is there: not a bare system" >&2; exit 1; fi
done

# llama-cpp-py-sync's Linux libraries need the OpenMP runtime, which most systems have
inside "dpkg -s libgomp1 >/dev/null 2>&1 || { apt-get -qq update && apt-get -qq install -y --no-install-recommends libgomp1; } >/dev/null 2>&1"

ways=(
    "uv, prebuilt|uv venv -q --clear /lab/venv && . /lab/venv/bin/activate && cd /lab && uv pip install -q --no-config -c constraints.txt -r prebuilt.txt --config-settings-package llama-cpp-python:wheel.cmake=false --no-binary llama-cpp-python \"\$(ls /lab/*.whl)[course,prebuilt]\""
    "pip, prebuilt|python3 -m venv /lab/venv && cd /lab && pip install -q --disable-pip-version-check -c constraints.txt -C wheel.cmake=false llama-cpp-python && pip install -q --disable-pip-version-check --require-hashes --no-deps -r prebuilt.txt && pip install -q --disable-pip-version-check -c constraints.txt \"\$(ls /lab/*.whl)[course,prebuilt]\""
)
inside "python3 -m venv /lab/tools && /lab/tools/bin/pip install -q --disable-pip-version-check uv && ln -s /lab/tools/bin/uv /usr/bin/uv 2>/dev/null || true"
for way in "${ways[@]}"; do
    rm -rf "$root/lab/venv" "$root/lab/cache"
    begin=$(date +%s.%N)
    inside "${way#*|}"
    installed=$(date +%s.%N)
    inside "cd /lab && labkit tour > tour.txt"
    end=$(date +%s.%N)
    awk -v way="${way%%|*}" -v a="$begin" -v b="$installed" -v c="$end" \
        'BEGIN { printf "%-14s installed in %.1f s, with labkit tour %.1f s\n", way, b - a, c - a }'
    inside "labkit --version"
done
rm -rf "$root/lab"
